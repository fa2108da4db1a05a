"""The data of a training: read, divided and checked before anything is trained."""

import logging
from dataclasses import dataclass
from pathlib import Path

from hsi_runtime.camera.calibration import calibration_of
from hsi_runtime.camera.references import References
from hsi_runtime.model.model_file import Bands, Values
from hsi_train import methods, target
from hsi_train.building import decided, with_path
from hsi_train.data import loading
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting.statistics import (
    check_differ,
    check_extremes,
    dark_labels,
    units_apart,
)
from hsi_train.linear.choice import Linear
from hsi_train.measuring import calibration
from hsi_train.method import Problem
from hsi_train.recipe import Recipe, expanded
from hsi_train.run_folder import origin
from hsi_train.run_folder.description import bands_of, values_of
from hsi_train.splitting import blocks, folds, objects, split

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """The data of a job, read, divided and checked before any training.

    Attributes:
        recipe: The recipe, with what the training pixels decide.
        data: Labelled scenes with the roles of their pixels.
        problem: Statistics of the training pixels.
        linear: Discriminants of the linear path; None without one.
        bands: Bands that the model will use.
        values: Values that the model will expect.
        target_data: Target scenes to measure the trained network on.
        digests: SHA-256 of every file that was read.
        data_sha256: That of the files that train, by name.
        caveats: Sentences the user should read.
    """

    recipe: Recipe
    data: LabelledData
    problem: Problem
    linear: Linear | None
    bands: Bands
    values: Values
    target_data: target.Target | None
    digests: dict[Path, str]
    data_sha256: dict[str, str]
    caveats: list[str]


def read(recipe: Recipe) -> Inputs:
    """Read and divide the labelled scenes; check the target's headers and labels."""
    kind = methods.method_class(recipe.method)
    training = origin.training_files(recipe)
    before = origin.stamps({*training, *origin.target_files(recipe)})
    data = divide(recipe, read_data(recipe, kind.halo_of()), kind.receptive_field)
    validated = int(data.pixels_by_role()[:, Role.VALIDATION].sum())
    check_differ(data)
    caveats = [*data.warnings]
    if recipe.split.mode != "all" and data.spectra is not None:
        caveats += objects.caveats(data)
    elif recipe.split.mode != "all":
        caveats += split.caveats(data, kind.halo_of())
        caveats += calibration.caveats(validated)
    logged(caveats)
    for scene in data.scenes:
        name = scene.info.path.name
        caveats += logged(check_extremes(name, scene.cube, scene.valid))
    caveats += logged([*units_apart(data), *dark_labels(data)])
    recipe, message = decided(recipe, data)
    if message is not None:
        caveats += logged([message])
    problem, linear = with_path(recipe, data)
    bands, values = bands_of(data), values_of(recipe, data, problem)
    target_data = None
    if recipe.target is not None:
        target_data = target.check(
            recipe.target, recipe.data, bands, values, data.classes
        )
        logged(target_data.warnings)
    files = origin.digests(before)
    return Inputs(
        recipe=recipe,
        data=data,
        problem=problem,
        linear=linear,
        bands=bands,
        values=values,
        target_data=target_data,
        digests=files,
        data_sha256=origin.by_name({path: files[path] for path in training}),
        caveats=caveats,
    )


def read_data(recipe: Recipe, halo: int) -> LabelledData:
    """Read scenes and labels, or spectra, of a recipe."""
    source, settings = recipe.data, recipe.split
    if source.spectra is not None:
        return loading.load_spectra(source)
    test_labels = settings.files if settings.mode == "test-labels" else ()
    named = source.references
    files = (None if file is None else Path(expanded(str(file))) for file in named)
    return loading.load(
        [expanded(p) for p in source.scenes],
        [expanded(p) for p in source.labels],
        halo,
        source.label_field,
        expanded(source.classes) if source.classes else None,
        source.exclude,
        [expanded(p) for p in test_labels],
        whole=settings.probability_sample,
        calibration=calibration_of(References(*files)),
    )


def divide(recipe: Recipe, data: LabelledData, receptive_field: int) -> LabelledData:
    """Divide the labelled pixels as the recipe says."""
    settings = recipe.split
    if settings.mode == "file":
        paths = [expanded(p) for p in settings.files]
        return split.from_files(data, paths, settings.probability_sample)
    if settings.mode == "all":
        return split.all_train(data)
    if data.spectra is not None and settings.mode == "disjoint":
        return objects.held_out(data, recipe.seed)
    if settings.folds is not None and settings.fold is not None:
        if data.spectra is not None:
            count = settings.folds
            parts = objects.cross_validated(data, count, recipe.seed)
            return parts[settings.fold - 1]
        divided = folds.spatial(data, receptive_field, settings.folds, recipe.seed)
        return divided[settings.fold - 1]
    if settings.mode == "test-labels":
        paths = [expanded(p) for p in settings.files]
        return split.from_test_labels(data, paths)
    if settings.samples_per_class is not None:
        return split.per_class(data, settings.samples_per_class, recipe.seed)
    if settings.train_fraction is not None:
        return split.fraction(data, settings.train_fraction, recipe.seed)
    return blocks.spatial(data, receptive_field, recipe.seed)


def logged(messages: list[str]) -> list[str]:
    """Log messages as warnings, and return them."""
    for message in messages:
        log.warning(message)
    return messages

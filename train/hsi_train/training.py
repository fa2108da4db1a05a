"""The whole way from a recipe to a run folder, on one screen."""

import importlib.metadata
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from hsi_runtime import files
from hsi_runtime.errors import RecipeError
from hsi_runtime.model.model_file import Bands, Values
from hsi_train import methods, target
from hsi_train.building import (
    bears_changes,
    decided,
    new_trainer,
    select,
    with_path,
)
from hsi_train.data import loading
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting import encoder_file, pretrain
from hsi_train.fitting.device import memory_explained, torch_device
from hsi_train.fitting.progress import Epoch
from hsi_train.fitting.statistics import check_extremes
from hsi_train.fitting.trainer import Trainer
from hsi_train.layers import parameter_count
from hsi_train.linear.choice import Linear
from hsi_train.linear.folds import blocked_folds
from hsi_train.measuring import area_estimate, calibration, metrics, prediction_sets
from hsi_train.method import Problem
from hsi_train.recipe import Fit, Recipe, expanded
from hsi_train.report.run_result import RunResult
from hsi_train.rivals import comparing
from hsi_train.run_folder import checkpoint, folder, origin
from hsi_train.run_folder.description import (
    bands_of,
    describe,
    sample_window,
    values_of,
)
from hsi_train.run_folder.scalars import scalars
from hsi_train.splitting import blocks, split

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What is to be trained, and where.

    Attributes:
        recipe: The recipe as it was given.
        run: Folder to write.
        device: Where training runs.
        resume: Continue an interrupted run.
        overwrite: Replace a run that is there.
    """

    recipe: Recipe
    run: Path
    device: torch.device
    resume: bool
    overwrite: bool


@dataclass(frozen=True)
class Inputs:
    """The data of a job, read, divided and checked before any training.

    Attributes:
        recipe: The recipe, with what the training pixels decide.
        data: Labelled scenes with the roles of their pixels.
        problem: Statistics of the training pixels.
        linear: Discriminants of the linear path, if rivals may share them.
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


@memory_explained()
def train(
    recipe: Recipe,
    run: Path,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    after_step: Callable[[int, int, float], None] = lambda *_: None,
    after_epoch: Callable[[Epoch], None] = lambda _: None,
) -> dict[str, Any]:
    """Train one method and write its run folder.

    Args:
        recipe: The recipe; what it leaves open is chosen from the data.
        run: Folder to write.
        device: ``auto``, ``cpu`` or ``cuda``.
        resume: Continue an interrupted run of the same recipe.
        overwrite: Replace a run that is there.
        after_step: Called with finished steps, all steps and the loss.
        after_epoch: Called with each finished epoch.

    Returns:
        The content of ``metrics.json``.

    Raises:
        HsiError: Any of its kinds; an unusable input leaves nothing in ``run``.
    """
    started = time.monotonic()
    job = check(recipe, run, device, resume, overwrite)
    inputs = read(recipe)
    job = replace(job, recipe=inputs.recipe)
    trainer, resolved = build(job, inputs)
    # A resumed run took what its finished epochs took, too.
    started -= fit(job, inputs, resolved, trainer, after_step, after_epoch)
    result = measure(job, inputs, trainer)
    write(job, resolved, inputs, trainer, result, started)
    return result


def check(recipe: Recipe, run: Path, device: str, resume: bool, overwrite: bool) -> Job:
    """Refuse a job that cannot be done, before anything is read."""
    folder.check_folder(run, resume, overwrite)
    if overwrite:
        folder.check_inputs(run, recipe)
    where = torch_device(device)
    kind = methods.method_class(recipe.method)
    methods.check_options(recipe.method, recipe.options)
    if recipe.pretrain is not None and not issubclass(kind, pretrain.Pretrainable):
        raise RecipeError(
            f"{recipe.method} has no encoder to pre-train; leave out "
            "--pretrain-scene, --init and [pretrain]."
        )
    return Job(recipe=recipe, run=run, device=where, resume=resume, overwrite=overwrite)


def read(recipe: Recipe) -> Inputs:
    """Read and divide the labelled scenes; check the target's headers and labels."""
    kind = methods.method_class(recipe.method)
    training = origin.training_files(recipe)
    before = origin.stamps({*training, *origin.target_files(recipe)})
    data = divide(recipe, read_data(recipe, kind.halo_of()), kind.receptive_field)
    validated = int(data.pixels_by_role()[:, Role.VALIDATION].sum())
    caveats = [
        *data.warnings,
        *split.caveats(data, kind.halo_of()),
        *calibration.caveats(validated),
    ]
    logged(caveats)
    for scene in data.scenes:
        check_extremes(scene.info.path.name, scene.cube, scene.valid)
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
        # A rival need not bear what the path of this map does.
        linear=None if bears_changes(recipe) else linear,
        bands=bands,
        values=values,
        target_data=target_data,
        digests=files,
        data_sha256=origin.by_name({path: files[path] for path in training}),
        caveats=caveats,
    )


def build(job: Job, inputs: Inputs) -> tuple[Trainer, Recipe]:
    """Build the method and its trainer, and complete the recipe."""
    recipe = job.recipe
    trainer, settings = new_trainer(recipe, inputs.data, inputs.problem, job.device)
    # No epoch is the method's choice, not one that a recipe may ask for.
    chosen = msgspec.structs.asdict(settings) | {"epochs": settings.epochs or None}
    resolved = msgspec.structs.replace(
        recipe,
        fit=Fit(**chosen),
        options=methods.all_options(recipe.method, recipe.options),
    )
    trainer.origin = origin.origin_of(resolved, inputs.digests, trainer.precision)
    return trainer, resolved


def fit(
    job: Job,
    inputs: Inputs,
    resolved: Recipe,
    trainer: Trainer,
    after_step: Callable[[int, int, float], None],
    after_epoch: Callable[[Epoch], None],
) -> float:
    """Train to the end, or from where an interrupted run stopped.

    Returns:
        Seconds that the epochs of the interrupted run took.
    """
    run, state = job.run, job.run / folder.STATE
    begun = job.resume and state.is_file()
    pretraining = None if begun else open_pretraining(job, trainer)
    folder.prepare_folder(run, resolved, job.resume, job.overwrite)
    if begun:
        trainer.load(state)
    else:
        if pretraining is not None:
            pretraining.run(run, job.resume, after_step)
            # A run from the encoder just kept, by --init, is the same from here on.
            torch.manual_seed(job.recipe.seed)
        trainer.prepare()
        if not trainer.validates:
            state_of_first = run / folder.FIRST_STATE
            select(trainer, job.recipe, inputs.data, state_of_first, after_step)
        # So that an interruption in the first epoch can be resumed.
        trainer.save(state)
    # A crash may have come between the two states.
    (run / encoder_file.PRETRAIN_STATE).unlink(missing_ok=True)
    history = trainer.progress.history
    finished, earlier = len(history), sum(epoch.seconds for epoch in history)
    folder.write_history(run / "history.csv", history)
    with scalars(run / folder.TENSORBOARD, finished) as write_scalars:

        def epoch_done(epoch: Epoch) -> None:
            trainer.save(state)
            folder.write_history(run / "history.csv", trainer.progress.history)
            write_scalars(epoch)
            after_epoch(epoch)

        trainer.run(epoch_done, after_step)
    return earlier


def measure(job: Job, inputs: Inputs, trainer: Trainer) -> dict[str, Any]:
    """Measure the trained network on the test pixels, and calibrate it.

    Returns:
        The content of ``metrics.json``, but for target and seconds.
    """
    recipe, data, method = job.recipe, inputs.data, trainer.method
    caveats = [*inputs.caveats]
    counts = data.pixels_by_role()
    tested = trainer.score(Role.TEST)
    validated = trainer.score(Role.VALIDATION)
    assert validated.places is not None
    folds = blocked_folds(validated.places, validated.classes)
    calibrated = calibration.calibrate(method.probabilities, validated, tested, folds)
    temperature = float(method.probabilities.temperature)
    levels = []
    # Beside training pixels validation is easier than the map.
    if not split.hidden_neighbours(data, method.halo, Role.VALIDATION):
        levels = prediction_sets.set_levels(validated, temperature)
    matrix = tested.confusion()
    adjusted = None
    if recipe.split.probability_sample:
        mapped = trainer.scorer.pixels_by_class(data)
        adjusted, messages = area_estimate.measure(matrix, mapped, data)
        caveats += logged(messages)
    result = {
        "method": recipe.method,
        "seed": recipe.seed,
        "version": importlib.metadata.version("hsi-edge"),
        "classes": [{"code": c.code, "name": c.name} for c in data.classes],
        **metrics.report(matrix, data.classes),
        "counts": {
            role.name.lower(): int(counts[:, role].sum())
            for role in (Role.TRAIN, Role.VALIDATION, Role.TEST, Role.BUFFER)
        },
        "test_pixels_in_training_windows": split.seen_in_training(data, method.halo)[0],
        "receptive_field": method.receptive_field,
        "parameters": parameter_count(method.network),
        "best_epoch": trainer.progress.best_epoch,
        "calibration": calibrated,
        "sets": prediction_sets.measure(levels, tested, temperature),
        "area_adjusted": adjusted,
        "warnings": caveats,
    }
    result["training"] = trainer.summary()
    if (shut := trainer.shut_out) is not None:
        caveats += logged([shut])
    if recipe.rivals != "none":
        rivals, tested_blocks = comparing.measure(
            data,
            method.problem,
            trainer.scorer,
            fitted=inputs.linear,
            every=recipe.rivals == "all",
        )
        result["rivals"] = comparing.report(rivals)
        result["test_blocks"] = tested_blocks._asdict()
        caveats += logged(list(filter(None, [comparing.caveat(rivals)])))
    if recipe.pretrain is not None:
        _, encoder_origin = encoder_file.read_encoder(job.run / encoder_file.ENCODER)
        caveats += logged(pretrain.caveats(encoder_origin, data))
        result["pretraining"] = msgspec.to_builtins(encoder_origin)
    return result


def write(
    job: Job,
    resolved: Recipe,
    inputs: Inputs,
    trainer: Trainer,
    result: dict[str, Any],
    started: float,
) -> None:
    """Write checkpoint, split, metrics and report; complete ``result`` in place."""
    run, data, method = job.run, inputs.data, trainer.method
    description = describe(
        resolved, data, inputs.bands, inputs.values, inputs.data_sha256, result
    )
    sample = sample_window(data, method.halo, inputs.problem.fill)
    checkpoint.save(run, method, description, sample)
    folder.write_splits(run, data)
    folder.write_confusion(run / "confusion.csv", result["confusion"], data)
    if inputs.target_data is not None:
        result["target"] = target.measure(inputs.target_data, trainer.scorer)
    result["seconds"] = time.monotonic() - started
    files.write_text(run / folder.METRICS, json.dumps(result, indent=1) + "\n")

    from hsi_train.report.page import write_report  # imports matplotlib

    write_report(
        run / "report.html",
        RunResult(
            method=method,
            device=job.device,
            data=data,
            progress=trainer.progress,
            metrics=result,
            description=description,
            target_data=inputs.target_data,
        ),
    )
    (run / folder.STATE).unlink(missing_ok=True)


def logged(messages: list[str]) -> list[str]:
    """Log messages as warnings, and return them."""
    for message in messages:
        log.warning(message)
    return messages


def open_pretraining(
    job: Job, trainer: Trainer
) -> pretrain.Pretrainer | pretrain.Reuse | None:
    """Read what the encoder comes from, or return None where it starts at random."""
    recipe, settings = job.recipe, job.recipe.pretrain
    method = trainer.method
    if settings is None or not isinstance(method, pretrain.Pretrainable):
        return None
    if settings.init is not None:
        return pretrain.Reuse(Path(expanded(settings.init)), method, recipe.method)
    paths = [expanded(p) for p in settings.scenes]
    side = settings.outputs + 2 * method.halo
    sources = pretrain.read_sources(paths, side, log.warning)
    return pretrain.Pretrainer(
        method,
        recipe.method,
        sources,
        settings,
        recipe.seed,
        job.device,
        trainer.origin,
    )


def read_data(recipe: Recipe, halo: int) -> LabelledData:
    """Read scenes and labels of a recipe."""
    source, settings = recipe.data, recipe.split
    test_labels = settings.files if settings.mode == "test-labels" else ()
    return loading.load(
        [expanded(p) for p in source.scenes],
        [expanded(p) for p in source.labels],
        halo,
        source.label_field,
        expanded(source.classes) if source.classes else None,
        source.exclude,
        [expanded(p) for p in test_labels],
        whole=settings.probability_sample,
    )


def divide(recipe: Recipe, data: LabelledData, receptive_field: int) -> LabelledData:
    """Divide the labelled pixels as the recipe says."""
    settings = recipe.split
    if settings.mode == "file":
        paths = [expanded(p) for p in settings.files]
        return split.from_files(data, paths, settings.probability_sample)
    if settings.mode == "test-labels":
        paths = [expanded(p) for p in settings.files]
        return split.from_test_labels(data, paths)
    if settings.samples_per_class is not None:
        return split.per_class(data, settings.samples_per_class, recipe.seed)
    if settings.train_fraction is not None:
        return split.fraction(data, settings.train_fraction, recipe.seed)
    return blocks.spatial(data, receptive_field, recipe.seed)

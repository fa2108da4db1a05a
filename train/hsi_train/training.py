"""The whole way from a recipe to a run folder, on one screen."""

import importlib.metadata
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from hsi_runtime import files as whole_file
from hsi_runtime.errors import RecipeError
from hsi_train import methods, recipe, target
from hsi_train.data import labelled_scene
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting import encoder_file, pretrain
from hsi_train.fitting.device import memory_explained, torch_device
from hsi_train.fitting.scalars import scalars
from hsi_train.fitting.statistics import describe_problem
from hsi_train.fitting.trainer import Epoch, Trainer, choose_settings
from hsi_train.fitting.windows import Windows
from hsi_train.layers import parameter_count
from hsi_train.measuring import area_estimate, calibration, metrics
from hsi_train.method import BaseMethod
from hsi_train.recipe import Fit, Recipe
from hsi_train.run_folder import checkpoint, folder
from hsi_train.run_folder.description import (
    bands_of,
    describe,
    sample_window,
    values_of,
)
from hsi_train.splitting import blocks, split

log = logging.getLogger(__name__)


@memory_explained()
def train(
    wanted: Recipe,
    run: Path,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    after_step: Callable[[int, int, float], None] = lambda *_: None,
    after_epoch: Callable[[Epoch], None] = lambda _: None,
) -> dict[str, Any]:
    """Train one method and write its run folder.

    Args:
        wanted: The recipe; what it leaves open is chosen from the data.
        run: Folder to write.
        device: ``auto``, ``cpu`` or ``cuda``.
        resume: Go on with an interrupted run of the same recipe.
        overwrite: Replace a run that is there.
        after_step: Called with finished steps, all steps and the loss.
        after_epoch: Called with each finished epoch.

    Returns:
        The content of ``metrics.json``.

    Raises:
        HsiError: Any of its kinds; nothing is left in ``run`` by an unusable input.
    """
    started = time.monotonic()
    folder.check_folder(run, resume, overwrite)
    if overwrite:
        folder.check_inputs(run, wanted)
    where = torch_device(device)
    kind = methods.method_class(wanted.method)
    methods.check_options(wanted.method, wanted.options)
    if wanted.pretrain is not None and not issubclass(kind, pretrain.Pretrainable):
        raise RecipeError(
            f"{wanted.method} has no encoder to pre-train; leave out "
            "--pretrain-scene, --init and [pretrain]."
        )
    data = divide(wanted, read_data(wanted, kind.halo_of()), kind.receptive_field)
    counts = data.pixels_by_role()
    cautions = [
        *data.warnings,
        *split.caveats(data, kind.halo_of()),
        *calibration.caveats(int(counts[:, Role.VALIDATION].sum())),
    ]
    warned(cautions)
    problem = describe_problem(data)
    windows = Windows(data.scenes, kind.halo_of(), problem.fill)
    bands, values = bands_of(data), values_of(wanted, data, problem)
    aimed = None
    if wanted.target is not None:
        aimed = target.check(wanted.target, wanted.data, bands, values, data.classes)
        warned(aimed.warnings)

    torch.manual_seed(wanted.seed)
    method = methods.build(wanted.method, problem, wanted.options)
    if isinstance(method, pretrain.Pretrainable):
        method.pretrained = wanted.pretrain is not None
    defaults = method.fit_defaults()
    settings = choose_settings(wanted.fit, windows, method.halo, defaults)
    resolved = msgspec.structs.replace(
        wanted,
        # No epoch is the method's choice, not one that a recipe may ask for.
        fit=Fit(
            **msgspec.structs.asdict(settings) | {"epochs": settings.epochs or None}
        ),
        options=methods.all_options(wanted.method, wanted.options),
    )
    trainer = Trainer(method, data, windows, settings, wanted.seed, where)
    begun = resume and (run / folder.STATE).is_file()
    learner = None if begun else open_pretraining(wanted, method, where)
    folder.prepare_folder(run, resolved, resume, overwrite)
    if begun:
        trainer.load(run / folder.STATE)
    else:
        if learner is not None:
            learner.run(run, resume, after_step)
            # A run from the encoder just kept, by --init, is the same from here on.
            torch.manual_seed(wanted.seed)
        method.prepare(windows)
        # So that an interruption in the first epoch can be resumed.
        trainer.save(run / folder.STATE)
        (run / encoder_file.PRETRAIN_STATE).unlink(missing_ok=True)

    finished = len(trainer.progress.history)
    # A resumed run took what its finished epochs took, too.
    started -= sum(epoch.seconds for epoch in trainer.progress.history)
    folder.write_history(run / "history.csv", trainer.progress.history)
    with scalars(run / folder.TENSORBOARD, finished) as write_scalars:

        def epoch_done(epoch: Epoch) -> None:
            trainer.save(run / folder.STATE)
            folder.write_history(run / "history.csv", trainer.progress.history)
            write_scalars(epoch)
            after_epoch(epoch)

        trainer.run(epoch_done, after_step)

    tested = trainer.score(Role.TEST)
    calibrated = calibration.calibrate(
        method.probabilities, trainer.score(Role.VALIDATION), tested
    )
    matrix = tested.confusion()
    adjusted = None
    if wanted.split.probability_sample:
        mapped = trainer.scorer.pixels_by_class(data)
        adjusted, said = area_estimate.measure(matrix, mapped, data)
        cautions += warned(said)
    result = {
        "method": wanted.method,
        "seed": wanted.seed,
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
        "area_adjusted": adjusted,
        "warnings": cautions,
    }
    if wanted.pretrain is not None:
        _, origin = encoder_file.read_encoder(run / encoder_file.ENCODER)
        cautions += warned(pretrain.warnings(origin, data))
        result["pretraining"] = msgspec.to_builtins(origin)
    described = describe(resolved, data, counts, bands, values, result)
    sample = sample_window(data, method.halo, problem.fill)
    checkpoint.save(run, method, described, sample)
    folder.write_splits(run, data)
    folder.write_confusion(run / "confusion.csv", matrix, data)
    if aimed is not None:
        result["target"] = target.measure(aimed, trainer.scorer)
    result["seconds"] = time.monotonic() - started
    whole_file.write_text(run / folder.METRICS, json.dumps(result, indent=1) + "\n")

    from hsi_train.report.page import write_report

    write_report(
        run / "report.html", method, data, trainer.progress,
        result, described, where, aimed,
    )  # fmt: skip
    (run / folder.STATE).unlink(missing_ok=True)
    return result


def warned(sentences: list[str]) -> list[str]:
    """Log the sentences, and hand them on."""
    for sentence in sentences:
        log.warning(sentence)
    return sentences


def open_pretraining(
    wanted: Recipe, method: BaseMethod, device: torch.device
) -> pretrain.Pretrainer | pretrain.Reuse | None:
    """Read what the encoder comes from, or return None where it starts at random."""
    if wanted.pretrain is None or not isinstance(method, pretrain.Pretrainable):
        return None
    if wanted.pretrain.init is not None:
        path = Path(recipe.expanded(wanted.pretrain.init))
        return pretrain.Reuse(path, method, wanted.method)
    paths = [recipe.expanded(p) for p in wanted.pretrain.scenes]
    side = wanted.pretrain.outputs + 2 * method.halo
    sources = pretrain.read_sources(paths, side, log.warning)
    return pretrain.Pretrainer(
        method, wanted.method, sources, wanted.pretrain, wanted.seed, device
    )


def read_data(wanted: Recipe, halo: int) -> LabelledData:
    """Read scenes and labels of a recipe."""
    source, settings = wanted.data, wanted.split
    test_labels = settings.files if settings.mode == "test-labels" else ()
    return labelled_scene.load(
        [recipe.expanded(p) for p in source.scenes],
        [recipe.expanded(p) for p in source.labels],
        halo,
        source.label_field,
        recipe.expanded(source.classes) if source.classes else None,
        source.exclude,
        [recipe.expanded(p) for p in test_labels],
        whole=settings.probability_sample,
    )


def divide(wanted: Recipe, data: LabelledData, receptive_field: int) -> LabelledData:
    """Divide the labelled pixels as the recipe says."""
    settings = wanted.split
    if settings.mode == "file":
        files = [recipe.expanded(p) for p in settings.files]
        return split.from_files(data, files, settings.probability_sample)
    if settings.mode == "test-labels":
        files = [recipe.expanded(p) for p in settings.files]
        return split.from_test_labels(data, files)
    if settings.samples_per_class is not None:
        return split.per_class(data, settings.samples_per_class, wanted.seed)
    if settings.train_fraction is not None:
        return split.fraction(data, settings.train_fraction, wanted.seed)
    return blocks.spatial(data, receptive_field, wanted.seed)

"""The whole way from a recipe to a run folder, on one screen."""

import hashlib
import importlib.metadata
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from hsi_runtime.errors import RecipeError
from hsi_runtime.model_file import Bands, ClassEntry, Provenance, Values
from hsi_train import (
    area_estimate,
    calibration,
    checkpoint,
    encoder_file,
    labelled_scene,
    matlab,
    metrics,
    patches,
    predict,
    pretrain,
    recipe,
    run_folder,
    spatial_split,
    split,
    target,
    whole_file,
)
from hsi_train import method as methods
from hsi_train.device import memory_explained, torch_device
from hsi_train.fit import Epoch, Trainer, choose_settings
from hsi_train.labelled_scene import LabelledData
from hsi_train.layers import parameter_count
from hsi_train.patches import Statistics
from hsi_train.recipe import Fit, Recipe
from hsi_train.scalars import scalars
from hsi_train.split import Role, Roles

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
    run_folder.check_folder(run, resume, overwrite)
    if overwrite:
        run_folder.check_inputs(run, wanted)
    where = torch_device(device)
    kind = methods.method_class(wanted.method)
    methods.check_options(wanted.method, wanted.options)
    if wanted.pretrain is not None and not issubclass(kind, pretrain.Pretrainable):
        raise RecipeError(
            f"{wanted.method} has no encoder to pre-train; leave out "
            "--pretrain-scene, --init and [pretrain]."
        )
    data = read_data(wanted, kind.halo_of())
    splits = divide(wanted, data, kind.receptive_field)
    counts = split.count(data, splits)
    cautions = [
        *data.warnings,
        *split.warnings(data, splits, kind.halo_of()),
        *calibration.warnings(int(counts[:, Role.VALIDATION].sum())),
    ]
    warned(cautions)
    statistics = patches.statistics(data.scenes, splits)
    windows = patches.Windows(data.scenes, splits, kind.halo_of(), statistics.mean)
    bands, values = bands_of(data), values_of(wanted, data, statistics)
    aimed = None
    if wanted.target is not None:
        aimed = target.check(wanted.target, wanted.data, bands, values, data.classes)
        warned(aimed.warnings)

    torch.manual_seed(wanted.seed)
    problem = patches.problem(data.scenes, splits, len(data.classes))
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
    trainer = Trainer(
        method, data, splits, windows, statistics, settings, wanted.seed, where
    )
    begun = resume and (run / run_folder.STATE).is_file()
    learner = None if begun else open_pretraining(wanted, method, where)
    run_folder.prepare_folder(run, resolved, resume, overwrite)
    if begun:
        trainer.load(run / run_folder.STATE)
    else:
        if learner is not None:
            learner.run(run, resume, after_step)
            # A run from the encoder just kept, by --init, is the same from here on.
            torch.manual_seed(wanted.seed)
        method.prepare(windows)
        # So that an interruption in the first epoch can be resumed.
        trainer.save(run / run_folder.STATE)
        (run / run_folder.PRETRAIN_STATE).unlink(missing_ok=True)

    finished = len(trainer.progress.history)
    # A resumed run took what its finished epochs took, too.
    started -= sum(epoch.seconds for epoch in trainer.progress.history)
    run_folder.write_history(run / "history.csv", trainer.progress.history)
    with scalars(run / run_folder.TENSORBOARD, finished) as write_scalars:

        def epoch_done(epoch: Epoch) -> None:
            trainer.save(run / run_folder.STATE)
            run_folder.write_history(run / "history.csv", trainer.progress.history)
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
        mapped = predict.mapped_pixels(
            method.network, data, statistics.mean, method.halo, where
        )
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
        "test_pixels_in_training_windows": split.seen_in_training(
            data, splits, method.halo
        )[0],
        "receptive_field": method.receptive_field,
        "parameters": parameter_count(method.network),
        "best_epoch": trainer.progress.best_epoch,
        "calibration": calibrated,
        "area_adjusted": adjusted,
        "warnings": cautions,
    }
    if wanted.pretrain is not None:
        _, origin = encoder_file.read_encoder(run / run_folder.ENCODER)
        cautions += warned(pretrain.warnings(origin, data))
        result["pretraining"] = msgspec.to_builtins(origin)
    described = describe(resolved, data, counts, bands, values, result)
    sample = sample_window(data, splits, method.halo, statistics.mean)
    checkpoint.save(run, method, described, sample)
    run_folder.write_splits(run, data, splits)
    run_folder.write_confusion(run / "confusion.csv", matrix, data)
    if aimed is not None:
        result["target"] = target.measure(aimed, method.network, method.halo, where)
    result["seconds"] = time.monotonic() - started
    whole_file.write_text(run / run_folder.METRICS, json.dumps(result, indent=1) + "\n")

    from hsi_train.report import write_report

    write_report(
        run / "report.html", method, data, splits, statistics, trainer.progress,
        result, described, where, aimed,
    )  # fmt: skip
    (run / run_folder.STATE).unlink(missing_ok=True)
    return result


def warned(sentences: list[str]) -> list[str]:
    """Log the sentences, and hand them on."""
    for sentence in sentences:
        log.warning(sentence)
    return sentences


def open_pretraining(
    wanted: Recipe, method: methods.BaseMethod, device: torch.device
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


def divide(wanted: Recipe, data: LabelledData, receptive_field: int) -> list[Roles]:
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
    return spatial_split.spatial(data, receptive_field, wanted.seed)


def bands_of(data: LabelledData) -> Bands:
    """Say which bands of which sensor the model will use."""
    info, used = data.reference, data.bands
    return Bands(
        source_count=info.bands,
        used=used.tolist(),
        wavelengths_nm=_chosen(info.wavelengths_nm, used),
        fwhm_nm=_chosen(info.fwhm_nm, used),
    )


def values_of(wanted: Recipe, data: LabelledData, statistics: Statistics) -> Values:
    """Say what values the model will expect."""
    info, used = data.reference, data.bands
    return Values(
        quantity=wanted.data.quantity,
        dtype=info.dtype.name,
        scale=_chosen(info.scale, used),
        offset=_chosen(info.offset, used),
        fill=statistics.mean.tolist(),
    )


def _chosen(
    values: NDArray[np.float64] | None, used: NDArray[np.intp]
) -> list[float] | None:
    return None if values is None else values[used].tolist()


def describe(
    resolved: Recipe,
    data: LabelledData,
    counts: NDArray[np.int64],
    bands: Bands,
    values: Values,
    result: dict[str, Any],
) -> checkpoint.Description:
    """Collect what an exported model must say about itself."""
    sources = [*resolved.data.scenes, *resolved.data.labels, *resolved.split.files]
    if resolved.pretrain is not None:
        given = [recipe.expanded(p) for p in resolved.pretrain.scenes]
        sources += labelled_scene.expand_scenes(given)
        sources += filter(None, [resolved.pretrain.init])
    return checkpoint.Description(
        method=resolved.method,
        options=resolved.options,
        classes=[
            ClassEntry(code=c.code, name=c.name, color=c.color) for c in data.classes
        ],
        bands=bands,
        values=values,
        resolution_m=data.reference.resolution_m,
        reject_below=(result["calibration"] or {}).get("reject"),
        provenance=Provenance(
            version=result["version"],
            seed=resolved.seed,
            recipe=recipe.dump(resolved),
            data_sha256=checksums(sources, data),
            counts={k: result["counts"][k] for k in ("train", "validation", "test")},
            overall_accuracy=result["overall_accuracy"],
            average_accuracy=result["average_accuracy"],
            kappa=result["kappa"],
        ),
    )


def checksums(sources: Sequence[str], data: LabelledData) -> dict[str, str]:
    """Hash every file that was read, by its name, or path where names are the same."""
    paths = {Path(matlab.split_name(recipe.expanded(s))[0]) for s in sources}
    paths |= {s.info.path for s in data.scenes}
    out = {}
    files = sorted(p for p in paths if p.is_file())
    names = [p.name for p in files]
    for path in files:
        name = path.name if names.count(path.name) == 1 else str(path)
        with path.open("rb") as file:
            out[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return out


def sample_window(
    data: LabelledData, splits: list[Roles], halo: int, fill: NDArray[np.float64]
) -> NDArray[Any]:
    """Cut a real window round the first training pixels, as large as the scene gives.

    Missing values are filled, so that the window needs no mask; ``fill`` has the shape
    ``(band,)``.
    """
    number = next(i for i, r in enumerate(splits) if (r == Role.TRAIN).any())
    scene, roles = data.scenes[number], splits[number]
    side = checkpoint.SAMPLE_OUTPUTS + 2 * halo
    row, col = (int(v) for v in np.argwhere(roles == Role.TRAIN)[0])
    rows, cols = scene.valid.shape
    # A scene smaller than the receptive field is continued by mirroring.
    height, width = (max(min(side, n), 2 * halo + 1) for n in (rows, cols))
    top = min(max(row - halo, 0), max(rows - height, 0))
    left = min(max(col - halo, 0), max(cols - width, 0))
    cube = patches.cut_cube(
        scene,
        scene.valid,
        fill.astype(np.float32)[:, None, None],
        (top, top + height),
        (left, left + width),
    )
    if scene.cube.dtype.kind in "iu":
        return np.rint(cube).astype(scene.cube.dtype)
    return cube

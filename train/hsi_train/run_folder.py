"""The folder of a run: what may be overwritten, and the small files in it."""

import csv
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np

from hsi_runtime.errors import OutputError, RecipeError
from hsi_train import checkpoint, matlab, metrics, recipe
from hsi_train.fit import Epoch
from hsi_train.labelled_scene import LabelledData
from hsi_train.rasters import write_raster
from hsi_train.recipe import Recipe
from hsi_train.split import Roles

RECIPE, STATE, METRICS = "recipe.toml", "resume.pt", "metrics.json"
TENSORBOARD = "tensorboard"
ENCODER, PRETRAIN_STATE = "encoder.safetensors", "pretrain.pt"
# What a run folder may hold, exported models included.
OWN_FILES = (
    *(RECIPE, STATE, f"{STATE}.part", METRICS, checkpoint.FILE_NAME, "report.html"),
    *("history.csv", "confusion.csv", "split.tif", "split_*.tif", "model.*"),
    *(TENSORBOARD, ENCODER, PRETRAIN_STATE, f"{PRETRAIN_STATE}.part"),
)


def check_folder(run: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that must not be written, before any work.

    Raises:
        OutputError: It holds a run, or something else, or nothing to resume.
    """
    if run.exists() and not run.is_dir():
        raise OutputError(f"{run} is a file; -o names the folder of the run.")
    if resume:
        if not (interrupted(run) and (run / RECIPE).is_file()):
            raise OutputError(f"{run} holds no interrupted run to resume.")
        return
    occupied = run.is_dir() and any(run.iterdir())
    if occupied and not overwrite:
        hint = "--resume goes on with it; " if interrupted(run) else ""
        raise OutputError(f"{run} is not empty; {hint}--overwrite replaces the run.")
    if occupied and not (run / RECIPE).is_file():
        raise OutputError(
            f"{run} is no run of hsi-train ({RECIPE} is missing), so --overwrite does "
            "not touch it; choose another folder."
        )
    foreign = [
        p.name
        for p in sorted(run.iterdir() if occupied else ())
        if not any(p.match(own) for own in OWN_FILES)
    ]
    if foreign:
        raise OutputError(
            f"{run} holds {', '.join(foreign[:3])}, which --overwrite would delete; "
            "move what is no part of the run, or choose another folder."
        )


def interrupted(run: Path) -> bool:
    """Tell whether a folder holds a training that can go on."""
    return any((run / name).is_file() for name in (STATE, PRETRAIN_STATE))


def check_inputs(run: Path, wanted: Recipe) -> None:
    """Refuse to replace a run that the new one reads from.

    Raises:
        OutputError: A scene, label, class, split or encoder file lies in the folder.
    """
    data = wanted.data
    sources = [*data.scenes, *data.labels, *wanted.split.files, data.classes or ""]
    if wanted.target is not None:
        target = wanted.target
        sources += [*target.scenes, *target.labels, target.classes or ""]
    if wanted.pretrain is not None:
        sources += [*wanted.pretrain.scenes, wanted.pretrain.init or ""]
    for source in filter(None, sources):
        path = Path(matlab.split_name(recipe.expanded(source))[0]).resolve()
        if path.is_relative_to(run.resolve()):
            raise OutputError(
                f"{source} is an input and lies in {run}, which --overwrite would "
                "delete; move it, or choose another folder."
            )


def prepare_folder(run: Path, resolved: Recipe, resume: bool, overwrite: bool) -> None:
    """Create the run folder with its recipe, or check that a resumed one agrees.

    Raises:
        RecipeError: The interrupted run has another recipe.
        OutputError: The folder cannot be written.
    """
    text = recipe.dump(resolved)
    if resume:
        if (run / RECIPE).read_text(encoding="utf-8") != text:
            raise RecipeError(
                f"{run / RECIPE} differs from what is asked for now; resume with the "
                "same settings, or start again with --overwrite."
            )
        return
    try:
        if overwrite and run.is_dir():
            shutil.rmtree(run)
        run.mkdir(parents=True, exist_ok=True)
        (run / RECIPE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{run} cannot be written: {error.strerror}.") from error


def write_history(path: Path, history: list[Epoch]) -> None:
    """Write one line for each finished epoch."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([f.name for f in fields(Epoch)])
        for epoch in history:
            writer.writerow(["" if v is None else v for v in vars(epoch).values()])


def write_confusion(path: Path, matrix: metrics.Confusion, data: LabelledData) -> None:
    """Write the confusion matrix: a row for each true class."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["true \\ predicted", *(c.name for c in data.classes)])
        for info, row in zip(data.classes, matrix, strict=True):
            writer.writerow([info.name, *row.tolist()])


def write_splits(run: Path, data: LabelledData, splits: list[Roles]) -> None:
    """Write each scene's roles as a GeoTIFF on its whole grid."""
    stems = [scene.info.path.stem for scene in data.scenes]
    for number, (scene, roles) in enumerate(zip(data.scenes, splits, strict=True), 1):
        stem = f"_{scene.info.path.stem}" if len(splits) > 1 else ""
        if stems.count(scene.info.path.stem) > 1:
            stem += f"_{number}"
        whole = np.zeros((scene.info.rows, scene.info.cols), dtype=np.uint8)
        height, width = roles.shape
        whole[scene.row : scene.row + height, scene.col : scene.col + width] = roles
        write_raster(run / f"split{stem}.tif", whole, scene.info)

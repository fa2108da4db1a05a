"""The folder of a run: what may be overwritten, and the small files in it."""

import csv
import io
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from hsi_runtime import files
from hsi_runtime.errors import OutputError, RecipeError, reason, resource_error
from hsi_runtime.model.plain_text import plain
from hsi_train import recipe
from hsi_train.data import matlab
from hsi_train.data.labelled_scene import UNLABELLED, LabelledData, Spectra
from hsi_train.data.rasters import write_raster
from hsi_train.data.roles import Role
from hsi_train.fitting.encoder_file import ENCODER, PRETRAIN_STATE
from hsi_train.fitting.progress import Epoch
from hsi_train.recipe import Recipe
from hsi_train.run_folder import checkpoint

RECIPE, STATE, METRICS = "recipe.toml", "resume.pt", "metrics.json"
FIRST_STATE = "resume_first.pt"  # of a training that finds the length
RESUMED = (RECIPE, STATE, PRETRAIN_STATE, FIRST_STATE)  # what --resume reads
TENSORBOARD = "tensorboard"
# What a run folder may hold, exported models included.
OWN_FILES = (
    *(RECIPE, STATE, METRICS, checkpoint.FILE_NAME, "report.html"),
    *(
        "history.csv",
        "confusion.csv",
        "split.csv",
        "split.tif",
        "split_*.tif",
        "model.*",
    ),
    *(TENSORBOARD, ENCODER, PRETRAIN_STATE, FIRST_STATE),
)


def check_folder(run: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that must not be written, before any work.

    Raises:
        OutputError: It holds a run, or something else, or nothing to resume, or cannot
            have that name.
    """
    try:
        os.path.abspath(run).encode()
        run.lstat()
    except UnicodeEncodeError as error:
        shown = plain(os.path.abspath(run))
        raise OutputError(f"The name {shown} is not UTF-8; choose another -o.") from (
            error
        )
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # too long, or with a NUL
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise OutputError(f"{plain(str(run))} cannot be written: {why}.") from error
    if run.exists() and not run.is_dir():
        raise OutputError(f"{run} is a file; -o names the folder of the run.")
    if resume:
        if not (interrupted(run) and (run / RECIPE).is_file()):
            raise OutputError(f"{run} holds no interrupted run to resume.")
        return
    occupied = run.is_dir() and bool(set(run.iterdir()) - {*leftovers(run)})
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
        if not any(p.match(own) for own in OWN_FILES) and p not in leftovers(run)
    ]
    if foreign:
        raise OutputError(
            f"{run} holds {', '.join(foreign[:3])}, which --overwrite would delete; "
            "move what is no part of the run, or choose another folder."
        )


def leftovers(run: Path, *more: str) -> list[Path]:
    """List the files in a folder that a killed run had not finished.

    Args:
        run: The folder.
        more: Names of files that it may hold besides those of a run.
    """
    names = (*OWN_FILES, *more)
    unfinished = [f"{name}.????????{files.PARTIAL}" for name in names]
    return [p for p in run.iterdir() if any(map(p.match, unfinished)) and p.is_file()]


def interrupted(run: Path) -> bool:
    """Return True if a folder holds a training that can be resumed."""
    return any((run / name).is_file() for name in (STATE, PRETRAIN_STATE, FIRST_STATE))


def check_inputs(run: Path, settings: Recipe) -> None:
    """Refuse to replace a run that the new one reads from.

    Raises:
        OutputError: A scene, label, class, split or encoder file lies in the folder.
    """
    data = settings.data
    sources = [*data.scenes, *data.labels, *settings.split.files, data.classes or ""]
    sources += [*(data.spectra or ()), data.bands_of or ""]
    if settings.target is not None:
        target = settings.target
        sources += [*target.scenes, *target.labels, target.classes or ""]
    if settings.pretrain is not None:
        sources += [*settings.pretrain.scenes, settings.pretrain.init or ""]
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
    if resume and (run / RECIPE).read_text(encoding="utf-8") != text:
        raise RecipeError(
            f"{run / RECIPE} differs from what is asked for now; resume with the same "
            "settings, or start again with --overwrite."
        )
    try:
        for path in leftovers(run) if run.is_dir() else ():
            path.unlink(missing_ok=True)
        if resume:
            return
        if overwrite and run.is_dir():
            shutil.rmtree(run)
        run.mkdir(parents=True, exist_ok=True)
        files.write_text(run / RECIPE, text)
    except OSError as error:
        raise resource_error(error) or OutputError(
            f"{run} cannot be written: {error.strerror}."
        ) from error


def write_history(path: Path, history: list[Epoch]) -> None:
    """Write one line for each finished epoch."""
    lines = [["" if v is None else v for v in vars(e).values()] for e in history]
    _write_csv(path, [[f.name for f in fields(Epoch)], *lines])


def write_confusion(
    path: Path, confusion: Sequence[Sequence[int]], data: LabelledData
) -> None:
    """Write a confusion matrix: a row for each true class."""
    names = [c.name for c in data.classes]
    lines = [[n, *row] for n, row in zip(names, confusion, strict=True)]
    _write_csv(path, [["true \\ predicted", *names], *lines])


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    files.write_text(path, text.getvalue())


def _write_split_table(path: Path, data: LabelledData, spectra: Spectra) -> None:
    """Write the class and the role of each spectrum."""
    (scene,) = data.scenes
    labels, roles = scene.classes[:, 0], scene.roles[:, 0]
    lines = [
        [name, data.classes[index].name, Role(role).name.lower()]
        for name, index, role in zip(spectra.names, labels, roles, strict=True)
        if index != UNLABELLED
    ]
    _write_csv(path, [["spectrum", "class", "role"], *lines])


def write_splits(run: Path, data: LabelledData) -> None:
    """Write each scene's roles as a GeoTIFF on its whole grid; of spectra, a table."""
    if data.spectra is not None:
        _write_split_table(run / "split.csv", data, data.spectra)
        return
    groups = data.by_file()
    infos = [parts[0].info for parts in groups]
    stems = [info.path.stem for info in infos]
    for number, (info, parts) in enumerate(zip(infos, groups, strict=True), 1):
        stem = f"_{info.path.stem}" if len(stems) > 1 else ""
        if stems.count(info.path.stem) > 1:
            stem += f"_{number}"
        whole = np.zeros((info.rows, info.cols), dtype=np.uint8)
        for part in parts:
            rows, cols = part.roles.shape
            place = np.s_[part.row : part.row + rows, part.col : part.col + cols]
            whole[place][part.roles != 0] = part.roles[part.roles != 0]
        write_raster(run / f"split{stem}.tif", whole, info)

"""Names every output of a run, and refuses names that must not be written."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from hsi_runtime.errors import OutputError, reason
from hsi_runtime.model.plain_text import plain
from hsi_runtime.output.layers import LAYERS


def paths_of(output: Path) -> dict[str, Path]:
    """Name every output after the class map.

    ``a_classes.tif`` gives ``a_confidence.tif``; ``a.tif`` gives that, too.

    Raises:
        OutputError: The path names a folder.
    """
    if not output.name:
        raise OutputError(f"{output} is a folder; -o names a file.")
    stem = output.stem.removesuffix("_classes")
    return {
        "classes": output,
        "confidence": output.with_name(f"{stem}_confidence.tif"),
        "probabilities": output.with_name(f"{stem}_probabilities.tif"),
        "abundances": output.with_name(f"{stem}_abundances.tif"),
        "sets": output.with_name(f"{stem}_sets.tif"),
        "novelty": output.with_name(f"{stem}_novelty.tif"),
        "preview": output.with_name(f"{stem}_preview.png"),
        "qml": output.with_suffix(".qml"),
        "stac": output.with_suffix(".stac.json"),
    }


def side_car(raster: Path) -> Path:
    """Name the file beside a raster in which GDAL keeps the names of its classes."""
    return raster.with_name(raster.name + ".aux.xml")


def files_of(paths: dict[str, Path], requested: Sequence[str]) -> list[Path]:
    """List every file that a run writes, replaces or deletes.

    Args:
        paths: Path of each output by name.
        requested: Names of the outputs.
    """
    outputs = [paths[name] for name in (*requested, "qml")]
    return outputs + [side_car(paths[name]) for name in requested if name in LAYERS]


def check_outputs(
    outputs: Sequence[Path], inputs: Sequence[Path], overwrite: bool
) -> None:
    """Refuse outputs that must not be written, before any work.

    Raises:
        OutputError: One exists, is an input or another output, is a symbolic link, has
            a name that is not UTF-8, or its folder is not there.
    """
    taken: set[str] = set()
    for path, name in zip(outputs, map(os.path.abspath, outputs), strict=True):
        if name in taken:
            raise OutputError(f"Two outputs would be written to {path}; name another.")
        taken.add(name)
        mode = _mode(path)
        for source in inputs:
            if path.exists() and source.exists() and os.path.samefile(path, source):
                raise OutputError(f"{path} is the input {source}; choose another -o.")
        if path.is_dir():
            raise OutputError(f"{path} is a folder; -o names a file.")
        if stat.S_ISLNK(mode):
            raise OutputError(
                f"{path} is a symbolic link; name the file that it points to, or "
                "remove the link."
            )
        if mode and not stat.S_ISREG(mode):
            raise OutputError(f"{path} is not a regular file; choose another -o.")
        if mode and not overwrite:
            raise OutputError(f"{path} exists; --overwrite replaces it.")
        folder = path.parent
        if not folder.is_dir():
            raise OutputError(f"There is no folder {folder}; create it first.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"The folder {folder} is not writable.")


def _mode(path: Path) -> int:
    """Return type and mode of what has a name, links not followed; 0 for nothing.

    Raises:
        OutputError: No file can have that name.
    """
    try:
        os.path.abspath(path).encode()
        return path.lstat().st_mode
    except UnicodeEncodeError as error:
        shown = plain(os.path.abspath(path))
        raise OutputError(
            f"The name {shown} is not UTF-8; choose another -o, or rename the folder."
        ) from error
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except (OSError, ValueError) as error:  # too long, or with a NUL
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise OutputError(f"{plain(str(path))} cannot be written: {why}.") from error

"""Names every output of a run, and refuses names that must not be written."""

import os
from collections.abc import Sequence
from pathlib import Path

from hsi_runtime.errors import OutputError


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
        "preview": output.with_name(f"{stem}_preview.png"),
        "qml": output.with_suffix(".qml"),
        "stac": output.with_suffix(".stac.json"),
    }


def check_outputs(
    outputs: Sequence[Path], inputs: Sequence[Path], overwrite: bool
) -> None:
    """Refuse outputs that must not be written, before any work.

    Raises:
        OutputError: One exists, is an input or another output, or its folder is not
            there.
    """
    taken: set[str] = set()
    for path, name in zip(outputs, map(os.path.abspath, outputs), strict=True):
        if name in taken:
            raise OutputError(f"Two outputs would be written to {path}; name another.")
        taken.add(name)
        try:
            path.exists()
        except OSError as error:  # such as a name that is too long
            raise OutputError(f"{path} cannot be written: {error.strerror}.") from error
        for source in inputs:
            if path.exists() and source.exists() and os.path.samefile(path, source):
                raise OutputError(f"{path} is the input {source}; choose another -o.")
        if path.is_dir():
            raise OutputError(f"{path} is a folder; -o names a file.")
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists; --overwrite replaces it.")
        folder = path.parent
        if not folder.is_dir():
            raise OutputError(f"There is no folder {folder}; create it first.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"The folder {folder} is not writable.")

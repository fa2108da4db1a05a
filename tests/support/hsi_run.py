"""hsi-run as a process of its own, on a scene of 25 strips."""

import shutil
import sys
from pathlib import Path

SCRIPT = "from hsi_runtime.cli import main; main()"
ROWS, COLS = 600, 500
PIXELS = ROWS * COLS
KINDS = ("", "_confidence", "_probabilities")


def command(folder: Path, output: str, *more: str) -> list[str]:
    """Classify the scene of a folder with its model."""
    return [
        *(sys.executable, "-c", SCRIPT, str(folder / "scene.tif")),
        *("-m", str(folder / "model.onnx"), "-o", str(folder / output)),
        *("--tile", "24", "--confidence", "--probabilities", "--threads", "1"),
        *("--device", "cpu", "--json", *more),
    ]


def assert_same_maps(folder: Path) -> None:
    """Compare ``many.tif`` with ``plain.tif``; nothing unfinished is left."""
    for kind in KINDS:
        made = (folder / f"many{kind}.tif").read_bytes()
        assert made == (folder / f"plain{kind}.tif").read_bytes(), kind
    assert not (folder / "many.tif.hsi-parts").exists()
    assert not (folder / "many.tif.hsi-part").exists()


def start_afresh(folder: Path) -> None:
    """Remove what is there of ``many.tif``."""
    for path in folder.glob("many*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()

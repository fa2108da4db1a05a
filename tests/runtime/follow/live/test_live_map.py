"""The live map: what others map while it grows, and what a dead run leaves."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from hsi_runtime.errors import OutputError
from hsi_runtime.follow.live.live_map import LiveMap
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.output.layers import Canvas, layers

COLS = 9


@pytest.fixture
def open_live(tmp_path: Path, document: ModelDocument) -> Callable[..., LiveMap]:
    def describe(plan: str = "a", resume: bool = True, proved: int = 10**9) -> LiveMap:
        rasters = layers(document, ["classes", "probabilities"])
        content = {"scene": {}, "model": plan}
        return LiveMap(tmp_path / "o.tif", rasters, COLS, content, resume, proved)

    return describe


def values_of(rows: tuple[int, int]) -> dict[str, NDArray[np.uint8]]:
    """Return values that tell their row and band."""
    row = np.arange(*rows, dtype=np.uint8)[None, :, None]
    band = np.arange(3, dtype=np.uint8)[:, None, None]
    classes = np.broadcast_to(
        np.array([2, 3, 7], np.uint8)[row % 3], (1, len(row[0]), COLS)
    )
    shares = np.broadcast_to(row + 50 * band, (3, len(row[0]), COLS))
    return {"classes": classes, "probabilities": shares}


def append(live: LiveMap, rows: tuple[int, int], closed: int | None = None) -> None:
    canvas = Canvas(live.layers, [2, 3, 7], rows[1] - rows[0], COLS)
    canvas.values |= values_of(rows)
    live.append(rows, "classified", closed, canvas.values, canvas.counts())


def filled(open_live: Callable[..., LiveMap]) -> Path:
    """Leave what a run leaves that died after three blocks."""
    with open_live() as live:
        for rows in ((0, 4), (4, 5), (5, 9)):
            append(live, rows)
    return live.folder


def assert_holds(live: LiveMap, rows: int) -> None:
    assert live.rows == rows
    for layer in live.layers:
        expected = values_of((0, rows))[layer.name]
        assert (live.read(layer, (0, rows)) == expected).all()
        path = live.folder / f"{layer.name}.img"
        assert path.stat().st_size == rows * COLS * len(layer.bands)


def test_gdal_reads_classes_names_and_colours_while_it_grows(
    open_live: Callable[..., LiveMap],
) -> None:
    with open_live() as live:
        live.georeference |= {"map info": "UTM, 1, 1, 400000, 58e5, 2, 2, 33, North"}
        for rows in ((0, 4), (4, 9)):
            append(live, rows)
            with rasterio.open(live.folder / "classes.img") as raster:
                assert raster.driver == "ENVI"
                assert raster.shape == (rows[1], COLS)
                assert (raster.read() == values_of((0, rows[1]))["classes"]).all()
                assert raster.nodata == 255
                assert raster.colormap(1)[2] == (0, 0xAA, 0, 255)
                assert raster.transform.c == 400000
            text = (live.folder / "classes.hdr").read_text(encoding="utf-8")
            assert "file type = ENVI Classification" in text
            assert "unclassified, , grass, wet soil, , , , Öl" in text
        with rasterio.open(live.folder / "probabilities.img") as raster:
            assert (raster.read() == values_of((0, 9))["probabilities"]).all()
        live.remove()


def test_a_dead_run_is_taken_over(open_live: Callable[..., LiveMap]) -> None:
    filled(open_live)
    with open_live() as live:
        assert_holds(live, 9)
        append(live, (9, 12))
        assert_holds(live, 12)


def test_only_proved_rows_are_taken_over(open_live: Callable[..., LiveMap]) -> None:
    filled(open_live)
    with open_live(proved=6) as live:
        assert_holds(live, 5)


def test_a_block_that_knew_the_end_is_computed_again(
    open_live: Callable[..., LiveMap],
) -> None:
    with open_live() as live:
        append(live, (0, 4))
        append(live, (4, 6), closed=6)
    with open_live() as live:
        assert_holds(live, 4)


def torn_line(folder: Path) -> None:
    journal = folder / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])


def lost_bytes(folder: Path) -> None:
    with (folder / "classes.img").open("r+b") as file:
        file.truncate(6 * COLS)


def wrong_bytes(folder: Path) -> None:
    with (folder / "probabilities.img").open("r+b") as file:
        file.seek(7 * COLS * 3)
        file.write(b"\xff")


def surplus_bytes(folder: Path) -> None:
    """Values that were written before their line of the journal."""
    for name in ("classes", "probabilities"):
        with (folder / f"{name}.img").open("ab") as file:
            file.write(b"\x05" * 4 * COLS)


@pytest.mark.parametrize(
    ("harm", "rows"),
    [(torn_line, 5), (lost_bytes, 5), (wrong_bytes, 5), (surplus_bytes, 9)],
)
def test_only_whole_blocks_are_taken_over(
    open_live: Callable[..., LiveMap], harm: Callable[[Path], None], rows: int
) -> None:
    harm(filled(open_live))
    with open_live() as live:
        assert_holds(live, rows)
        append(live, (rows, rows + 2))
    with open_live() as live:
        assert_holds(live, rows + 2)


def test_another_plan_is_refused_or_begins_afresh(
    open_live: Callable[..., LiveMap],
) -> None:
    filled(open_live)
    with pytest.raises(OutputError, match="another model"), open_live("b"):
        pass
    with open_live("b", resume=False) as live:
        assert_holds(live, 0)


def test_an_empty_map_leaves_nothing(open_live: Callable[..., LiveMap]) -> None:
    with open_live() as live:
        assert live.folder.is_dir()
    assert not live.folder.exists()


READER = """
import re, sys
from pathlib import Path
import numpy as np

folder, cols = Path(sys.argv[1]), int(sys.argv[2])
seen = looks = 0
print("reading", flush=True)
while seen < 400:
    try:
        text = (folder / "classes.hdr").read_text(encoding="utf-8")
    except FileNotFoundError:
        continue
    lines = int(re.search(r"^lines = (\\d+)$", text, re.M)[1])
    assert lines >= seen, (lines, seen)
    if lines:
        shape = lines, cols
        rows = np.memmap(folder / "classes.img", np.uint8, "r", shape=shape)
        expected = np.array([2, 3, 7], np.uint8)[np.arange(lines) % 3]
        assert (rows == expected[:, None]).all(), lines
        looks += 1
    seen = lines
print("looks", looks)
"""


def test_a_reader_never_sees_a_torn_line(
    open_live: Callable[..., LiveMap], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process maps the raster as its header has it, again and again."""
    with open_live() as live:
        given = [sys.executable, "-c", READER, str(live.folder), str(COLS)]
        with subprocess.Popen(given, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "reading\n"
            for row in range(400):
                append_row(live, row)
            out, _ = reader.communicate(timeout=60)
        assert reader.returncode == 0
        assert out.startswith("looks")
        live.remove()


def append_row(live: LiveMap, row: int) -> None:
    values = {
        "classes": np.full((1, 1, COLS), (2, 3, 7)[row % 3], np.uint8),
        "probabilities": np.zeros((3, 1, COLS), np.uint8),
    }
    canvas = Canvas(live.layers, [2, 3, 7], 1, COLS)
    canvas.values |= values
    live.append((row, row + 1), "classified", None, values, canvas.counts())


def test_a_scene_without_a_place(open_live: Callable[..., LiveMap]) -> None:
    with open_live() as live, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        append(live, (0, 4))
        with rasterio.open(live.folder / "classes.img") as raster:
            assert raster.crs is None
        live.remove()


def test_a_full_disk_keeps_what_is_there(
    open_live: Callable[..., LiveMap], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    from hsi_runtime.errors import ResourceError

    with open_live() as live:
        append(live, (0, 4))

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_live() as live:
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(ResourceError, match="is full"):
            append(live, (4, 9))
        monkeypatch.undo()
    with open_live() as live:
        assert_holds(live, 4)

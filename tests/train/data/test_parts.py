import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hsi_runtime.errors import ResourceError
from hsi_train.data import loading, parts

HUGE = 2**40  # bytes of a pixel: every box is large


@st.composite
def label_maps(draw: st.DrawFn) -> np.ndarray:
    rows, cols = draw(st.integers(1, 700)), draw(st.integers(1, 700))
    codes = np.zeros((rows, cols), dtype=np.uint8)
    for _ in range(draw(st.integers(1, 6))):
        row, col = draw(st.integers(0, rows - 1)), draw(st.integers(0, cols - 1))
        side = draw(st.integers(1, 60))
        codes[row : row + side, col : col + side] = draw(st.integers(1, 5))
    return codes


@settings(max_examples=60, deadline=None)
@given(codes=label_maps(), halo=st.integers(0, 9))
def test_parts_hold_every_label_once_and_lie_apart(
    codes: np.ndarray, halo: int
) -> None:
    found = parts.labelled_parts(codes, halo, HUGE)
    again = np.zeros_like(codes)
    owner = np.full(codes.shape, -1)
    for number, part in enumerate(found):
        rows, cols = part.codes.shape
        place = np.s_[part.row : part.row + rows, part.col : part.col + cols]
        assert again[place].shape == part.codes.shape
        own = part.codes != 0
        assert not again[place][own].any()
        again[place][own] = part.codes[own]
        owner[place][own] = number
        for row, col in np.argwhere(own)[:: max(1, int(own.sum()) // 9)]:
            up, left = part.row + row, part.col + col
            assert up - max(up - halo, 0) <= row
            assert left - max(left - halo, 0) <= col
            assert min(up + halo, codes.shape[0] - 1) < part.row + rows
            assert min(left + halo, codes.shape[1] - 1) < part.col + cols
    np.testing.assert_array_equal(again, codes)
    if len(found) > 1:
        for number in range(len(found)):
            reach = 2 * (2 * halo) + 1  # windows of two pixels meet within it
            near = ndimage.maximum_filter(owner == number, reach, mode="constant")
            assert set(owner[near].tolist()) <= {-1, number}
        assert sum(p.codes.size for p in found) < codes.size / 2


def test_a_small_scene_stays_one_part() -> None:
    codes = np.zeros((900, 900), np.uint8)
    codes[0, 0] = codes[-1, -1] = 1
    (part,) = parts.labelled_parts(codes, 3, 100)
    assert part.codes.shape == (900, 900)
    assert len(parts.labelled_parts(codes, 3, HUGE)) == 2


def test_many_places_make_no_more_parts_than_are_quick() -> None:
    codes = np.zeros((5000, 3000), np.uint8)
    codes[::200, ::200] = 1
    assert len(parts.labelled_parts(codes, 1, HUGE)) <= parts.MAX_PARTS


def far_labels(path: Path, rows: int, cols: int, **profile: Any) -> Path:
    labels = np.zeros((rows, cols), dtype=np.uint8)
    labels[10:40, 10:25], labels[10:40, 25:40] = 1, 2
    labels[-40:-10, -40:-25], labels[-40:-10, -25:-10] = 1, 2
    with rasterio.open(
        path, "w", driver="GTiff", height=rows, width=cols, count=1, dtype="uint8",
        transform=rasterio.Affine(1, 0, 4e5, 0, -1, 5e6), crs="EPSG:32633", **profile,
    ) as file:  # fmt: skip
        file.write(labels, 1)
    return path


def sparse_line(path: Path, rows: int, cols: int, bands: int) -> Path:
    """Write a flight line of which only both ends lie on the disk."""
    rng = np.random.default_rng(0)
    with rasterio.open(
        path, "w", driver="GTiff", height=rows, width=cols, count=bands,
        dtype="uint16", tiled=True, blockxsize=64, blockysize=64, BIGTIFF="YES",
        SPARSE_OK=True, interleave="pixel", compress="deflate",
        transform=rasterio.Affine(1, 0, 4e5, 0, -1, 5e6), crs="EPSG:32633",
    ) as file:  # fmt: skip
        for row, col in ((0, 0), (rows - 64, cols - 64)):
            window = rasterio.windows.Window(col, row, 64, 64)
            values = rng.integers(1, 4000, (bands, 64, 64)).astype(np.uint16)
            values[:, :, 25:] += 3000
            file.write(values, window=window)
    return path


def test_parts_of_a_scene_are_read_divided_and_written_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]
) -> None:
    monkeypatch.setattr(parts, "LARGE", 0)
    scene = sparse_line(tmp_path / "line.tif", 640, 192, 4)
    labels = far_labels(tmp_path / "labels.tif", 640, 192)
    data = loading.load([str(scene)], [str(labels)], 6)
    assert [(s.row, s.col) for s in data.scenes] == [(4, 4), (594, 146)]
    assert data.labelled == [True]
    assert data.counts() == [900, 900]
    run = tmp_path / "run"
    given = ("mf2cnet", "--scene", scene, "--labels", labels, "--epochs", "1")
    few = ("--samples-per-class", "20", "--set", "options.features=4")
    assert cli(*given, *few, "-o", run).code == 0
    with rasterio.open(run / "split.tif") as file:
        roles = file.read(1)
    assert (roles == 1).sum() == 40
    with rasterio.open(labels) as file:
        np.testing.assert_array_equal(roles != 0, file.read(1) != 0)
    again = cli(*given, "--split", run / "split.tif", "-o", tmp_path / "again")
    assert again.code == 0, again.err


def test_what_the_machine_cannot_hold_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = sparse_line(tmp_path / "line.tif", 640, 192, 4)
    labels = far_labels(tmp_path / "labels.tif", 640, 192)
    monkeypatch.setattr(parts, "machine_bytes", lambda: 1_000_000)
    with pytest.raises(ResourceError, match=r"need at least 0\.0 GB.*labelled part"):
        loading.load([str(scene)], [str(labels)], 6)


CODE = """
import sys
import torch
torch.set_num_threads(1)
from hsi_runtime.machine import peak_bytes
from hsi_train.cli import command
command.main(sys.argv[1:], standalone_mode=False)
print(peak_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak as Linux has it")
def test_two_polygons_on_a_flight_line_of_20_gb_need_less_than_2_gb(
    tmp_path: Path,
) -> None:
    rows, cols, bands = 50_000, 1_024, 200  # 20.5 GB
    scene = sparse_line(tmp_path / "line.tif", rows, cols, bands)
    labels = far_labels(tmp_path / "labels.tif", rows, cols, compress="deflate")
    arguments = (
        *("mf2cnet", "--scene", scene, "--labels", labels, "--epochs", 1, "-q"),
        *("--samples-per-class", 20, "--set", "options.features=4"),
        *("--set", "options.hidden=4", "--device", "cpu", "-o", tmp_path / "run"),
    )
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 2e9

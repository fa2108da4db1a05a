"""Every block of a file is decoded once, whatever its size."""

import dataclasses
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin

from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.scenes.array_scene import ArrayScene
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.scene import Cube
from hsi_runtime.walk import memory, windows
from hsi_runtime.walk.decoding import CountedReads, decoded_bytes
from hsi_runtime.walk.strips import read_strips
from hsi_runtime.walk.windows import Window

BAR = 1.05  # bytes decoded for a byte of the file
GB = 1_000_000_000


class Unread(ArrayScene):
    """A scene of one band whose values nobody looks at."""

    def __init__(self, rows: int, cols: int, block: int, interleave: str) -> None:
        super().__init__(np.broadcast_to(np.uint8(1), (1, rows, cols)))
        self.info = dataclasses.replace(
            self.info, block=(block, block), interleave=interleave, mapped=False
        )

    def read(
        self,
        rows: tuple[int, int],
        cols: tuple[int, int],
        bands: NDArray[np.intp],
        out: Cube | None = None,
    ) -> Cube:
        assert out is not None
        return out


@pytest.mark.parametrize("interleave", ["bsq", "bip"])
@pytest.mark.parametrize("cols", [1000, 1536, 4000, 9999, 20_000])
@pytest.mark.parametrize("block", [128, 256, 512])
@pytest.mark.parametrize("limit", [None, 2 * GB])
def test_large_scenes_are_decoded_once(
    document: ModelDocument,
    limit: int | None,
    block: int,
    cols: int,
    interleave: str,
) -> None:
    halo, tile, rows, pixel_bytes = 6, 64, 2100, 400  # 200 bands of uint16
    size, blocks = (rows, cols), (block, block)
    scene = CountedReads(Unread(rows, cols, block, interleave))
    whole = windows.piece_bytes(size, pixel_bytes, blocks, halo, tile)
    pieces = memory.Pieces(whole, block * block * 400 if interleave == "bip" else 0)
    _, budget = memory.tile_and_strip(document, tile, limit, tile, pieces=pieces)
    plan = windows.plan(
        size, Window(0, 0, *size), pixel_bytes, blocks, halo, tile, budget, 32
    )
    for _ in read_strips(scene, np.arange(1), plan, halo):
        pass
    assert rows * cols <= scene.decoded_bytes <= BAR * rows * cols
    # Two pieces in memory, and the rows that wait for the strip below.
    assert plan.strip_bytes <= budget


def test_block_beyond_the_budget_is_decoded_as_rarely_as_it_allows() -> None:
    size, blocks = (2048, 2048), (512, 512)
    scene = CountedReads(Unread(*size, 512, "bsq"))
    times = []
    for budget in (150_000_000, 60_000_000, 20_000_000):
        plan = windows.plan(size, Window(0, 0, *size), 400, blocks, 6, 64, budget)
        assert plan.strip_bytes <= budget
        scene.decoded_bytes = 0
        for _ in read_strips(scene, np.arange(1), plan, 6):
            pass
        times.append(scene.decoded_bytes / 2048**2)
    assert times == [1, 2, 8]


def test_blocks_are_counted_whole_and_as_far_as_the_scene_reaches() -> None:
    info = dataclasses.replace(Unread(100, 90, 32, "bsq").info, bands=5)
    assert decoded_bytes(info, (0, 32), (0, 32), 3) == 32 * 32 * 3
    assert decoded_bytes(info, (31, 33), (0, 1), 3) == 64 * 32 * 3
    assert decoded_bytes(info, (99, 100), (89, 90), 3) == 4 * 26 * 3
    pixel = dataclasses.replace(info, interleave="bip")
    assert decoded_bytes(pixel, (0, 1), (0, 1), 3) == 32 * 32 * 5
    mapped = dataclasses.replace(pixel, mapped=True)
    assert decoded_bytes(mapped, (31, 33), (0, 1), 3) == 2 * 3


def read_from_disk() -> int:
    """Count the bytes that this process has read from files."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


@pytest.mark.parametrize("interleave", ["band", "pixel"])
@pytest.mark.parametrize("block", [128, 256])
def test_gdal_reads_the_file_once(block: int, interleave: str, tmp_path: Path) -> None:
    path, size, bands = tmp_path / "s.tif", (520, 780), 12
    random = np.random.default_rng(0)
    profile: dict[str, Any] = {"height": size[0], "width": size[1], "count": bands}
    profile |= {"tiled": True, "blockxsize": block, "blockysize": block}
    profile |= {"compress": "deflate", "interleave": interleave, "dtype": "uint16"}
    profile["transform"] = from_origin(0, 0, 2, 2)
    with rasterio.open(path, "w", "GTiff", **profile) as file:
        # Noise cannot be compressed: the file is as large as its values.
        file.write(random.integers(0, 2**16, (bands, *size), dtype=np.uint16))
    scene = open_scene(path)
    budget = windows.piece_bytes(size, bands * 2, (block, block), 6, 64)
    plan = windows.plan(
        size, Window(0, 0, *size), bands * 2, (block, block), 6, 64, budget
    )
    assert len(plan.panels) > 2
    before = read_from_disk()
    for _ in read_strips(scene, np.arange(bands), plan, 6):
        pass
    read = read_from_disk() - before
    scene.close()
    blocks = -(-size[0] // block) * -(-size[1] // block)
    blocks *= 1 if interleave == "pixel" else bands
    # GDAL reads whole pages of the file, a piece of one more for each block.
    assert read <= path.stat().st_size + blocks * mmap.PAGESIZE + 100_000

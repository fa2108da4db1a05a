from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.windows import Window

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.geotiff import GeoTiffScene

WriteTiff = Callable[..., Path]
TILED: dict[str, Any] = {"tiled": True, "blockxsize": 16, "blockysize": 16}
INTERLEAVES = ["pixel", "band"]


@pytest.mark.parametrize("interleave", INTERLEAVES)
def test_values_that_need_no_decoding_are_read_without_gdal(
    interleave: str,
    tmp_path: Path,
    write_scene_tiff: WriteTiff,
    cube: NDArray[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", cube, interleave=interleave, **TILED)
    scene = GeoTiffScene(path)
    assert scene.info.mapped
    assert scene.info.read_order is None
    expected = cube[[2, 3, 0], 3:21, 5:31]
    with monkeypatch.context() as patch:
        patch.setattr(scene, "_dataset", None)  # whose `read` would fail
        found = scene.read((3, 21), (5, 31), np.array([2, 3, 0]))
    np.testing.assert_array_equal(found, expected)
    scene.close()


@pytest.mark.parametrize(
    "options",
    [
        TILED | {"compress": "deflate"},
        TILED | {"ENDIANNESS": "BIG"},
        TILED | {"NBITS": 12},
        {"blockysize": 5},
        {"tiled": True, "blockxsize": 32, "blockysize": 16},  # wider than the scene
    ],
)
@pytest.mark.parametrize("interleave", INTERLEAVES)
def test_every_other_layout_reads_alike(
    options: dict[str, Any],
    interleave: str,
    tmp_path: Path,
    write_scene_tiff: WriteTiff,
    cube: NDArray[Any],
) -> None:
    cube = cube % 4096  # what twelve bits hold
    path = write_scene_tiff(tmp_path / "s.tif", cube, interleave=interleave, **options)
    scene = GeoTiffScene(path)
    plain = options.get("blockxsize") == 32
    assert scene.info.mapped == plain
    assert scene.info.read_order == (None if plain else "bsq")
    found = scene.read((3, 21), (5, 31), np.array([2, 3, 0]))
    np.testing.assert_array_equal(found, cube[[2, 3, 0], 3:21, 5:31])
    scene.close()


@pytest.mark.parametrize("interleave", INTERLEAVES)
def test_tiles_that_are_not_in_the_file_are_nodata(
    interleave: str, tmp_path: Path
) -> None:
    path = tmp_path / "s.tif"
    profile = {"width": 40, "height": 40, "count": 3, "dtype": "int16", "nodata": -7}
    profile["transform"] = from_origin(0, 0, 2, 2)
    with rasterio.open(
        path, "w", "GTiff", interleave=interleave, SPARSE_OK=True, **TILED, **profile
    ) as file:
        file.write(np.full((3, 16, 16), 5, np.int16), window=Window(16, 16, 16, 16))
    scene = GeoTiffScene(path)
    expected = np.full((3, 40, 40), -7)
    expected[:, 16:32, 16:32] = 5
    for cols in ((0, 40), (16, 32)):
        found = scene.read((16, 32), cols, np.arange(3))
        np.testing.assert_array_equal(found, expected[:, 16:32, slice(*cols)])
    scene.close()


def test_masked_pixels_are_missing(
    tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", cube, interleave="pixel", **TILED)
    mask = np.full(cube.shape[1:], 255, np.uint8)
    mask[2, 3] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    scene = GeoTiffScene(path)
    assert not scene.info.mapped
    found = scene.read((0, 5), (0, 5), np.arange(4))
    np.testing.assert_array_equal(found[:, 2, 3], scene.info.nodata)
    scene.close()


def test_file_that_shrinks_is_an_error(
    tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", cube, interleave="pixel", **TILED)
    scene = GeoTiffScene(path)
    with path.open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(SceneError, match=r"at byte \d+: the file ends there\. Is"):
        scene.read((0, 23), (0, 31), np.arange(4))
    scene.close()

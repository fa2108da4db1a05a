"""What a scene's own mask or alpha band hides is nodata."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from envi_files import write as write_envi
from hypothesis import given
from hypothesis import strategies as st
from masks import add_mask, write_band_masks
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from hsi_runtime.cli import main
from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.scene import DTYPES, missing_value, valid_pixels

WriteTiff = Callable[..., Path]
CENTRES = (450.0, 550.0, 650.0, 850.0)
SEEN = np.ones((23, 31), dtype=bool)
SEEN[3:9, 20:] = False
SEEN[15, 4] = False
LAYOUTS: tuple[dict[str, Any], ...] = (
    {},
    {"interleave": "pixel"},
    {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"},
    {"BIGTIFF": "YES", "ENDIANNESS": "BIG"},
)


def alpha_last(path: Path) -> Path:
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [*file.colorinterp[:-1], ColorInterp.alpha]
    return path


def read(path: Path) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the whole scene, and which pixels are valid."""
    scene = open_scene(path)
    info = scene.info
    found = scene.read((0, info.rows), (0, info.cols), np.arange(info.bands))
    scene.close()
    assert found.dtype == info.dtype
    return found, valid_pixels(found, info.nodata)


@pytest.mark.parametrize("nodata", [None, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pixels_that_a_mask_hides_are_not_valid(
    dtype: str, nodata: int | None, tmp_path: Path, write_scene_tiff: WriteTiff
) -> None:
    random = np.random.default_rng(3)
    values = random.integers(8, 120, (3, 23, 31)).astype(dtype)
    if np.dtype(dtype).itemsize == 1:  # no value of a byte is missing of itself
        ends = np.iinfo(dtype)
        values[:, 0, :2] = ends.min, ends.max
    values[1, 20, 9] = 7
    path = write_scene_tiff(tmp_path / "s.tif", values, CENTRES[:3], nodata=nodata)
    found, valid = read(add_mask(path, SEEN))
    expected = SEEN.copy()
    expected[20, 9] = nodata is None
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(found[:, valid], values[:, valid])


@pytest.mark.parametrize("options", LAYOUTS)
def test_windows_know_their_part_of_the_mask(
    options: dict[str, Any],
    tmp_path: Path,
    write_scene_tiff: WriteTiff,
    cube: NDArray[Any],
) -> None:
    path = add_mask(write_scene_tiff(tmp_path / "s.tif", cube, **options), SEEN)
    scene = open_scene(path)
    bands = np.array([3, 1])
    for rows, cols in (((0, 23), (0, 31)), ((8, 9), (19, 22)), ((14, 17), (0, 7))):
        part = slice(*rows), slice(*cols)
        shape = cols[1] - cols[0], len(bands), rows[1] - rows[0]
        out = np.empty(shape, np.uint16).transpose(1, 2, 0)
        found = scene.read(rows, cols, bands, out)
        assert found is out
        np.testing.assert_array_equal(scene.read(rows, cols, bands), out)
        valid = valid_pixels(found, scene.info.nodata[bands])
        np.testing.assert_array_equal(valid, SEEN[part])
        np.testing.assert_array_equal(found[:, valid], cube[bands][:, *part][:, valid])
    scene.close()


@pytest.mark.parametrize("bands", [2, 4, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_alpha_band_is_a_mask(
    dtype: str, bands: int, tmp_path: Path, write_scene_tiff: WriteTiff
) -> None:
    values = np.full((bands, 23, 31), 50, dtype)
    values[-1] = np.where(SEEN, 255, 0)
    centres = (*CENTRES, 900.0)[: bands - 1]
    path = write_scene_tiff(tmp_path / "s.tif", values, centres)
    info = open_scene(alpha_last(path)).info
    assert info.bands == bands - 1
    assert info.wavelengths_nm is not None
    assert info.wavelengths_nm.tolist() == list(centres)
    assert info.scale is not None
    assert len(info.scale) == len(info.nodata) == len(info.good) == info.bands
    (note,) = info.notes
    assert f"s.tif: band {bands} is alpha; pixels where it is 0 are nodata" in note
    found, valid = read(path)
    np.testing.assert_array_equal(valid, SEEN)
    assert (found[:, SEEN] == 50).all()


def test_masks_of_single_bands_count_where_the_bands_do(
    tmp_path: Path, cube: NDArray[Any]
) -> None:
    seen = np.broadcast_to(SEEN, cube.shape).copy()
    seen[3] = True
    seen[3, 20, 9] = False
    path = write_band_masks(tmp_path / "s.tif", cube, seen)
    found, valid = read(path)
    np.testing.assert_array_equal(valid, seen.all(axis=0))
    np.testing.assert_array_equal(found[:, valid], cube[:, valid])
    with contextlib.closing(open_scene(path)) as scene:
        window = scene.read((12, 23), (2, 11), np.array([3, 0]))
        expected = seen[[3, 0], 12:, 2:11].all(axis=0)
        found_valid = valid_pixels(window, scene.info.nodata[[3, 0]])
        np.testing.assert_array_equal(found_valid, expected)


def test_mask_counts_beside_an_alpha_band(
    tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    values = cube.copy()
    values[3] = 255
    values[3, 0, 0] = 0
    path = alpha_last(write_scene_tiff(tmp_path / "s.tif", values, CENTRES[:3]))
    _, valid = read(add_mask(path, SEEN))
    expected = SEEN.copy()
    expected[0, 0] = False
    np.testing.assert_array_equal(valid, expected)


def test_band_of_a_wavelength_is_no_alpha_whatever_gdal_calls_it(
    tmp_path: Path, write_scene_tiff: WriteTiff
) -> None:
    values = np.zeros((4, 23, 31), np.uint8)
    path = write_scene_tiff(tmp_path / "s.tif", values)
    with rasterio.open(path) as file:
        assert file.colorinterp[3] == ColorInterp.alpha
    found, valid = read(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, values)
    assert valid.all()


def test_alpha_band_alone_is_no_scene(
    tmp_path: Path, write_scene_tiff: WriteTiff
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", np.ones((1, 3, 3), np.uint8), None)
    with pytest.raises(SceneError, match=r"s\.tif has only alpha bands"):
        open_scene(alpha_last(path))


def test_mask_in_another_file_is_refused(
    tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    path = add_mask(write_scene_tiff(tmp_path / "s.tif", cube), SEEN, inside=False)
    with pytest.raises(SceneError, match=r"s\.tif has its mask in another file, s\.t"):
        open_scene(path)
    # What the message tells the user to do.
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        rasterio.shutil.copy(path, tmp_path / "masked.tif", driver="GTiff")
    _, valid = read(tmp_path / "masked.tif")
    np.testing.assert_array_equal(valid, SEEN)
    data = write_envi(tmp_path)
    for mask in ("scene.img.msk", "scene.img.MSK"):
        (tmp_path / mask).write_bytes(b"")
        for named in (data, tmp_path / "scene.hdr"):
            with pytest.raises(SceneError, match=f"has its mask in .* {mask}"):
                open_scene(named)
        (tmp_path / mask).unlink()


@pytest.mark.parametrize("options", LAYOUTS)
def test_truncation_never_loses_the_mask_in_silence(
    options: dict[str, Any], tmp_path: Path, write_scene_tiff: WriteTiff, cube: Any
) -> None:
    path = add_mask(write_scene_tiff(tmp_path / "s.tif", cube, **options), SEEN)
    whole = path.read_bytes()
    cut = tmp_path / "cut.tif"
    for length in range(len(whole) - 600, len(whole)):
        cut.write_bytes(whole[:length])
        with contextlib.suppress(SceneError):  # nor is the loss of padding one
            _, valid = read(cut)
            np.testing.assert_array_equal(valid, SEEN)


def test_directories_in_a_circle_end(
    tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", cube)
    data = bytearray(path.read_bytes())
    first = int.from_bytes(data[4:8], "little")
    following = first + 2 + 12 * int.from_bytes(data[first : first + 2], "little")
    data[following : following + 4] = first.to_bytes(4, "little")
    path.write_bytes(data)
    assert open_scene(path).info.bands == 4


@pytest.mark.parametrize("window", [(), ("--window", "2,1,28,20")])
def test_map_has_no_class_where_the_scene_is_masked(
    window: tuple[str, ...], place: Any, invoke: Any
) -> None:
    add_mask(place.scene, SEEN)
    invoked = invoke(main, place.scene, "-m", place.model, "-o", "o.tif", *window)
    assert invoked.code == 0
    with rasterio.open("o.tif") as file:
        hidden = file.read(1) == 255
    seen = SEEN[1:21, 2:30] if window else SEEN
    np.testing.assert_array_equal(hidden, ~seen)


@given(st.sampled_from(DTYPES), st.integers(0, 2**32 - 1))
def test_missing_value_is_never_taken_for_real(dtype: str, stored: int) -> None:
    wide, missing = missing_value(np.dtype(dtype))
    real = np.array([stored]).astype(dtype)
    assert real.astype(wide)[0] == real[0]
    cube = np.full((1, 1, 1), missing, wide)
    assert not valid_pixels(cube, np.array([np.nan])).any()
    if np.dtype(dtype).itemsize == 1:
        assert real[0] != missing

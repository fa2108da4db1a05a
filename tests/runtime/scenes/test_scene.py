import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.scene import DTYPES, representable, valid_pixels

WriteTiff = Callable[..., Path]


def test_tiff_and_envi_are_told_apart_by_their_content(
    tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    tiff = write_scene_tiff(tmp_path / "scene.dat", cube)
    big = write_scene_tiff(tmp_path / "big.img", cube, BIGTIFF="YES")
    other = write_scene_tiff(tmp_path / "other.img", cube, ENDIANNESS="BIG")
    for path in (tiff, big, other):
        scene = open_scene(path)
        assert scene.info.driver == "GTiff"
        found = scene.read((3, 9), (5, 20), np.array([2, 0]))
        np.testing.assert_array_equal(found, cube[[2, 0], 3:9, 5:20])
        scene.close()
    assert open_scene(str(tiff)).info.rows == 23


def test_what_is_no_scene_is_named(tmp_path: Path) -> None:
    cases = {
        "text.tif": b"not a tiff",
        "empty.tif": b"",
        "scene.hdr.txt": b"ENV",
        "scene.json": b'{"type": "Feature"}',
        "scene.xml": b"<product/>",
    }
    for name, content in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(SceneError, match="neither a TIFF nor an ENVI"):
            open_scene(path)


@pytest.mark.parametrize("version", [b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file"])
def test_matlab_files_are_sent_to_training(version: bytes, tmp_path: Path) -> None:
    path = tmp_path / "scene.mat"
    path.write_bytes(version.ljust(512) + b"\x89HDF\r\n\x1a\n" + bytes(50))
    with pytest.raises(SceneError, match="convert the cube to GeoTIFF or ENVI"):
        open_scene(path)


@pytest.mark.parametrize(
    "name",
    [
        "nothing.tif",
        "/vsicurl/http://127.0.0.1:9/scene.tif",
        "http://127.0.0.1:9/scene.tif",
        "MEM:::DATAPOINTER=1",
        'HDF5:"scene.h5"://cube',
        "<VRTDataset/>",
        "",
    ],
)
def test_only_files_of_this_machine_are_opened(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rasterio, "open", lambda *_, **__: pytest.fail("GDAL was used"))
    with pytest.raises(SceneError):
        open_scene(name)


def test_folder_pipe_and_hopeless_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="is a folder"):
        open_scene(tmp_path)
    os.mkfifo(tmp_path / "pipe.tif")
    with pytest.raises(SceneError, match="not a regular file"):
        open_scene(tmp_path / "pipe.tif")
    with pytest.raises(SceneError, match="There is no file"):
        open_scene(tmp_path / ("long" * 100 + ".tif"))


def test_names_with_spaces_unicode_and_dashes_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_scene_tiff: WriteTiff,
    cube: NDArray[Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a b.tif", "Größe 水.tif", "-m.tif", "HDF5:x.tif", "a#b?c.tif"):
        write_scene_tiff(tmp_path / "scene.tif", cube).rename(tmp_path / name)
        scene = open_scene(Path(name))
        assert scene.info.bands == 4
        scene.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    path.write_bytes(b"II*\0")
    path.chmod(0)
    with pytest.raises(SceneError, match="cannot be read"):
        open_scene(path)


def test_file_name_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/sc\xe8ne.tif"))
    try:
        path.write_bytes(b"II*\0")
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(SceneError, match="rename"):
        open_scene(path)


@given(
    hnp.arrays(
        np.float32,
        (3, 4, 5),
        elements=st.sampled_from([0.0, -1.0, 7.5, -9999.0, np.nan, np.inf, -np.inf]),
    )
)
def test_pixel_is_valid_only_if_every_band_is(values: NDArray[np.float32]) -> None:
    nodata = np.array([-9999.0, np.nan, 0.0])
    expected = np.isfinite(values).all(axis=0)
    expected &= (values[0] != -9999) & (values[2] != 0)
    np.testing.assert_array_equal(valid_pixels(values, nodata), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nodata_in_any_one_band_masks_the_pixel(dtype: str) -> None:
    fill = 0.0 if dtype.startswith("u") else -1.0
    nodata = np.full(6, fill)
    for band in range(6):
        values = np.full((6, 3, 3), 5, dtype=dtype)
        values[band, 1, 2] = fill
        valid = valid_pixels(values, nodata)
        assert not valid[1, 2]
        assert valid.sum() == 8


def test_values_beyond_float32_are_no_data() -> None:
    values = np.full((1, 1, 3), [[[1.0, -1.7e308, 1e39]]])
    np.testing.assert_array_equal(
        valid_pixels(values, np.array([np.nan])), [[True, False, False]]
    )


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (None, "uint8", np.nan),
        (np.nan, "float32", np.nan),
        (np.nan, "int16", np.nan),
        (-9999.0, "uint16", np.nan),
        (0.5, "int16", np.nan),
        (np.inf, "int16", np.nan),
        (-np.inf, "uint8", np.nan),
        (255.0, "uint8", 255.0),
        (-32768.0, "int16", -32768.0),
        (-1.7976931348623157e308, "float32", np.nan),
        (-3.4028234663852886e38, "float32", -3.4028234663852886e38),
        (-3.40282347e38, "float32", -3.4028234663852886e38),
        (-9999.0, "float64", -9999.0),
    ],
)
def test_nodata_that_a_dtype_cannot_hold_is_none(
    value: float | None, dtype: str, expected: float
) -> None:
    np.testing.assert_equal(representable(value, np.dtype(dtype)), expected)
    values = np.ones((1, 2, 2), dtype=dtype)
    valid_pixels(values, np.array([representable(value, np.dtype(dtype))]))

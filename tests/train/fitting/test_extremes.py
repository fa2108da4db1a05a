from typing import Any

import numpy as np
import pytest

from hsi_runtime.errors import SceneError
from hsi_train.fitting.statistics import check_extremes, extreme_pixels

EVERY = np.ones((9, 11), dtype=bool)


def cube_of(scale: float = 0.3, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(0).uniform(0, scale, (4, 9, 11)).astype(dtype)


@pytest.mark.parametrize("value", [1e30, 3e38, 9.96921e36, -3.4e38, 1e7])
@pytest.mark.parametrize("band", [0, 3])
def test_one_wild_value_is_named(value: float, band: int) -> None:
    cube = cube_of()
    cube[band, 4, 5] = value
    message = rf"a\.tif holds 1 pixel.* in used band {band + 1}, .*nodata"
    with pytest.raises(SceneError, match=message):
        check_extremes("a.tif", cube, EVERY)
    valid = EVERY.copy()
    valid[4, 5] = False
    check_extremes("a.tif", cube, valid)


def test_usual_scenes_pass() -> None:
    assert not check_extremes("a.tif", cube_of(), EVERY)
    assert not check_extremes("a.tif", cube_of(2e5, np.int32), EVERY)
    assert not check_extremes("a.tif", np.full((4, 9, 11), 65534, np.uint16), EVERY)
    assert not check_extremes("a.tif", np.zeros((4, 9, 11), np.float32), EVERY)
    assert not check_extremes("a.tif", cube_of(), ~EVERY)


def test_a_wild_value_in_a_scene_that_is_mostly_zero_is_named() -> None:
    cube = cube_of()
    cube[:, :, :8] = 0
    cube[2, 4, 9] = 1e30
    with pytest.raises(SceneError, match=r"1 pixel.* 1e\+30 in used band 3"):
        check_extremes("a.tif", cube, EVERY)


def test_values_that_may_be_an_undeclared_fill_are_told() -> None:
    cube = cube_of()
    cube[:, :2, :2] = -9999
    (told,) = check_extremes("a.tif", cube, EVERY)
    assert "4 pixel(s) with values such as -9999" in told
    assert "declare them as nodata" in told


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32"])
@pytest.mark.parametrize("fill", [-9999, -999, -32768])
def test_whole_spectra_of_a_fill_value_are_told(fill: int, dtype: str) -> None:
    cube = cube_of(9000, dtype)
    cube[:, :2, :2] = fill
    cube[0, 5, 5] = fill
    (message,) = check_extremes("a.tif", cube, EVERY)
    assert f"4 pixel(s) whose whole spectrum is {fill}, a fill value" in message
    valid = EVERY.copy()
    valid[:2, :2] = False
    assert not check_extremes("a.tif", cube, valid)


def test_pixels_that_would_be_refused() -> None:
    cube, wild = cube_of(), ~EVERY
    cube[1, 3, 4], cube[0, 5, 6], cube[2, 7, 8] = 1e30, -1e20, 2.0
    wild[3, 4] = wild[5, 6] = True
    np.testing.assert_array_equal(extreme_pixels(cube, EVERY), wild)
    assert not extreme_pixels(cube, ~EVERY).any()


def test_bands_of_very_different_size_pass() -> None:
    """Such as principal components, or bands that are zero nearly everywhere."""
    cube = cube_of() * np.array([1e6, 1, 1e-4, 0], np.float32)[:, None, None]
    cube[3, 0, 0] = 5.0
    check_extremes("a.tif", cube - cube.mean(axis=(1, 2), keepdims=True), EVERY)

from typing import Any

import numpy as np
import pytest

from hsi_runtime.errors import SceneError
from hsi_train.fitting.statistics import check_extremes

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
    check_extremes("a.tif", cube_of(), EVERY)
    check_extremes("a.tif", cube_of(2e5, np.int32), EVERY)
    check_extremes("a.tif", np.full((4, 9, 11), 65535, np.uint16), EVERY)
    check_extremes("a.tif", np.zeros((4, 9, 11), np.float32), EVERY)
    check_extremes("a.tif", cube_of(), ~EVERY)


def test_bands_of_very_different_size_pass() -> None:
    """Such as principal components, or bands that are zero nearly everywhere."""
    cube = cube_of() * np.array([1e6, 1, 1e-4, 0], np.float32)[:, None, None]
    cube[3, 0, 0] = 5.0
    check_extremes("a.tif", cube - cube.mean(axis=(1, 2), keepdims=True), EVERY)

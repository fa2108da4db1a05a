from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from hsi_runtime.matching.missing import FILLS, Missing
from hsi_runtime.scenes.scene import DTYPES, valid_pixels


def missing(**known: Any) -> Missing:
    return Missing(path=Path("s.tif"), nodata=np.full(5, np.nan), **known)


def scene(dtype: str = "float32") -> NDArray[Any]:
    values = np.random.default_rng(0).uniform(1, 100, (5, 4, 6))
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fill", FILLS)
def test_whole_spectra_of_a_fill_value_are_missing(fill: float, dtype: str) -> None:
    cube = scene(dtype)
    limits = np.finfo(dtype) if cube.dtype.kind == "f" else np.iinfo(dtype)
    if not float(limits.min) <= fill <= float(limits.max):
        return
    cube[:, 1, 2] = fill
    cube[:4, 2, 3] = fill  # not all of a spectrum
    expected = np.ones((4, 6), bool)
    expected[1, 2] = False
    if dtype in ("uint16", "int16") and fill == np.iinfo(dtype).max:
        expected[2, 3] = False  # saturated
    np.testing.assert_array_equal(missing().valid(cube), expected)


@pytest.mark.parametrize("value", [0.0, 0.4, 3.9, -0.3])
def test_one_value_in_all_bands_that_the_model_knows_is_a_measurement(
    value: float,
) -> None:
    cube = scene() / 100
    cube[:, 1, 2] = value
    assert missing(usual=0.4).valid(cube).all()


@pytest.mark.parametrize("value", [-0.9999, -3.2768, 6.5535, 9999.0, -1.0])
def test_fill_values_that_were_scaled(
    value: float, caplog: pytest.LogCaptureFixture
) -> None:
    cube, known = scene() / 100, missing(usual=0.4)
    cube[:, 1, 2] = value
    cube[:, 3, 5] = value
    valid = known.valid(cube)
    assert not valid[1, 2]
    assert not valid[3, 5]
    assert valid.sum() == 22
    known.valid(cube)
    (record,) = caplog.records  # once a scene
    assert record.getMessage() == (
        f"s.tif holds whole spectra of {np.float32(value):g}, a fill value that "
        "nothing declares; these pixels are nodata in the map. Declare it as nodata."
    )


def test_wild_values_are_told_and_declared_ones_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cube = scene()
    cube[2, 1, 2], cube[0, 0, 0] = 1e30, -9999
    declared = Missing(path=Path("s.tif"), nodata=np.full(5, -9999.0), largest=1e8)
    cube[0, 0, 1] = np.nan
    assert declared.valid(cube[:, :1]).sum() == 4
    assert not caplog.records
    assert declared.valid(cube).sum() == 21
    assert "s.tif holds values of 1e+30, a fill value" in caplog.text


def test_many_spectra_of_zero_are_said_once_and_classified(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cube = np.ones((5, 40, 30), np.uint16)
    cube[:, 3, :15] = 0
    cube[:4, 5:20] = 0
    known = missing()
    assert known.valid(cube).all()
    assert not caplog.records
    cube[:, 4:6] = 0
    for _ in range(2):
        assert known.valid(cube).all()
    (record,) = caplog.records
    assert record.getMessage() == (
        "s.tif holds many spectra that are 0 in all bands. They are classified like "
        "any other; if they lie outside the scene, declare 0 as nodata."
    )
    declared = Missing(path=Path("s.tif"), nodata=np.zeros(5))
    assert declared.valid(cube).sum() == 1200 - 16 * 30 - 15
    cube[:, 39, 29] = 65535
    cube = cube.astype(np.float32)
    cube[:, 39, 28] = -9999
    assert not known.valid(cube)[39, 28]  # still told
    assert "s.tif holds whole spectra of -9999" in caplog.text


def test_few_bands_are_no_spectrum() -> None:
    cube = scene()[:2]
    cube[:, 1, 2] = -9999
    assert Missing(nodata=np.full(2, np.nan)).valid(cube).all()


@given(
    hnp.arrays(
        np.int16, (3, 4, 5), elements=st.sampled_from([-9999, -99, 0, 7, -32768])
    )
)
def test_no_other_pixels_are_missing(cube: NDArray[np.int16]) -> None:
    nodata = np.full(3, 7.0)
    flat = (cube == cube[0]).all(axis=0) & np.isin(cube[0], FILLS)
    expected = valid_pixels(cube, nodata) & ~flat
    np.testing.assert_array_equal(Missing(nodata=nodata).valid(cube), expected)

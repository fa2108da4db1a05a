import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hsi_runtime.errors import BandMismatchError
from hsi_runtime.matching.bands import BandMatch
from hsi_runtime.matching.units import Conversion, conversion, with_scale
from hsi_runtime.model.model_file import Values
from hsi_runtime.scenes.scene import SceneInfo


def scene_of(
    dtype: str,
    scale: float | list[float] | None,
    offset: float | list[float] = 0.0,
    bands: int = 2,
) -> SceneInfo:
    declared = scale is not None
    return SceneInfo(
        path=Path("scene.tif"),
        driver="memory",
        bands=bands,
        rows=1,
        cols=1,
        dtype=np.dtype(dtype),
        nodata=np.full(bands, np.nan),
        scale=np.broadcast_to(np.array(scale, float), bands) if declared else None,
        offset=np.broadcast_to(np.array(offset, float), bands) if declared else None,
        good=np.ones(bands, dtype=bool),
        block=(1, 1),
    )


def values_of(dtype: str, scale: float | None, offset: float = 0.0) -> Values:
    return Values(
        quantity="reflectance",
        dtype=dtype,
        scale=None if scale is None else [scale] * 2,
        offset=None if scale is None else [offset] * 2,
        fill=[0.0] * 2,
    )


def cube_of(values: list[float], dtype: str) -> NDArray[Any]:
    return np.array(values).astype(dtype)[:, None, None]


BOTH = BandMatch(np.arange(2))


@pytest.mark.parametrize(
    ("scale", "offset", "model_scale"),
    [(1e-30, 0.0, 1e30), (1e30, 0.0, 1e-30), (1e-4, 1e30, 1e-30)],
)
def test_units_too_far_apart_for_float32_are_refused(
    scale: float, offset: float, model_scale: float
) -> None:
    scene, model = scene_of("float32", scale, offset), values_of("float32", model_scale)
    with pytest.raises(BandMismatchError, match=r"scene\.tif declares scales and off"):
        conversion(scene, BOTH, model)


@pytest.mark.parametrize("resampled", [False, True])
def test_bad_band_that_is_used_needs_a_scale_too(resampled: bool) -> None:
    scene = scene_of("uint16", 1e-4)
    scene = dataclasses.replace(
        scene, scale=np.array([1e-4, 0.0]), good=np.array([True, False])
    )
    weights = np.eye(2, dtype=np.float32) if resampled else None
    match = BandMatch(np.arange(2), resampling=weights)
    with pytest.raises(BandMismatchError, match="cannot be converted"):
        conversion(scene, match, values_of("uint16", 2e-4))


def test_same_units_change_nothing() -> None:
    for scene, model in (
        (scene_of("uint16", None), values_of("uint16", None)),
        (scene_of("int16", None), values_of("uint16", None)),
        (scene_of("float32", None), values_of("float64", None)),
        (scene_of("uint16", 1e-4), values_of("uint16", 1e-4)),
        (scene_of("uint16", 1 / 10000, 0.5), values_of("int16", 1e-4, 0.5)),
    ):
        found = conversion(scene, BOTH, model)
        assert found.gain is None
        assert found.warnings == ()
        cube = cube_of([3, 50], scene.dtype.name)
        converted = found.apply(cube)
        assert converted.dtype == np.float32
        np.testing.assert_array_equal(converted, cube)


def test_declared_units_are_converted() -> None:
    # Reflectance as a float against reflectance x 10000.
    found = conversion(scene_of("float32", 1.0), BOTH, values_of("uint16", 1e-4))
    np.testing.assert_allclose(found.apply(cube_of([0.5, 1], "f4")).ravel(), [5e3, 1e4])
    # Per cent against reflectance x 10000 with an offset.
    found = conversion(scene_of("uint8", 0.01), BOTH, values_of("int16", 1e-4, -0.1))
    np.testing.assert_allclose(found.apply(cube_of([0, 50], "u1")).ravel(), [1e3, 6e3])


@given(
    scales=st.lists(st.floats(1e-12, 1e6), min_size=2, max_size=2),
    offsets=st.lists(
        st.integers(-999, 999).map(lambda n: n / 100), min_size=2, max_size=2
    ),
    stored=st.integers(0, 10000),
)
def test_conversion_keeps_the_quantity(
    scales: list[float], offsets: list[float], stored: int
) -> None:
    scene = scene_of("uint16", scales[0], offsets[0])
    model = values_of("uint16", scales[1], offsets[1])
    found = conversion(scene, BOTH, model).apply(cube_of([stored, stored], "u2"))
    quantity = stored * scales[0] + offsets[0]
    assert model.scale is not None
    largest = max(abs(stored * scales[0]), abs(offsets[0]), abs(offsets[1]))
    np.testing.assert_allclose(
        found.astype(np.float64).ravel() * model.scale[0] + offsets[1],
        [quantity] * 2,
        rtol=2e-6,
        atol=2e-6 * largest,
    )


def test_scales_follow_the_matched_bands() -> None:
    scene = scene_of("uint16", [1.0, 2.0, 4.0], [0.0, 1.0, 2.0], bands=3)
    found = conversion(scene, BandMatch(np.array([2, 0])), values_of("uint16", 2.0))
    np.testing.assert_allclose(found.apply(cube_of([10, 10], "u2")).ravel(), [21, 5])


def test_tiny_scales_are_not_taken_for_equal() -> None:
    found = conversion(scene_of("uint16", 1e-9), BOTH, values_of("uint16", 5e-9))
    np.testing.assert_allclose(found.apply(cube_of([10, 20], "u2")).ravel(), [2, 4])


@pytest.mark.parametrize(
    ("dtype", "scale", "model_dtype", "model_scale"),
    [
        ("uint16", None, "int16", 1e-4),
        ("uint16", 1e-4, "int16", None),
        ("float32", 0.5, "float64", None),
    ],
)
def test_one_side_undeclared_same_kind_is_taken_with_a_warning(
    dtype: str, scale: float | None, model_dtype: str, model_scale: float | None
) -> None:
    found = conversion(
        scene_of(dtype, scale), BOTH, values_of(model_dtype, model_scale)
    )
    assert found.gain is None
    assert "taken as they are" in found.warnings[0]


def test_whole_numbers_that_declare_nothing_are_refused_for_reflectance() -> None:
    """They may be raw counts, which the model has not seen."""
    scene = dataclasses.replace(scene_of("uint16", None), driver="ENVI")
    with pytest.raises(BandMismatchError) as error:
        conversion(scene, BOTH, values_of("uint16", 1e-4))
    assert "Give its scale by --scale (the model's is 0.0001)" in str(error.value)
    assert "give --dark and --white, or --gain" in str(error.value)
    conversion(scene, BOTH, values_of("uint16", None))
    unknown = msgspec.structs.replace(values_of("uint16", 1e-4), quantity="unknown")
    (warning,) = conversion(scene, BOTH, unknown).warnings
    assert "taken as they are. For a camera's raw counts, give --dark" in warning


@pytest.mark.parametrize(
    ("dtype", "scale", "model_dtype", "model_scale"),
    [
        ("float32", None, "uint16", None),
        ("float32", None, "uint16", 1e-4),
        ("uint16", 1e-4, "float32", None),
        ("uint16", None, "float32", None),
    ],
)
def test_whole_against_decimal_numbers_is_refused(
    dtype: str, scale: float | None, model_dtype: str, model_scale: float | None
) -> None:
    with pytest.raises(BandMismatchError) as error:
        conversion(scene_of(dtype, scale), BOTH, values_of(model_dtype, model_scale))
    said = str(error.value)
    assert f"scene.tif stores {dtype}" in said
    assert f"the model was trained on {model_dtype}" in said
    remedy = "Declare scale and offset in both files"
    if scale is None and model_scale is not None:
        remedy = "Give its scale by scale= (the model's is 0.0001)"
    assert remedy in said


def test_a_scale_that_is_given_takes_the_place_of_what_is_declared() -> None:
    values = values_of("uint16", 1e-4)
    silent = with_scale(scene_of("float32", None), 1.0, values)
    found = conversion(silent, BOTH, values)
    np.testing.assert_allclose(
        found.apply(cube_of([0.1, 0.2], "f4")).ravel(), [1e3, 2e3]
    )
    assert silent.notes == ()
    assert with_scale(scene_of("uint16", 1e-4), 1e-4, values).notes == ()
    (note,) = with_scale(scene_of("uint16", 1e-3, 2.0), 1e-4, values).notes
    assert "declares a scale of 0.001 and an offset of 2 itself; --scale 0.0001" in note
    whole = with_scale(scene_of("uint16", 1e-3, 2.0), 1e-4, values)
    assert conversion(whole, BOTH, values).gain is None
    with pytest.raises(BandMismatchError, match=r"Leave out --scale, or declare"):
        with_scale(scene_of("uint16", None), 1e-4, values_of("uint16", None))


MEAN = BandMatch(
    np.array([2, 0, 1]),
    resampling=np.array([[0.5, 0, 0.5], [0.25, 0.75, 0]], dtype=np.float32),
)


def test_resampling_mixes_quantities_not_stored_values() -> None:
    # Bands 2, 0, 1 hold 2, 1 and 4 in the quantity, by scales and offsets of their own.
    scene = scene_of("uint16", [1.0, 2.0, 4.0], [0.0, 2.0, 1.0], bands=3)
    found = conversion(scene, MEAN, values_of("uint16", 0.5, 1.0))
    stored = np.array([0.25, 1, 1])[:, None, None]
    quantity = np.array([2.0, 1.0, 4.0])
    expected = (np.array([[0.5, 0, 0.5], [0.25, 0.75, 0]]) @ quantity - 1) / 0.5
    np.testing.assert_allclose(found.apply(stored).ravel(), expected)


def test_resampling_without_scales_mixes_stored_values() -> None:
    found = conversion(
        scene_of("uint16", None, bands=3), MEAN, values_of("int16", None)
    )
    np.testing.assert_allclose(
        found.apply(cube_of([2, 4, 6], "u2")).ravel(), [4, 3.5], rtol=1e-6
    )
    assert found.warnings == ()


def test_missing_values_do_not_spread_through_the_resampling() -> None:
    found = conversion(
        scene_of("float32", None, bands=3), MEAN, values_of("float32", None)
    )
    cube = np.ones((3, 1, 4), dtype=np.float32)
    cube[0, 0, :3] = np.nan, np.inf, -np.inf
    converted = found.apply(cube)
    assert np.isfinite(converted).all()
    np.testing.assert_array_equal(converted[:, 0, 3], [1, 1])
    assert np.isnan(cube[0, 0, 0])


@pytest.mark.parametrize("scale", [None, 1.0, 1e-4])
def test_fill_values_beyond_float32_are_no_warning(scale: float | None) -> None:
    model = values_of("float32", None if scale is None else 1e-4)
    found = conversion(scene_of("float64", scale), BOTH, model)
    converted = found.apply(cube_of([1e300, 0.5], "f8"))
    assert not np.isfinite(converted[0]).any()


def test_resampled_values_do_not_depend_on_the_window() -> None:
    """Products of matrices of other shapes round otherwise."""
    random = np.random.default_rng(2)
    weights = random.dirichlet(np.ones(160), 40).astype(np.float32)
    cube = random.integers(1, 9999, (160, 70, 90)).astype(np.uint16)
    units = Conversion(resampling=weights)
    whole = units.apply(cube)
    expected = np.tensordot(weights.astype(float), cube.astype(float), axes=1)
    np.testing.assert_allclose(whole, expected, rtol=1e-6)
    for tile in (1, 7, 30, 64, 89):
        for top in range(0, 70, tile):
            for left in range(0, 90, tile):
                part = np.s_[:, top : top + tile, left : left + tile]
                np.testing.assert_array_equal(units.apply(cube[part]), whole[part])

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hsi_runtime.errors import BandMismatchError
from hsi_runtime.matching.bands import match_bands
from hsi_runtime.scenes.scene import SceneInfo


def scene_of(
    wavelengths_nm: Any, bands: int | None = None, good: list[bool] | None = None
) -> SceneInfo:
    centres = None if wavelengths_nm is None else np.array(wavelengths_nm, dtype=float)
    if bands is None:
        assert centres is not None
        bands = len(centres)
    return SceneInfo(
        path=Path("scene.tif"),
        driver="memory",
        bands=bands,
        rows=1,
        cols=1,
        dtype=np.dtype("uint16"),
        nodata=np.full(bands, np.nan),
        wavelengths_nm=centres,
        good=np.ones(bands, dtype=bool) if good is None else np.array(good),
        block=(1, 1),
    )


def matched(scene: SceneInfo, wanted: Any) -> list[int]:
    found = match_bands(scene, list(wanted), len(wanted), range(len(wanted)))
    assert found.warnings == ()
    return [int(i) for i in found.indices]


def test_exact_permuted_and_extra_bands() -> None:
    assert matched(scene_of([450, 550, 650]), [450, 550, 650]) == [0, 1, 2]
    assert matched(scene_of([650, 450, 550]), [450, 550, 650]) == [1, 2, 0]
    assert matched(scene_of([400, 650, 500, 450, 550]), [450, 550, 650]) == [3, 4, 1]
    assert matched(scene_of([449.1, 551.5, 648.2]), [450, 550, 650]) == [0, 1, 2]


def test_two_bands_of_one_wavelength_are_said() -> None:
    """A second date, or errors of the first bands, stacked into one file."""
    stacked = scene_of([450, 550, 650, 450, 550, 650])
    found = match_bands(stacked, [450, 550], 2, range(2))
    assert found.indices.tolist() == [0, 1]
    (warning,) = found.warnings
    assert "such as 1 and 4 of 450 nm; the first is used" in warning
    good = [True, True, True, False, False, True]
    assert matched(scene_of([450, 550, 650] * 2, good=good), [450, 550]) == [0, 1]
    assert matched(stacked, [450, 450, 550, 550]) == [0, 3, 1, 4]  # so trained


@given(st.data())
def test_any_order_and_extra_bands_give_the_same_spectra(data: st.DataObject) -> None:
    grid = st.integers(160, 1000).map(lambda n: 2.5 * n)  # apart by more than tolerance
    wanted = data.draw(st.lists(grid, min_size=1, max_size=30, unique=True))
    extra = data.draw(st.lists(grid.map(lambda nm: nm + 0.9), max_size=20, unique=True))
    # An extra band farther from the wanted centre than the wanted band itself.
    order = data.draw(st.permutations(range(len(wanted) + len(extra))))
    centres = np.array(wanted + extra)[order]
    spectrum = {nm: np.sin(nm) for nm in centres}
    stored = np.array([spectrum[nm] for nm in centres])
    indices = matched(scene_of(centres), wanted)
    assert stored[indices].tolist() == [spectrum[nm] for nm in wanted]


@given(st.data())
def test_shifted_axes_keep_their_order(data: st.DataObject) -> None:
    gaps = data.draw(st.lists(st.floats(0.3, 12), min_size=1, max_size=40))
    shift = data.draw(st.floats(-1.9, 1.9))
    wanted = 400 + np.cumsum(gaps)
    assert matched(scene_of(wanted + shift), wanted) == list(range(len(gaps)))


def test_missing_bands_are_counted_and_named() -> None:
    wanted = [450.0, 500.0, 550.0, 600.0, 650.0, 700.0, 750.0, 850.0]
    with pytest.raises(BandMismatchError) as error:
        match_bands(scene_of([450, 555.5, 900]), wanted, 8, range(8))
    assert str(error.value) == (
        "The model needs 8 bands from 450.0 to 850.0 nm; scene.tif has 3 bands from "
        "450.0 to 900.0 nm, and only 1 match within 2 nm. Missing: 500.0, 550.0, "
        "600.0, 650.0, 700.0 and 2 more nm, and the neighbours are too far apart to "
        "resample. Use a scene that covers the model's bands."
    )


def test_bad_bands_are_not_used() -> None:
    good = [True, False, True]
    with pytest.raises(BandMismatchError, match="1 of them are there but marked bad"):
        matched(scene_of([450, 550, 650], good=good), [450, 550, 650])
    assert matched(scene_of([450, 550, 650], good=good), [650, 450]) == [2, 0]
    # A good twin serves where the nearest is marked bad.
    twin = scene_of([450, 550, 550.5], good=good)
    assert matched(twin, [450, 550]) == [0, 2]


def test_without_wavelengths_position_decides_where_counts_agree() -> None:
    used = [0, 2, 3]
    model = [450.0, 550.0, 650.0]
    whole = match_bands(scene_of(None, 5), model, 5, used)
    assert whole.indices.tolist() == used
    assert "position" in whole.warnings[0]
    assert whole.warnings[0].startswith("The scene has no wavelengths")
    only = match_bands(scene_of(None, 3), model, 5, used)
    assert only.indices.tolist() == [0, 1, 2]
    blind = match_bands(scene_of([1, 2, 3]), None, 5, used)
    assert blind.indices.tolist() == [0, 1, 2]
    assert blind.warnings[0].startswith("The model has no wavelengths")


@pytest.mark.parametrize("bands", [1, 2, 4, 6])
def test_without_wavelengths_other_counts_are_refused(bands: int) -> None:
    expected = f"scene.tif has {bands} bands, the model was trained on 5 and uses 3"
    with pytest.raises(BandMismatchError, match=re.escape(expected)):
        match_bands(scene_of(None, bands), [450.0, 550.0, 650.0], 5, [0, 2, 3])


def test_coarser_scene_does_not_serve_one_band_twice() -> None:
    wanted = [550.0, 551.0, 552.0]
    with pytest.raises(BandMismatchError, match="no scene band of their own"):
        match_bands(scene_of([551.0, 900.0, 950.0]), wanted, 3, range(3))


def test_twins_are_assigned_even_where_the_nearest_is_taken() -> None:
    # 0 -> 0.9 and 1 -> 2.9 is the only way; the nearest pair is 1 and 0.9.
    assert matched(scene_of([500.9, 502.9]), [500.0, 501.0]) == [0, 1]


@pytest.fixture(scope="session")
def axes(data_dir: Path) -> dict[str, NDArray[np.float64]]:
    text = (data_dir / "sensor_wavelengths.json").read_text()
    return {
        name: np.array(values)
        for name, values in json.loads(text).items()
        if isinstance(values, list)
    }


def test_real_axes_match_themselves_in_any_order(
    axes: dict[str, NDArray[np.float64]],
) -> None:
    assert any((np.diff(axis) < 0).any() for axis in axes.values())  # overlaps
    random = np.random.default_rng(0)
    for name, axis in axes.items():
        assert len(np.unique(axis)) == len(axis), name
        assert matched(scene_of(axis), axis) == list(range(len(axis))), name
        order = random.permutation(len(axis))
        found = matched(scene_of(axis[order]), axis)
        np.testing.assert_array_equal(order[found], np.arange(len(axis)))
        # As much as 3 decimals of a micrometre, which is what GDAL keeps.
        rounded = np.round(axis / 1000, 3) * 1000
        values = axis[np.array(matched(scene_of(rounded), axis))]
        assert np.abs(values - axis).max() <= 1


@pytest.mark.parametrize("shift", [-0.5, -0.2, 0.2, 0.5])
def test_recalibrated_overlapping_spectrometers_keep_their_bands(
    shift: float, axes: dict[str, NDArray[np.float64]]
) -> None:
    for name, axis in axes.items():
        assert matched(scene_of(axis + shift), axis) == list(range(len(axis))), name


def test_subset_of_a_real_axis(axes: dict[str, NDArray[np.float64]]) -> None:
    for axis in axes.values():
        used = np.arange(1, len(axis), 3)
        assert matched(scene_of(axis), axis[used]) == used.tolist()


def test_single_missing_band_of_the_same_sensor_is_refused_with_numbers() -> None:
    wanted = np.arange(400.0, 1000.0, 10.0)
    scene = scene_of(np.delete(wanted, 20))
    widths = [10.0] * len(wanted)
    for model_widths in (None, widths):
        with pytest.raises(BandMismatchError) as error:
            match_bands(scene, list(wanted), 60, range(60), model_widths)
        assert (
            "needs 60 bands from 400.0 to 990.0 nm; scene.tif has 59 bands from 400.0 "
            "to 990.0 nm, and only 59 match within 2 nm. Missing: 600.0 nm, and the "
            "neighbours are too far apart"
        ) in str(error.value)


def test_single_bad_band_of_the_same_sensor_is_refused_with_numbers() -> None:
    wanted = np.arange(400.0, 1000.0, 10.0)
    good = [nm != 600 for nm in wanted]
    with pytest.raises(BandMismatchError, match=r"Missing: 600\.0 nm") as error:
        match_bands(scene_of(wanted, good=good), list(wanted), 60, range(60))
    assert "1 of them are there but marked bad" in str(error.value)


@pytest.mark.parametrize("missing", [0, 59])
def test_missing_band_at_an_end_is_not_extrapolated(missing: int) -> None:
    wanted = np.arange(400.0, 1000.0, 10.0)
    with pytest.raises(BandMismatchError, match="and only 59 match"):
        match_bands(scene_of(np.delete(wanted, missing)), list(wanted), 60, range(60))


def test_scene_at_other_centres_is_resampled_with_a_warning() -> None:
    wanted = np.arange(400.0, 1000.0, 10.0)
    scene = scene_of(np.arange(395.0, 1005.0, 8.0))
    found = match_bands(scene, list(wanted), 60, range(60))
    assert found.method == "resampled"
    assert found.resampling is not None
    assert found.resampling.shape == (60, len(found.indices))
    said = (
        r"scene\.tif is resampled: \d+ of the model's 60 bands match within 2 nm; \d+ "
        r"bands of the scene are weighed\."
    )
    assert re.fullmatch(said, found.warnings[0])
    assert (
        match_bands(scene_of(wanted), list(wanted), 60, range(60)).method == "matched"
    )

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hsi_runtime.matching.resample import MAX_GAP, spacing, weights

Floats = NDArray[np.float64]


def every(have: Any) -> NDArray[np.bool_]:
    return np.ones(len(have), dtype=bool)


@st.composite
def axes(draw: Any, step: tuple[float, float] = (1, 20)) -> Floats:
    gaps = draw(st.lists(st.floats(*step), min_size=1, max_size=40))
    return np.asarray(400 + np.cumsum(gaps))


@given(axes(), axes(), st.none() | st.floats(0.5, 60), st.randoms())
def test_rows_of_covered_bands_sum_to_one(
    have: Floats, wanted: Floats, width: float | None, random: Any
) -> None:
    usable = np.array([random.random() < 0.9 for _ in have])
    widths = None if width is None else np.full(len(wanted), width)
    table, covered = weights(have, usable, wanted, widths)
    assert table.shape == (len(wanted), len(have))
    assert np.isfinite(table).all()
    assert (table >= 0).all()
    np.testing.assert_allclose(table.sum(axis=1), covered, atol=1e-5)
    assert (table[:, ~usable] == 0).all()
    # Nothing is extrapolated.
    ends = have[usable] if usable.any() else np.array([np.inf, -np.inf])
    outside = (wanted < ends.min()) | (wanted > ends.max())
    assert not covered[outside].any()


@given(axes((5, 20)), axes((5, 20)), st.floats(-10, 10), st.floats(-1, 1))
def test_linear_spectrum_is_interpolated_exactly(
    have: Floats, wanted: Floats, offset: float, slope: float
) -> None:
    # Widths so narrow that no three scene bands lie within one.
    table, covered = weights(have, every(have), wanted, np.full(len(wanted), 9.0))
    spectrum = offset + slope * have
    found = table.astype(np.float64)[covered] @ spectrum
    np.testing.assert_allclose(
        found, offset + slope * wanted[covered], rtol=1e-5, atol=1e-3
    )
    assert ((table > 0).sum(axis=1) <= 2).all()


@given(axes((1, 20)), st.randoms())
def test_identical_axes_give_the_identity(axis: Floats, random: Any) -> None:
    table, covered = weights(axis, every(axis), axis, np.full(len(axis), 0.5))
    np.testing.assert_array_equal(table, np.eye(len(axis)))
    assert covered.all()
    order = np.array(random.sample(range(len(axis)), len(axis)))
    table, _ = weights(axis[order], every(axis), axis, None)
    inside = spacing(axis) > 0
    assert (table[inside].argmax(axis=1) == np.argsort(order)[inside]).all()


@given(axes((1, 9)), axes((4, 20)), st.randoms())
def test_order_of_either_axis_does_not_matter(
    have: Floats, wanted: Floats, random: Any
) -> None:
    table, covered = weights(have, every(have), wanted, None)
    down = np.array(random.sample(range(len(wanted)), len(wanted)))
    across = np.array(random.sample(range(len(have)), len(have)))
    mixed, mixed_covered = weights(have[across], every(have), wanted[down], None)
    np.testing.assert_allclose(mixed, table[down][:, across], atol=1e-6)
    np.testing.assert_array_equal(mixed_covered, covered[down])


def test_finer_scene_is_averaged_with_the_gaussian_of_the_model_band() -> None:
    have = np.arange(400.0, 600.0, 1.0)
    table, covered = weights(have, every(have), np.array([500.0]), np.array([20.0]))
    assert covered.all()
    # At half the width from the centre, half the height.
    row = table[0] / table[0].max()
    np.testing.assert_allclose(row[[90, 110]], 0.5, atol=1e-4)
    assert row.argmax() == 100
    assert (row[have < 470] == 0).all()
    # A narrow line is spread by the response, and keeps its area.
    assert table[0].sum() == pytest.approx(1, abs=1e-6)
    # A straight line stays what it is, because the response is even.
    assert table[0] @ (3 + 0.1 * have) == pytest.approx(53, rel=1e-5)


def test_scene_of_equal_or_wider_bands_is_interpolated() -> None:
    have = np.array([480.0, 495.0, 510.0])
    table, covered = weights(have, every(have), np.array([500.0]), np.array([10.0]))
    assert covered.all()
    np.testing.assert_allclose(table[0], [0, 2 / 3, 1 / 3], rtol=1e-5)


def test_gap_wider_than_the_model_bands_reach_is_not_covered() -> None:
    wanted = np.array([490.0, 500.0, 510.0])
    for gap, expected in ((MAX_GAP * 10 - 0.1, True), (MAX_GAP * 10 + 0.1, False)):
        have = np.array([480.0, 490.0, 497.0, 497.0 + gap, 520.0, 521])
        table, covered = weights(have, every(have), wanted, np.full(3, 10.0))
        assert covered[0]
        assert covered[1] == expected
        assert (table[1].sum() == 0) == (not expected)


def test_ends_are_covered_only_by_a_band_that_is_there() -> None:
    have = np.array([400.0, 410.0, 420.0])
    wanted = np.array([400.0, 420.0, 399.9, 420.1])
    _, covered = weights(have, every(have), wanted, np.full(4, 10.0))
    np.testing.assert_array_equal(covered, [True, True, False, False])


def test_single_band_without_a_width_needs_its_very_band() -> None:
    have = np.array([400.0, 500.0, 600.0, 700.0])
    table, covered = weights(have, every(have), np.array([500.0]), None)
    np.testing.assert_array_equal(table, [[0, 1, 0, 0]])
    assert covered.all()
    _, covered = weights(have, every(have), np.array([550.0]), None)
    assert not covered.any()


def test_spacing_of_unsorted_centres() -> None:
    np.testing.assert_array_equal(spacing(np.array([7.0, 1.0, 3.0])), [4, 2, 2])
    assert spacing(np.array([])).shape == (0,)


def test_a_band_without_a_centre_widens_no_other() -> None:
    """The gap from 450 to 900 nm stays one, whatever lies beside 700 nm."""
    have = np.array([400.0, 450.0, 900.0])
    requested = np.array([420.0, 425.0, 700.0, np.nan])
    table, covered = weights(have, np.ones(3, bool), requested, np.full(4, 40.0))
    assert covered.tolist() == [True, True, False, False]
    assert not table[2:].any()

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray

from hsi_runtime.matching.novelty import Comparison, Novelty, describe
from hsi_runtime.model.array import Array
from hsi_runtime.model.training import KnownClasses, Training

BANDS, COMPONENTS, CLASSES = 5, 3, 7


def make(side: int = 3) -> tuple[KnownClasses, NDArray[np.float32]]:
    """Return classes to measure by, and their centres in stored units."""
    random = np.random.default_rng(0)
    stored = random.uniform(500, 9000, (CLASSES, BANDS)).astype(np.float32)
    projection = (random.normal(size=(COMPONENTS, BANDS)) / 1000).astype(np.float32)
    known = KnownClasses(
        side=side,
        projection=Array.pack(projection),
        centres=Array.pack(stored @ projection.T),
        scatter=[1.0, 0.5, 2.0, 1.0, 1.0, 1.0, 1.0],
        distances=[0.1, 0.2, 0.2, 0.5, 2.0],
    )
    return known, stored


def test_the_centre_of_a_class_is_no_novelty() -> None:
    known, stored = make()
    novelty = Novelty.of(known)
    assert novelty.distance(stored) == pytest.approx(np.zeros(CLASSES), abs=1e-2)
    far = novelty.distance(stored + 1e6)
    assert far.min() > 2


@given(st.sampled_from([1, 3, 5]), st.integers(2, 4), st.integers(1, 9))
def test_every_pixel_is_that_of_its_averaged_square(
    side: int, halo: int, rows: int
) -> None:
    novelty = Novelty.of(make(side)[0])
    random = np.random.default_rng(rows)
    shape = BANDS, rows + 2 * halo, 4 + 2 * halo
    cube = random.uniform(500, 9000, shape).astype(np.float32)
    found = novelty.map(cube, halo)
    reach = side // 2
    for row in range(rows):
        for col in range(4):
            top, left = row + halo - reach, col + halo - reach
            square = cube[:, top : top + side, left : left + side]
            spectrum = square.mean(axis=(1, 2), dtype=np.float64)
            distance = novelty.distance(spectrum[None])[0]
            steps = np.linspace(0, 1, 5)
            expected = np.interp(distance, novelty.distances, steps)
            assert found[row, col] == pytest.approx(expected, abs=2e-3)


def test_distances_are_in_units_of_the_scatter() -> None:
    known, stored = make()
    wide = Novelty.of(replace(known, scatter=[2 * s for s in known.scatter]))
    spectra = stored + 100
    assert 2 * wide.distance(spectra) == pytest.approx(
        Novelty.of(known).distance(spectra), rel=1e-4
    )


def test_values_that_overflow_are_far_from_everything() -> None:
    novelty = Novelty.of(make()[0])
    cube = np.full((BANDS, 5, 5), 3e38, np.float32)
    assert (novelty.map(cube, 1) == 1).all()
    cube[::2] *= -1
    assert (novelty.map(cube, 1) == 1).all()
    cube[:] = np.inf
    cube[1] = -np.inf
    assert (novelty.map(cube, 1) == 1).all()
    assert (novelty.of_spectra(cube[:, 0].T) == 1).all()


def test_a_map_does_not_depend_on_its_windows() -> None:
    """Products of matrices of other shapes round otherwise."""
    random = np.random.default_rng(7)
    bands, halo = 40, 4
    cube: NDArray[np.float32] = random.uniform(
        *(100, 6000, (bands, 150 + 2 * halo, 90 + 2 * halo))
    ).astype(np.float32)
    known = KnownClasses(
        side=5,
        projection=Array.pack(random.normal(size=(bands, bands)).astype(np.float32)),
        centres=Array.pack(random.normal(0, 9e3, (3, bands)).astype(np.float32)),
        scatter=[1.0, 0.9, 1.1],
        distances=[0.0, 1.0],
    )
    usual = float(np.median(Novelty.of(known).distance(cube[:, 0].T)))
    steps = np.linspace(0, 2 * usual, 201).tolist()
    novelty = Novelty.of(replace(known, distances=steps))
    whole = novelty.map(cube, halo)
    assert 0.1 < whole.mean() < 0.9
    for tile in (7, 30, 64, 89):
        for top in range(0, 150, tile):
            for left in range(0, 90, tile):
                inside = whole[top : top + tile, left : left + tile]
                rows, cols = inside.shape
                window = cube[
                    :,
                    top : top + rows + 2 * halo,
                    left : left + cols + 2 * halo,
                ]
                np.testing.assert_array_equal(novelty.map(window, halo), inside)


def test_quantiles_are_steps_from_zero_to_one() -> None:
    novelty = Novelty.of(make()[0])
    found = novelty._ranked(np.array([0, 0.1, 0.35, 2, 9], np.float32))
    assert found == pytest.approx([0, 0, 0.625, 1, 1], abs=1e-6)


def test_a_scene_is_compared_with_training() -> None:
    # The last two bands do not vary, but for rounding.
    training = Training(mean=[1.0, 2, 3, 0.1], deviation=[1.0, 2, 0, 1e-17], known=None)
    compared = Comparison(training)
    assert compared.report() is None
    spectra = np.array([[2, 2, 7, 1], [4, 2, 9, 1]], np.float32)
    compared.add(spectra, None)
    report = compared.report()
    assert report == {
        "pixels": 2,
        "median_shift": 1.0,
        "largest_shift": 2.0,
        "unlike": None,
    }
    assert describe(report) == (
        "The mean spectrum is 1.0 deviations from that of training.",
        False,
    )
    compared.add(spectra, np.array([0.99, 0.5], np.float32))
    report = compared.report()
    assert report is not None
    assert report["unlike"] == 0.5
    sentence, far = describe(report)
    assert far
    assert "50% of the spectra are unlike those of training. Expect errors" in sentence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hsi_runtime.matching.novelty import UNLIKE, Novelty
from hsi_train.run_folder.novelty import STEPS, known_classes

BANDS = 12


def pixels(
    count: int, classes: int = 3, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
    """Return spectra of some classes, which lie in columns of a scene."""
    random = np.random.default_rng(seed)
    means = 3000 + 1500 * np.random.default_rng(9).normal(size=(classes + 1, BANDS))
    of_class = np.arange(count) % classes
    spectra = means[of_class] + 100 * random.normal(size=(count, BANDS))
    places = np.column_stack([np.zeros(count), np.arange(count) // 40, of_class * 40])
    places[:, 2] += np.arange(count) % 37
    return spectra, of_class, places.astype(np.intp)


def test_an_unknown_class_is_farther_than_the_known_ones() -> None:
    fitted = known_classes(*pixels(600), side=1)
    assert fitted is not None
    novelty = Novelty.of(fitted)
    of_known = novelty.distance(pixels(300, seed=1)[0])
    all_four, classes, _ = pixels(400, classes=4, seed=2)
    means = 3000 + 1500 * np.random.default_rng(9).normal(size=(4, BANDS))
    unknown = means[3] + all_four[classes == 0] - means[0]
    assert novelty.distance(unknown).min() > of_known.max()


def test_quantiles_are_of_left_out_pixels() -> None:
    fitted = known_classes(*pixels(600), side=1)
    assert fitted is not None
    assert len(fitted.distances) == STEPS + 1
    others = Novelty.of(fitted).distance(pixels(3000, seed=5)[0])
    share = (others <= fitted.distances[STEPS // 2]).mean()
    assert 0.35 < share < 0.65


def test_rare_classes_are_as_wide_as_common_ones() -> None:
    random = np.random.default_rng(3)
    means = 3000 + 1500 * random.normal(size=(4, BANDS))
    classes = np.repeat(np.arange(4), [200, 1, 2, 3])
    spectra = means[classes] + 100 * random.normal(size=(206, BANDS))
    places = np.column_stack([np.zeros(206), np.arange(206), 40 * classes])
    fitted = known_classes(spectra, classes, places.astype(np.intp), 1)
    assert fitted is not None
    for index in range(4):
        fresh = means[index] + 100 * random.normal(size=(500, BANDS))
        novelty = Novelty.of(fitted).of_spectra(fresh)
        assert (novelty >= UNLIKE).mean() < 0.2, index


def test_more_bands_than_pixels_are_no_novelty() -> None:
    random = np.random.default_rng(4)
    classes = np.repeat([0, 1], 15)
    means = 3000 + 1500 * random.normal(size=(2, 200))
    spectra = means[classes] + 100 * random.normal(size=(30, 200))
    places = np.column_stack([np.zeros(30), np.arange(30), 40 * classes])
    fitted = known_classes(spectra, classes, places.astype(np.intp), 1)
    assert fitted is not None
    novelty = Novelty.of(fitted)
    assert (novelty.of_spectra(spectra) >= UNLIKE).mean() < 0.1
    fresh = means[classes] + 100 * random.normal(size=(30, 200))
    assert (novelty.of_spectra(fresh) >= UNLIKE).mean() < 0.2


@pytest.mark.parametrize("count", [3, 9])
def test_few_pixels_tell_nothing(count: int) -> None:
    assert known_classes(*pixels(count), side=1) is None


@given(st.integers(0, 9))
def test_units_do_not_matter(seed: int) -> None:
    spectra, classes, places = pixels(120, seed=seed)
    stored = known_classes(spectra, classes, places, 1)
    scaled = known_classes(spectra / 10_000, classes, places, 1)
    assert stored is not None
    assert scaled is not None
    assert stored.distances == pytest.approx(scaled.distances, rel=1e-3)


def test_bands_that_never_vary_are_left_out() -> None:
    spectra, classes, places = pixels(200)
    spectra[:, 3] = 7
    fitted = known_classes(spectra, classes, places, 1)
    assert fitted is not None
    assert np.abs(fitted.projection.unpack()[:, 3]).max() == pytest.approx(0, abs=1e-6)

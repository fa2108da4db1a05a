"""A scene of another day is moved and scaled to the moments of the training scene."""

import numpy as np
import pytest
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.matching.adapting import Reading, fit_moments, moments
from hsi_runtime.matching.missing import Missing
from hsi_runtime.matching.units import Conversion
from hsi_runtime.model.training import Training
from hsi_runtime.scenes.array_scene import ArrayScene

BANDS = 4
UNITS = Conversion()


def reading(cube: NDArray[np.float32], nodata: float = -1) -> Reading:
    scene = ArrayScene(cube, nodata=nodata)
    return scene, np.arange(len(cube)), Missing(nodata=scene.info.nodata)


def scene_of(rows: int = 40, cols: int = 30) -> NDArray[np.float32]:
    random = np.random.default_rng(1)
    return random.uniform(100, 9000, (BANDS, rows, cols)).astype(np.float32)


def training_of(cube: NDArray[np.float32]) -> Training:
    flat = cube.reshape(BANDS, -1).astype(np.float64)
    return Training(
        mean=flat.mean(axis=1).tolist(),
        deviation=flat.std(axis=1).tolist(),
        known=None,
    )


def test_another_light_is_taken_back() -> None:
    cube = scene_of()
    gain = np.array([0.7, 1.3, 1.0, 2.0], np.float32)[:, None, None]
    offset = np.array([50, 0, 300, 10], np.float32)[:, None, None]
    units = fit_moments(reading(cube * gain + offset), UNITS, training_of(cube))
    assert units.apply(cube * gain + offset) == pytest.approx(cube, rel=1e-3, abs=1)


def test_moments_are_those_of_the_pixels_with_data() -> None:
    cube = scene_of()
    cube[:, 5:9, 3:20] = -1
    known = cube[:, (cube != -1).all(axis=0)].astype(np.float64)
    mean, deviation = moments(reading(cube), UNITS)
    assert mean == pytest.approx(known.mean(axis=1), rel=1e-6)
    assert deviation == pytest.approx(known.std(axis=1), rel=1e-6)


def test_a_tall_scene_is_read_in_part() -> None:
    cube = scene_of(rows=1000, cols=20)
    mean, deviation = moments(reading(cube), UNITS)
    assert mean == pytest.approx(cube.mean(axis=(1, 2)), rel=0.1)
    assert deviation == pytest.approx(cube.std(axis=(1, 2)), rel=0.1)


def test_a_band_that_does_not_vary_is_only_moved() -> None:
    cube, training = scene_of(), training_of(scene_of())
    cube[1] = 7
    units = fit_moments(reading(cube), UNITS, training)
    assert units.fit is not None
    assert units.fit[0][1] == 1
    assert units.apply(cube)[1] == pytest.approx(training.mean[1])


def test_a_band_that_did_not_vary_in_training_is_only_moved() -> None:
    """Rounding leaves it a deviation."""
    cube, training = scene_of(), training_of(scene_of())
    training.deviation[2] = 1e-13 * training.mean[2]
    units = fit_moments(reading(cube), UNITS, training)
    assert units.fit is not None
    assert units.fit[0][2] == 1


def test_too_few_pixels_have_no_mean() -> None:
    cube = np.full((BANDS, 40, 30), -1, np.float32)
    cube[:, 3, :9] = 5
    with pytest.raises(
        SceneError, match=r"9 pixels with data .* too few\. Leave it out"
    ):
        fit_moments(reading(cube), UNITS, training_of(scene_of()))

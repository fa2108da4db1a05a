"""Fits the bands of a scene to those of the training scene, without any label.

Another day, sky or sensor multiplies and adds to each band. Where land cover is alike,
means and deviations of the bands tell by how much; where it is not, a difference of
land cover is taken for one of light.
"""

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.matching.missing import Missing
from hsi_runtime.matching.units import Conversion
from hsi_runtime.model.model_file import Training
from hsi_runtime.scenes.scene import Scene

log = logging.getLogger(__name__)

ROWS = 64  # of a scene that are read, evenly spread
FEWEST = 100  # pixels that have a mean and a deviation

Floats = NDArray[np.float64]
# A scene, its bands that the model needs, and which of its pixels hold no measurement.
Reading = tuple[Scene, NDArray[np.intp], Missing]


def fit_moments(reading: Reading, units: Conversion, training: Training) -> Conversion:
    """Return a scene's conversion with its bands fitted to the training scene.

    Args:
        reading: The scene, and how it is read.
        units: Conversion from the scene's stored values to the model's.
        training: What training saw.

    Raises:
        SceneError: The scene has too few pixels with data.
    """
    mean, deviation = moments(reading, units)
    target, spread = np.array(training.mean), np.array(training.deviation)
    # A band that does not vary, here or in training, is moved but not scaled.
    varies = (deviation > np.finfo(np.float32).eps * np.abs(mean)) & (spread > 0)
    gain = np.where(varies, spread / np.where(varies, deviation, 1), 1)
    moved = np.abs(mean - target)[varies] / spread[varies]
    log.warning(
        f"--adapt moments: bands were scaled by {gain.min():.2f} to {gain.max():.2f} "
        f"and moved by {np.median(moved) if len(moved) else 0:.1f} deviations. The map "
        "is wrong where land cover differs from that of the training scene."
    )
    offset = target - gain * mean
    return replace(units, fit=(_column(gain), _column(offset)))


def moments(reading: Reading, units: Conversion) -> tuple[Floats, Floats]:
    """Measure mean and standard deviation of the bands, over rows of the whole scene.

    Args:
        reading: The scene, and how it is read.
        units: Conversion from the scene's stored values to the model's.

    Returns:
        Model's stored units, both ``(model band,)``.

    Raises:
        SceneError: Too few pixels have data.
    """
    scene, bands, missing = reading
    info = scene.info
    chosen = np.linspace(0, info.rows - 1, min(info.rows, ROWS)).astype(int).tolist()
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    first: Floats | None = None
    for row in chosen:
        cube = scene.read((row, row + 1), (0, info.cols), bands)
        valid = missing.valid(cube)
        if not valid.any():
            continue
        spectra = units.apply(cube)[:, valid].astype(np.float64)
        # Squares of differences from a spectrum of the scene lose no digits.
        first = spectra.mean(axis=1, keepdims=True) if first is None else first
        count += spectra.shape[1]
        total = total + (spectra - first).sum(axis=1)
        squares = squares + np.square(spectra - first).sum(axis=1)
    if count < FEWEST or first is None:
        raise SceneError(
            f"{info.path.name} has {count} pixels with data in the rows that --adapt "
            "reads, which are too few. Leave it out."
        )
    mean = total / count
    variance = np.maximum(squares / count - np.square(mean), 0)
    return mean + first[:, 0], np.sqrt(variance)


def _column(values: Floats) -> NDArray[np.float32]:
    return values.astype(np.float32)[:, None, None]

"""Fits the bands of a scene to those of the training scene, without any label.

Another day, sky or sensor multiplies and adds to each band. Where land cover is alike,
means and deviations of the bands tell by how much; where it is not, a difference of
land cover is taken for one of light.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.matching.missing import Missing
from hsi_runtime.matching.units import Conversion
from hsi_runtime.model.training import Training, vary
from hsi_runtime.scenes.scene import Scene, SceneInfo

log = logging.getLogger(__name__)

ROWS = 64  # of a scene that are read, evenly spread
FEWEST = 100  # pixels that have a mean and a deviation

Floats = NDArray[np.float64]
# A scene, its bands that the model needs, and which of its pixels hold no measurement.
Reading = tuple[Scene, NDArray[np.intp], Missing]


class Moments:
    """Mean and standard deviation of spectra that come some at a time.

    Attributes:
        count: Spectra that came.
    """

    def __init__(self) -> None:
        self.count = 0
        self._first: Floats | None = None
        self._total: Floats | float = 0.0
        self._squares: Floats | float = 0.0

    def add(self, spectra: NDArray[Any]) -> None:
        """Add some spectra, shape ``(band, pixel)``."""
        if not spectra.shape[1]:
            return
        values = spectra.astype(np.float64)
        # Squares of differences from a spectrum of the scene lose no digits.
        if self._first is None:
            self._first = values.mean(axis=1, keepdims=True)
        values -= self._first
        self.count += values.shape[1]
        self._total = self._total + values.sum(axis=1)
        self._squares = self._squares + np.square(values).sum(axis=1)

    def result(self) -> tuple[Floats, Floats]:
        """Return mean and deviation, both ``(band,)``; at least one spectrum came."""
        assert self._first is not None
        mean = self._total / self.count
        variance = np.maximum(self._squares / self.count - np.square(mean), 0)
        return mean + self._first[:, 0], np.sqrt(variance)


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
    gain, offset = fitted((mean, deviation), (target, spread))
    varies = training.varies
    moved = (np.abs(mean - target)[varies] / spread[varies]).tolist()
    log.warning(
        f"{reading[0].info.path.name}: --adapt scaled the bands by {gain.min():.2f} to "
        f"{gain.max():.2f} and moved them by {np.median(moved or [0]):.1f} deviations. "
        "The map is wrong where land cover differs from that around the labels of "
        "training."
    )
    return replace(units, fit=(_column(gain), _column(offset)))


def fitted(
    own: tuple[Floats, Floats], target: tuple[Floats, Floats]
) -> tuple[Floats, Floats]:
    """Return the gain and offset that give bands the mean and deviation of others.

    A band that does not vary, on either side, is moved but not scaled.

    Args:
        own: Mean and standard deviation of the bands, both ``(band,)``.
        target: What they shall become.
    """
    mean, deviation = own
    varies = vary(*own) & vary(*target)
    gain = np.where(varies, target[1] / np.where(varies, deviation, 1), 1)
    return gain, target[0] - gain * mean


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
    info, measured = scene.info, Moments()
    for rows, cols in _chosen(info):
        cube = scene.read((rows[0], rows[-1] + 1), cols, bands)
        cube = cube[:, [row - rows[0] for row in rows]]
        measured.add(units.apply(cube)[:, missing.valid(cube)])
    if measured.count < FEWEST:
        raise SceneError(
            f"{info.path.name} has {measured.count} pixels with data in the rows that "
            "--adapt reads, which are too few. Leave it out."
        )
    return measured.result()


def _chosen(info: SceneInfo) -> Iterator[tuple[list[int], tuple[int, int]]]:
    """Choose rows all over a scene, and the columns to read at once.

    Rows of one block come together, block after block, so that none is decoded twice.
    """
    chosen = np.linspace(0, info.rows - 1, min(info.rows, ROWS)).astype(int).tolist()
    height, width = (1, info.cols) if info.mapped else info.block
    for _, rows in groupby(chosen, key=lambda row: row // height):
        together = list(rows)
        for left in range(0, info.cols, width):
            yield together, (left, min(left + width, info.cols))


def _column(values: Floats) -> NDArray[np.float32]:
    return values.astype(np.float32)[:, None, None]

"""Changes of sensor and sky, by which another scene may differ from the labelled one.

A small family: smooth factors and offsets along the spectrum (illumination, atmosphere,
calibration), band centres that move, bands that are wider, and an error of each band by
itself. A network learns copies that are drawn from it. A discriminant need not draw:
all changes are zero in the mean, so they add their covariance to that within the
classes and leave the class means alone.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsi_train.layers import FLAT

COSINES = 8  # smooth curves along the spectrum
# Standard deviations.
FACTOR = 0.4  # of a smooth factor, over its mean of one
OFFSET = 0.15  # of a smooth offset, in mean values of the scene
MOVED = 0.5  # of the shift of the band centres, in bands
ERROR = 0.01  # of the factor of a single band
WIDER = 0.5  # share of the bands that are wider
WIDTH = 2.5  # of a wider band at half its height, in bands
REACH = 2  # bands on each side that a wider band sees

FloatArray = NDArray[np.float64]


def cosines(bands: int, count: int = COSINES) -> FloatArray:
    """Return smooth curves ``(band, cosine)``, smaller at higher frequencies.

    Independent weights of unit variance give sums of unit mean power.
    """
    turns = np.arange(count)
    places = (np.arange(bands) + 0.5) / bands
    waves = np.cos(math.pi * turns * places[:, None]) / (1 + turns)
    normalised: FloatArray = waves / np.sqrt(np.square(waves).sum(axis=1).mean())
    return normalised


def slope(bands: int) -> FloatArray:
    """Return the matrix that gives the change of a spectrum from band to band.

    Shape ``(band, band)``; spectra ``(..., band)`` are multiplied from the left.
    """
    if bands == 1:
        return np.zeros((1, 1))
    matrix: FloatArray = np.asarray(np.gradient(np.eye(bands), axis=1))
    return matrix


def widening(bands: int) -> FloatArray:
    """Return the matrix that makes every band `WIDTH` wide, less the identity.

    Shape ``(band, band)``; spectra ``(..., band)`` are multiplied from the left.
    """
    steps = np.arange(-REACH, REACH + 1)
    response = np.exp(-4 * math.log(2) * np.square(steps / WIDTH))
    matrix = np.zeros((bands, bands))
    for step, share in zip(steps, response / response.sum(), strict=True):
        seen = np.clip(np.arange(bands) + step, 0, bands - 1)
        np.add.at(matrix, (seen, np.arange(bands)), share)
    return matrix - np.eye(bands)


def covariance(
    spectra: FloatArray, level: float, brightness_free: bool, strength: float = 1.0
) -> FloatArray:
    """Return the covariance that the changes give to spectra, on average over them.

    Args:
        spectra: Stored units, shape ``(pixel, band)``.
        level: Mean value of the scene, which offsets are relative to.
        brightness_free: The spectra are scaled to the mean 0 and the deviation 1 over
            their bands after the change; its covariance is that of the linear part.
        strength: Share of the standard deviations.

    Returns:
        Shape ``(band, band)``, in the units of the spectra as they are seen.
    """
    bands = spectra.shape[1]
    curves = cosines(bands)
    directions = [FACTOR * spectra * curve for curve in curves.T]
    directions += [
        np.broadcast_to(OFFSET * level * curve, spectra.shape) for curve in curves.T
    ]
    directions.append(MOVED * spectra @ slope(bands))
    alone = np.square(ERROR * spectra)
    alone += WIDER * np.square(spectra @ widening(bands))
    if brightness_free:
        mean = spectra.mean(axis=1, keepdims=True)
        size = np.sqrt(spectra.var(axis=1, keepdims=True) + np.square(FLAT * mean))
        size[size == 0] = np.inf  # a spectrum of zeros has no shape that may change
        shape = (spectra - mean) / size
        directions = [_of_shape(d / size, shape) for d in directions]
        alone /= np.square(size)
    total = np.diag(alone.sum(axis=0))
    for direction in directions:
        total += direction.T @ direction
    averaged: FloatArray = total * (strength**2 / max(len(alone), 1))
    return averaged


def _of_shape(change: FloatArray, shape: FloatArray) -> FloatArray:
    """Return what a change, in deviations of a spectrum, does to its shape."""
    along = (change * shape).mean(axis=1, keepdims=True)
    left: FloatArray = change - change.mean(axis=1, keepdims=True) - shape * along
    return left


def draw(cube: Tensor, level: float, strength: float = 1.0) -> Tensor:
    """Change every sample as another sensor or sky would.

    Args:
        cube: Stored units, shape ``(sample, band, row, col)``.
        level: Mean value of the scene, which offsets are relative to.
        strength: Share of the standard deviations.

    Returns:
        Same shape; a sample's changes are the same in all of its pixels.
    """
    samples, bands = cube.shape[:2]

    def constant(matrix: FloatArray) -> Tensor:
        return torch.from_numpy(matrix).to(cube)

    def drawn(count: int) -> Tensor:
        """Draw on the CPU, whose random state a resumed run restores."""
        return strength * torch.randn(samples, count).to(cube)

    curves = constant(cosines(bands)).T
    factor = 1 + FACTOR * drawn(COSINES) @ curves + ERROR * drawn(bands)
    offset = OFFSET * level * drawn(COSINES) @ curves
    wider = (torch.rand(samples, bands) < WIDER * strength**2).to(cube)
    # One matrix a sample: what moves and what is wider, (sample, band, band).
    moved = MOVED * drawn(1)[:, :, None] * constant(slope(bands))
    mixing = moved + constant(widening(bands)) * wider[:, None, :]
    mixing = mixing + torch.eye(bands).to(cube)
    pixels = mixing.transpose(1, 2) @ cube.flatten(2)
    return pixels.view_as(cube) * factor[..., None, None] + offset[..., None, None]

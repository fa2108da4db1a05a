"""Shifts of sensor and sky by which a scene is changed, family by family.

Two are those that S2AMSnet learns, too: smooth along the spectrum. The others are not.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hsi_train.simulate import DomainShift, shift_cube

UNIT = 10_000  # stored value of a reflectance of one, in all scenes of the benchmark
LINES_NM = (760, 940, 1140, 1380, 1870)  # where the atmosphere absorbs

Cube = NDArray[Any]
Shift = Callable[[Cube, NDArray[np.float64]], Cube]


def draw_shift(draw: int, strength: float) -> DomainShift:
    """Draw a shift whose direction is the draw's and whose size is the strength's."""
    rng = np.random.default_rng(draw)
    sign = 1 if draw % 2 else -1
    return DomainShift(
        gain=1 + strength * rng.uniform(-0.1, 0.1),
        gain_slope=strength * sign * rng.uniform(0.05, 0.12),
        offset=strength * rng.uniform(0, 0.01),
        haze=strength * rng.uniform(0, 0.02),
        spectral_shift_nm=strength * rng.uniform(-2, 2),
    )


def sensor_and_sky(draw: int, strength: float) -> Shift:
    """Return gain, slope, offset, haze and moved bands of a draw, by the strength."""
    shift = draw_shift(draw, strength)
    return lambda cube, wavelengths_nm: shift_cube(cube, wavelengths_nm, shift, UNIT)


def widened(cube: Cube, wavelengths_nm: NDArray[np.float64]) -> Cube:
    """Half of the bands at two and a half times their width."""
    out = cube.astype(np.float32)
    chosen = np.random.default_rng(0).random(len(cube)) < 0.5
    out[chosen] = ndimage.gaussian_filter1d(out, 1.06, axis=0)[chosen]
    return out


def noisy(cube: Cube, wavelengths_nm: NDArray[np.float64]) -> Cube:
    """Noise of a thirtieth of each band's mean."""
    size = cube.mean(axis=(1, 2), keepdims=True, dtype=np.float64) / 30
    noise = np.random.default_rng(0).normal(size=cube.shape)
    return np.asarray((cube + size * noise).astype(np.float32))


def striped(cube: Cube, wavelengths_nm: NDArray[np.float64]) -> Cube:
    """Columns whose bands are wrong by three percent each."""
    columns = np.random.default_rng(0).normal(size=(len(cube), 1, cube.shape[2]))
    return (cube * (1 + 0.03 * columns)).astype(np.float32)


def blurred(cube: Cube, wavelengths_nm: NDArray[np.float64]) -> Cube:
    """An image blurred by about a pixel."""
    blur = ndimage.gaussian_filter(cube.astype(np.float32), (0, 0.8, 0.8))
    return np.asarray(blur)


def filled(cube: Cube, wavelengths_nm: NDArray[np.float64]) -> Cube:
    """Every twelfth band lost and filled with the one before."""
    out = cube.astype(np.float32)
    out[6::12] = out[5 : len(out) - 1 : 12]
    return out


def uneven(cube: Cube, wavelengths_nm: NDArray[np.float64]) -> Cube:
    """Light that grows from 70 to 130 percent across the scene."""
    return (cube * np.linspace(0.7, 1.3, cube.shape[2])).astype(np.float32)


def like_radiance(cube: Cube, wavelengths_nm: NDArray[np.float64]) -> Cube:
    """Reflectance under a sun and an air that nobody corrected."""
    lines = [np.exp(-np.square((wavelengths_nm - nm) / 15) / 2) for nm in LINES_NM]
    sun = (wavelengths_nm / 550) ** -1.2 * (1 - 0.5 * np.sum(lines, axis=0))
    haze = 0.05 * UNIT * (550 / wavelengths_nm) ** 3
    seen = (cube + haze[:, None, None]) * sun[:, None, None]
    return np.asarray(seen.astype(np.float32))


FAMILIES: dict[str, Shift] = {
    "wider bands": widened,
    "noise": noisy,
    "stripes": striped,
    "blur": blurred,
    "filled bands": filled,
    "uneven light": uneven,
    "like radiance": like_radiance,
}

"""Applies a domain shift: to the spectra of a simulated scene, or to a real cube."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_train.simulate.spec import DomainShift

FloatArray = NDArray[np.float64]


def factor(shift: DomainShift, wavelengths_nm: FloatArray) -> FloatArray:
    """Return what reflectance is multiplied by, shape ``(band,)``."""
    return shift.gain + shift.gain_slope * (wavelengths_nm - 1000) / 1000


def added(shift: DomainShift, wavelengths_nm: FloatArray) -> FloatArray:
    """Return the reflectance that offset and haze add, shape ``(band,)``."""
    return shift.offset + shift.haze * np.square(550 / wavelengths_nm)


def shift_cube(
    cube: NDArray[Any],
    wavelengths_nm: FloatArray,
    shift: DomainShift,
    unit: float,
) -> NDArray[Any]:
    """Make a real cube look like one of another sensor or sky.

    Spectra between band centres are interpolated linearly; beyond the ends they are
    constant. Whole numbers are rounded, and stay off the ends of their type, where
    nodata and saturation are. Noise is the cube's own.

    Args:
        cube: Shape ``(band, row, col)``.
        wavelengths_nm: Band centres, in any order, shape ``(band,)``.
        shift: What changes.
        unit: Stored value of a reflectance of one.

    Returns:
        Same shape and type.
    """
    order = np.argsort(wavelengths_nm, kind="stable")
    centres = wavelengths_nm[order]
    # Position of each band's true centre between two stated ones.
    place = np.interp(
        wavelengths_nm + shift.spectral_shift_nm, centres, np.arange(len(centres))
    )
    below = np.floor(place).astype(np.intp)
    above = np.minimum(below + 1, len(centres) - 1)
    share = (place - below)[:, None, None]
    values = (1 - share) * cube[order[below]] + share * cube[order[above]]
    values *= factor(shift, wavelengths_nm)[:, None, None]
    values += unit * added(shift, wavelengths_nm)[:, None, None]
    if cube.dtype.kind in "iu":
        limits = np.iinfo(cube.dtype)
        values = np.clip(np.rint(values), limits.min + 1, limits.max - 1)
    out: NDArray[Any] = values.astype(cube.dtype)
    return out

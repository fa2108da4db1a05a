"""Refuses values so far from all others that no network can learn beside them.

One pixel of 1e30, such as a fill value that is not declared, makes batch statistics
infinite, and the model that was trained with it maps a single class.
"""

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.scene import Cube

FACTOR = 1e6  # over the usual value; float32 sums up to 1.7e7 values of one size
SAMPLE = 10_000  # pixels of which the usual value is measured


def check_extremes(name: str, cube: Cube, valid: NDArray[np.bool_]) -> None:
    """Refuse a scene with a value a million times as large as the usual ones.

    The usual size of a band is the median of its values without sign, or that of all
    bands where it is larger.

    Args:
        name: File name of the scene.
        cube: Stored units, shape ``(band, row, col)``.
        valid: Pixels that are used, shape ``(row, col)``.

    Raises:
        SceneError: There is one.
    """
    if cube.dtype.itemsize < 4 or not valid.any():
        return  # too few bits to hold such a value
    pixels = np.flatnonzero(valid)[:: max(1, int(valid.sum()) // SAMPLE)]
    sizes = [
        float(np.median(np.abs(band.ravel()[pixels].astype(float)))) for band in cube
    ]
    usual = np.maximum(sizes, np.median(sizes))
    for number, (band, size) in enumerate(zip(cube, usual, strict=True)):
        values = band[valid].astype(np.float64)
        wild = np.abs(values) > FACTOR * size
        if size > 0 and wild.any():
            value = values[wild][np.abs(values[wild]).argmax()]
            raise SceneError(
                f"{name} holds {int(wild.sum())} pixel(s) with values such as "
                f"{value:g} in used band {number + 1}, where {size:g} is usual. "
                "Declare them as nodata (gdal_edit.py -a_nodata), or correct the scene."
            )

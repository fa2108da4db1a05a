"""Moves coordinates between reference systems; what cannot be moved is not finite."""

from typing import Any

import numpy as np
import rasterio.warp
from numpy.typing import NDArray
from rasterio.crs import CRS

Coordinates = NDArray[np.float64]


def project(
    source: CRS, target: CRS, x: Coordinates, y: Coordinates
) -> tuple[Coordinates, Coordinates]:
    """Return the coordinates in another system, infinite where it has no such place."""
    moved = np.full((2, len(x)), np.inf)
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if len(known):
        _project(source, target, np.stack([x, y])[:, known], moved, known)
    return moved[0], moved[1]


def _project(
    source: CRS,
    target: CRS,
    points: NDArray[Any],
    out: NDArray[np.float64],
    where: NDArray[np.intp],
) -> None:
    """Fill ``out[:, where]``: one point outside the projection fails all with it."""
    try:
        out[:, where] = rasterio.warp.transform(source, target, points[0], points[1])
    except Exception:  # rasterio's classes for PROJ's errors are private
        if len(where) == 1:
            return
        half = len(where) // 2
        _project(source, target, points[:, :half], out, where[:half])
        _project(source, target, points[:, half:], out, where[half:])

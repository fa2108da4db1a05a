"""The size of a pixel on the ground, from a CRS and a geotransform."""

import math
from typing import Any

NO_TRANSFORM = (0, 1, 0, 0, 0, 1)  # how GDAL says that there is none


def resolution_m(crs: Any, transform: tuple[float, ...]) -> float | None:
    """Side of a pixel in metres; None where coordinates are geographic or unknown."""
    if not crs or not crs.is_projected or transform == NO_TRANSFORM:
        return None
    _, dx_col, dx_row, _, dy_col, dy_row = transform
    area = abs(dx_col * dy_row - dx_row * dy_col)
    return math.sqrt(area) * float(crs.linear_units_factor[1])

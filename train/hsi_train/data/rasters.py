"""Writes small rasters of a scene on the ground, and brings labels from there to it."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from hsi_runtime.files import replaced
from hsi_runtime.scenes.scene import SceneInfo
from hsi_train.data.classes import Codes


def write_raster(path: Path, values: NDArray[Any], info: SceneInfo) -> None:
    """Write one band of a scene, shape ``(row, col)``, on the grid of its maps."""
    values, info = to_ground(values, info), info.ground
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "width": info.cols,
        "height": info.rows,
        "count": 1,
        "dtype": values.dtype,
        "compress": "deflate",
    }
    if info.crs:
        profile["crs"] = CRS.from_wkt(info.crs)
    if info.transform:
        profile["transform"] = Affine.from_gdal(*info.transform)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        # Closed, that is complete, before it takes its place.
        with replaced(path) as part, rasterio.open(part, "w", **profile) as raster:
            raster.write(values, 1)


def from_ground(codes: Codes, info: SceneInfo) -> Codes:
    """Give each pixel of a scene the code of its cells on the ground.

    Args:
        codes: On the grid of ``info.ground``, 0 for none, shape ``(row, col)``.
        info: The scene.

    Returns:
        On the scene's own pixels; 0 for a pixel whose cells have different codes, none
        of which is known to be its own, and for one that stands in no cell. The codes
        themselves, where the scene lies on the grid.
    """
    if info.placement is None:
        return codes
    grid = info.ground
    cells = info.placement.read((0, grid.rows), (0, grid.cols))
    coded = (cells.rows >= 0) & (codes != 0)
    pixels = cells.rows[coded] * info.cols + cells.cols[coded]
    least = np.full(info.rows * info.cols, np.iinfo(np.int64).max)
    most = np.zeros(info.rows * info.cols, dtype=np.int64)
    np.minimum.at(least, pixels, codes[coded])
    np.maximum.at(most, pixels, codes[coded])
    return np.where(least == most, most, 0).reshape(info.rows, info.cols)


def to_ground(values: NDArray[Any], info: SceneInfo) -> NDArray[Any]:
    """Put values of a scene's pixels into their cells on the ground, 0 elsewhere.

    Args:
        values: Shape ``(row, col)`` of the scene.
        info: The scene.

    Returns:
        On the grid of ``info.ground``.
    """
    if info.placement is None:
        return values
    grid = info.ground
    cells = info.placement.read((0, grid.rows), (0, grid.cols))
    return np.where(cells.rows >= 0, values[cells.rows, cells.cols], 0).astype(
        values.dtype
    )

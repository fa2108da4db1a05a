"""Writes small rasters on a scene's grid."""

import warnings
from pathlib import Path
from typing import Any

import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from hsi_runtime.files import replaced
from hsi_runtime.scenes.scene import SceneInfo


def write_raster(path: Path, values: NDArray[Any], info: SceneInfo) -> None:
    """Write one band on the grid of a scene, shape ``(row, col)``."""
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

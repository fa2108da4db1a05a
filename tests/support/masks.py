from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray


def add_mask(path: Path, seen: NDArray[np.bool_], inside: bool = True) -> Path:
    """Mask a TIFF where ``seen`` is False, in the file or in a ``.msk`` beside it."""
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside),
        rasterio.open(path, "r+") as file,
    ):
        file.write_mask(seen)
    return path

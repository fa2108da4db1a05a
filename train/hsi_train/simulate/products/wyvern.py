"""Writes Wyvern products: a folder of a GeoTIFF with its masks, and a STAC item.

The cube states its wavelengths itself, in tags that begin with capitals.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from hsi_train.simulate.files import TILES, grid_profile
from hsi_train.simulate.products.generator import Bands, Generator
from hsi_train.simulate.spec import NODATA, SceneSpec, band_widths

CENTRES_NM = np.linspace(445.0, 869.0, 31).round(1)
FWHM_NM = 18.0
TIME = "2024-06-30T10:11:12Z"


class WyvernWriter:
    """A Wyvern product that is being written."""

    def __init__(self, spec: SceneSpec, folder: Path) -> None:
        self.spec, self.folder = spec, folder
        self.name = f"wyvern_dragonette-003_20240630T101112_{spec.seed:08x}_l2a"
        count = len(spec.wavelengths_nm)
        profile = grid_profile(spec) | TILES | {"compress": "lzw"}
        cube = {"count": count, "dtype": "float32", "nodata": NODATA["float32"]}
        path = folder / f"{self.name}.tiff"
        self.cube = rasterio.open(path, "w", **profile | cube | {"interleave": "pixel"})
        for band, (centre, width) in enumerate(
            zip(spec.wavelengths_nm, band_widths(spec), strict=True), start=1
        ):
            self.cube.set_band_description(band, f"Band_{centre:.0f}")
            tags = {"Wavelength": f"{centre:.10g}", "Wavelength_Units": "nm"}
            self.cube.update_tags(band, **tags, FWHM=f"{width:.10g}")
        mask = profile | {"count": 2, "dtype": "uint8", "nodata": 255}
        path = folder / f"{self.name}_data_mask.tiff"
        self.mask = rasterio.open(path, "w", **mask)

    def write(self, cube: NDArray[Any], row0: int) -> None:
        """Write a strip ``(band, row, col)``."""
        window = Window(0, row0, cube.shape[2], cube.shape[1])
        self.cube.write(cube, window=window)
        valid = cube[0] != NODATA["float32"]
        clear = np.stack([np.where(valid, 1, 255), np.where(valid, 0, 255)])
        self.mask.write(clear.astype("uint8"), window=window)

    def close(self) -> None:
        """Finish the rasters, and write the item."""
        self.cube.close()
        self.mask.close()
        assets = {
            "Cloud optimized GeoTiff": f"{self.name}.tiff",
            "Data mask": f"{self.name}_data_mask.tiff",
        }
        item: dict[str, Any] = {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": self.name,
            "geometry": None,
            "properties": {
                "datetime": TIME,
                "platform": "dragonette-003",
                "constellation": "dragonette",
                "instruments": ["hyperspectral"],
            },
            "links": [],
            "assets": {name: {"href": f"./{file}"} for name, file in assets.items()},
        }
        path = self.folder / f"{self.name}.json"
        path.write_text(json.dumps(item, indent=1), encoding="utf-8")


def _bands() -> Bands:
    return Bands(tuple(CENTRES_NM.tolist()), (FWHM_NM,) * len(CENTRES_NM))


GENERATOR = Generator(
    bands=_bands(), dtype="float32", resolution_m=5.0, folder=True, start=WyvernWriter
)

"""Writes AVIRIS-3 orthorectified reflectance (``RFL_ORT``): a netCDF4 file.

``GeoTransform`` is that of the corner of the first pixel, the coordinates are centres.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hsi_train.simulate.files import grid_profile
from hsi_train.simulate.products.generator import Bands, Generator
from hsi_train.simulate.spec import NODATA, SceneSpec, band_widths

BANDS = 284
FIRST_NM, LAST_NM, WIDTH_NM = 390.6, 2498.8, 7.9
CHUNK = (10, 128, 128)  # bands, rows, columns


class AvirisWriter:
    """An AVIRIS-3 file that is being written."""

    def __init__(self, spec: SceneSpec, path: Path) -> None:
        """Write all but the pixels."""
        self.file = h5py.File(path, "w")
        shape = len(spec.wavelengths_nm), spec.rows, spec.cols
        self.cube = self.file.create_dataset(
            "reflectance/reflectance",
            shape,
            "<f4",
            chunks=tuple(map(min, shape, CHUNK)),
            compression="gzip",
            shuffle=True,
            fletcher32=True,
            fillvalue=NODATA["float32"],
        )
        self.cube.attrs["_FillValue"] = np.array([NODATA["float32"]], "<f4")
        self.cube.attrs["grid_mapping"] = "transverse_mercator"
        self.file["reflectance/wavelength"] = np.array(spec.wavelengths_nm)
        self.file["reflectance/wavelength"].attrs["Unit"] = "nm"
        self.file["reflectance/fwhm"] = np.array(band_widths(spec))
        profile = grid_profile(spec)
        transform = profile["transform"]
        mapping = self.file.create_dataset("transverse_mercator", (), "S1")
        mapping.attrs["crs_wkt"] = mapping.attrs["spatial_ref"] = profile[
            "crs"
        ].to_wkt()
        mapping.attrs["GeoTransform"] = " ".join(map(repr, transform.to_gdal()))
        east = np.arange(spec.cols) + 0.5
        self.file["easting"] = transform.c + east * transform.a
        north = np.arange(spec.rows) + 0.5
        self.file["northing"] = transform.f + north * transform.e
        self.file.attrs["time_coverage_start"] = "2024-06-30T10:11:12Z"

    def write(self, cube: NDArray[Any], row0: int) -> None:
        """Write a strip ``(band, row, col)``."""
        self.cube[:, row0 : row0 + cube.shape[1]] = cube

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


GENERATOR = Generator(
    bands=Bands(
        tuple(np.linspace(FIRST_NM, LAST_NM, BANDS).round(4).tolist()),
        (WIDTH_NM,) * BANDS,
    ),
    dtype="float32",
    resolution_m=5.0,
    folder=False,
    start=AvirisWriter,
)

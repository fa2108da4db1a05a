"""Writes NEON AOP reflectance: an HDF5 file of a flight line or a tile.

Axes are (row, col, band), whatever the attribute ``Interleave`` says. The two windows
in water vapour are named by attributes of the group.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hsi_train.simulate.files import grid_profile
from hsi_train.simulate.products.generator import Bands, Generator
from hsi_train.simulate.spec import NODATA, SCALE, SceneSpec, band_widths

BANDS = 426
FIRST_NM, LAST_NM, WIDTH_NM = 381.3, 2499.6, 5.8
SITE = "SIMU"
FILL = -9999
WATER_NM = ((1340.0, 1445.0), (1790.0, 1955.0))
CHUNK = (64, 64, 32)  # rows, columns, bands


class NeonWriter:
    """A NEON file that is being written."""

    def __init__(self, spec: SceneSpec, path: Path, revision: str = "002") -> None:
        """Write all but the pixels.

        Args:
            spec: The scene.
            path: The file.
            revision: ``001``, whose texts are scalars, or ``002``, whose texts are
                arrays of one.
        """
        self.file = h5py.File(path, "w")
        group = self.file.create_group(f"{SITE}/Reflectance")
        for number, window in enumerate(WATER_NM, start=1):
            group.attrs[f"Band_Window_{number}_Nanometers"] = np.array(window)
        shape = spec.rows, spec.cols, len(spec.wavelengths_nm)
        chunks = tuple(map(min, shape, CHUNK))
        self.cube = group.create_dataset(
            "Reflectance_Data", shape, "<i2", chunks=chunks, compression="gzip"
        )
        self.cube.attrs["Scale_Factor"] = float(SCALE)
        self.cube.attrs["Data_Ignore_Value"] = float(FILL)
        self.cube.attrs["Interleave"] = "BSQ"
        self.cube.attrs["Dimension_Labels"] = "Line, Sample, Wavelength"
        spectral = group.create_group("Metadata/Spectral_Data")
        spectral["Wavelength"] = np.array(spec.wavelengths_nm)
        spectral["FWHM"] = np.array(band_widths(spec))
        system = group.create_group("Metadata/Coordinate_System")
        for name, text in place(spec).items():
            if revision == "001":
                system[name] = text
            else:
                kind = h5py.string_dtype()
                system.create_dataset(name, (1,), kind)[0] = text

    def write(self, cube: NDArray[Any], row0: int) -> None:
        """Write a strip ``(band, row, col)``."""
        stored = np.where(cube == NODATA["int16"], FILL, cube)
        self.cube[row0 : row0 + cube.shape[1]] = stored.transpose(1, 2, 0)

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


def place(spec: SceneSpec) -> dict[str, str]:
    """Describe the grid in the texts of a NEON file."""
    profile = grid_profile(spec)
    crs, transform = profile["crs"], profile["transform"]
    code = crs.to_epsg()
    numbers = ", ".join(
        f"{v!r}"
        for v in (1.0, 1.0, transform.c, transform.f, transform.a, -transform.e)
    )
    return {
        "EPSG Code": str(code),
        "Map_Info": f"UTM, {numbers}, {code % 100}, North, WGS-84, units=Meters, 0",
        "Coordinate_System_String": crs.to_wkt(),
        "Proj4": f"+proj=utm +zone={code % 100} +datum=WGS84 +units=m +no_defs",
    }


GENERATOR = Generator(
    bands=Bands(
        tuple(np.linspace(FIRST_NM, LAST_NM, BANDS).round(4).tolist()),
        (WIDTH_NM,) * BANDS,
    ),
    dtype="int16",
    resolution_m=1.0,
    folder=False,
    start=NeonWriter,
)

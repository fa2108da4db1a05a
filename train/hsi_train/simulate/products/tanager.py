"""Writes Tanager orthorectified surface reflectance: an HDF-EOS5 file with one grid.

The stated corners are those of the pixels. Bad bands hold -0.01; only the attribute
``good_wavelengths`` tells them.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hsi_train.simulate.files import grid_profile
from hsi_train.simulate.products.generator import Bands, Generator
from hsi_train.simulate.spec import NODATA, SceneSpec, band_widths

BANDS = 426
FIRST_NM, LAST_NM, WIDTH_NM = 376.44, 2499.12, 5.5
BAD_NM = ((1340.0, 1435.0), (1795.0, 1960.0), (2470.0, 2500.0))
SENTINEL = -0.01
CHUNK = (32, 64, 64)  # bands, rows, columns
FIELDS = "HDFEOS/GRIDS/HYP/Data Fields"


def good(centres: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Find the bands that hold reflectance."""
    inside = [(centres >= low) & (centres <= high) for low, high in BAD_NM]
    result: NDArray[np.bool_] = ~np.any(inside, axis=0)
    return result


class TanagerWriter:
    """A Tanager file that is being written."""

    def __init__(self, spec: SceneSpec, path: Path) -> None:
        """Write all but the pixels."""
        self.file = h5py.File(path, "w")
        centres = np.array(spec.wavelengths_nm)
        self.bad = ~good(centres)
        shape = len(centres), spec.rows, spec.cols
        self.cube = self.file.create_dataset(
            f"{FIELDS}/surface_reflectance",
            shape,
            "<f4",
            chunks=tuple(map(min, shape, CHUNK)),
            compression="gzip",
            shuffle=True,
        )
        self.cube.attrs["wavelengths"] = centres
        self.cube.attrs["fwhm"] = np.array(band_widths(spec))
        self.cube.attrs["good_wavelengths"] = (~self.bad).astype("u1")
        self.cube.attrs["_FillValue"] = np.float32(NODATA["float32"])
        self.cube.attrs["epsg_code"] = grid_profile(spec)["crs"].to_epsg()
        self.masks = {
            name: self.file.create_dataset(f"{FIELDS}/{name}", shape[1:], "u1")
            for name in ("nodata_pixels", "beta_cloud_mask", "beta_cirrus_mask")
        }
        text = structure(spec)
        self.file["HDFEOS INFORMATION/StructMetadata.0"] = np.bytes_(text)

    def write(self, cube: NDArray[Any], row0: int) -> None:
        """Write a strip ``(band, row, col)``."""
        rows = slice(row0, row0 + cube.shape[1])
        empty = cube[0] == NODATA["float32"]
        stored = cube.copy()
        stored[self.bad] = np.where(empty, cube[0], np.float32(SENTINEL))
        self.cube[:, rows] = stored
        self.masks["nodata_pixels"][rows] = empty

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


def structure(spec: SceneSpec) -> str:
    """Describe the grid as HDF-EOS does."""
    profile = grid_profile(spec)
    transform, code = profile["transform"], profile["crs"].to_epsg()
    right, bottom = transform @ (spec.cols, spec.rows)
    lines = (
        "GROUP=GridStructure",
        "\tGROUP=GRID_1",
        '\t\tGridName="HYP"',
        f"\t\tXDim={spec.cols}",
        f"\t\tYDim={spec.rows}",
        f"\t\tUpperLeftPointMtrs=({transform.c!r},{transform.f!r})",
        f"\t\tLowerRightMtrs=({right!r},{bottom!r})",
        "\t\tProjection=HE5_GCTP_UTM",
        f"\t\tZoneCode={code % 100}",
        "\t\tSphereCode=12",
        "\t\tPixelRegistration=HE5_HDFE_CORNER",
        "\tEND_GROUP=GRID_1",
        "END_GROUP=GridStructure",
        "END",
    )
    return "\n".join(lines) + "\n"


GENERATOR = Generator(
    bands=Bands(
        tuple(np.linspace(FIRST_NM, LAST_NM, BANDS).round(4).tolist()),
        (WIDTH_NM,) * BANDS,
    ),
    dtype="float32",
    resolution_m=30.0,
    folder=False,
    start=TanagerWriter,
)

"""Writes PRISMA L2D: an HDF-EOS5 file with a cube of each of two spectrometers.

Their bands run from long waves to short ones and overlap around 960 nm; bands that were
not acquired have the centre 0. The stated corners are centres of pixels.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hsi_train.simulate.files import grid_profile
from hsi_train.simulate.products.generator import Bands, Generator
from hsi_train.simulate.spec import NODATA, SceneSpec, band_widths

VNIR_NM = np.linspace(402.5, 977.4, 63).round(4)
SWIR_NM = np.linspace(943.4, 2497.1, 171).round(4)
VNIR_FWHM_NM, SWIR_FWHM_NM = 11.3, 13.6
EMPTY = {"Vnir": 3, "Swir": 2}  # bands that were not acquired
STEPS = 65_535
LIMITS = (0.0, 6.5535)  # reflectance of the stored values 0 and 65535
FIELDS = "HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields"


def bands() -> Bands:
    """Merge the bands of both spectrometers by wavelength."""
    centres = np.concatenate([VNIR_NM, SWIR_NM])
    widths = np.repeat([VNIR_FWHM_NM, SWIR_FWHM_NM], [len(VNIR_NM), len(SWIR_NM)])
    order = np.argsort(centres)
    return Bands(tuple(centres[order].tolist()), tuple(widths[order].tolist()))


class PrismaWriter:
    """A PRISMA file that is being written."""

    def __init__(
        self,
        spec: SceneSpec,
        path: Path,
        limits: dict[str, tuple[float, float]] | None = None,
    ) -> None:
        """Write all but the pixels.

        Args:
            spec: The scene.
            path: The file.
            limits: Reflectance of the stored values 0 and 65535, of each spectrometer.
        """
        self.file = h5py.File(path, "w")
        self.limits = limits or dict.fromkeys(EMPTY, LIMITS)
        centres, widths = np.array(spec.wavelengths_nm), np.array(band_widths(spec))
        # Bands of the simulated cube that each spectrometer has, as they are stored.
        vnir = np.isin(centres, VNIR_NM)
        self.picked = {
            "Vnir": np.flatnonzero(vnir)[::-1],
            "Swir": np.flatnonzero(~vnir)[::-1],
        }
        self.cubes = {}
        for name, picked in self.picked.items():
            empty = np.zeros(EMPTY[name])
            attributes = {
                f"List_Cw_{name}": np.concatenate([centres[picked], empty]),
                f"List_Fwhm_{name}": np.concatenate([widths[picked], empty]),
                f"List_Cw_{name}_Flags": np.concatenate(
                    [np.ones(len(picked), "i2"), empty.astype("i2")]
                ),
                f"L2Scale{name}Min": self.limits[name][0],
                f"L2Scale{name}Max": self.limits[name][1],
            }
            self.file.attrs.update(attributes)
            shape = spec.rows, len(picked) + EMPTY[name], spec.cols
            for suffix, dtype in (("Cube", "<u2"), ("PIXEL_L2_ERR_MATRIX", "u1")):
                made = self.file.create_dataset(
                    f"{FIELDS}/{name.upper()}_{suffix}", shape, dtype
                )
                self.cubes[name, suffix] = made
        self.file.attrs.update(corners(spec))
        self.file.attrs["Product_Name"] = f"PRS_L2D_STD_{spec.seed:014d}"
        self.file.attrs["Product_StartTime"] = "2024-06-30T10:11:12.123456"

    def write(self, cube: NDArray[Any], row0: int) -> None:
        """Write a strip ``(band, row, col)``."""
        rows = slice(row0, row0 + cube.shape[1])
        for name, picked in self.picked.items():
            least, most = self.limits[name]
            stored = cube[picked].astype(np.float64) * (LIMITS[1] / STEPS)
            stored = np.rint((stored - least) / (most - least) * STEPS)
            stored = np.clip(stored, 1, STEPS)
            stored[cube[picked] == NODATA["uint16"]] = 0
            lines = self.cubes[name, "Cube"]
            lines[rows, : len(picked)] = stored.transpose(1, 0, 2).astype("<u2")

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


def corners(spec: SceneSpec) -> dict[str, float | int]:
    """Place the centres of the pixels at the corners."""
    profile = grid_profile(spec)
    placed = {"Epsg_Code": profile["crs"].to_epsg()}
    ends = {"U": 0, "L": spec.rows - 1}, {"L": 0, "R": spec.cols - 1}
    for vertical, row in ends[0].items():
        for side, col in ends[1].items():
            east, north = profile["transform"] @ (col + 0.5, row + 0.5)
            placed[f"Product_{vertical}{side}corner_easting"] = east
            placed[f"Product_{vertical}{side}corner_northing"] = north
    return placed


GENERATOR = Generator(
    bands=bands(), dtype="uint16", resolution_m=30.0, folder=False, start=PrismaWriter
)

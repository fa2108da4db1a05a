"""Writes EMIT L2A reflectance: a netCDF4 file of lines as an instrument sees them.

The scene that is simulated lies on the grid of the ground. A lookup table (GLT) says
which pixel stands in each of its cells: the swath leans, and a pixel stands in
``STRETCH`` cells of each axis on average, as it does in a rotated grid of degrees. A
pixel has the spectrum of the first of its cells.
"""

from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine

from hsi_train.simulate.files import grid_profile
from hsi_train.simulate.products.generator import Bands, Generator
from hsi_train.simulate.spec import NODATA, SceneSpec, band_widths

BANDS = 285
FIRST_NM, LAST_NM, WIDTH_NM = 381.0, 2492.9, 8.5
BAD_NM = ((1320.0, 1440.0), (1770.0, 1970.0))
SENTINEL = np.float32(-0.01)
STRETCH = 5, 4  # cells for pixels, along each axis
LEAN = 4  # the swath leans by this part of the smaller side
WEST, NORTH, STEP = 14.25, 52.5, 0.000542232520256367  # degrees


class Swath(NamedTuple):
    """How the swath of a scene lies on the grid of its ground.

    Attributes:
        rows: Rows of the grid.
        cols: Columns of the grid.
    """

    rows: int
    cols: int

    @property
    def lean(self) -> int:
        """Columns by which the last line lies farther east than the first."""
        return min(self.rows, self.cols) // LEAN

    @property
    def lines(self) -> int:
        """Lines of the swath."""
        return self.line(self.rows - 1) + 1

    @property
    def samples(self) -> int:
        """Samples of a line."""
        cells, pixels = STRETCH
        return max((self.cols - self.lean) * pixels // cells, 1)

    def line(self, row: int) -> int:
        """Return the line that stands in a row."""
        cells, pixels = STRETCH
        return row * pixels // cells

    def shift(self, row: int) -> int:
        """Return the first column of a row that has a pixel."""
        return self.lean * row // self.rows

    def table(self, row: int) -> NDArray[np.int32]:
        """Return the sample in each cell of a row, from 1, and 0 outside."""
        cells, pixels = STRETCH
        cols = np.arange(self.cols) - self.shift(row)
        sample = cols * pixels // cells
        inside = (cols >= 0) & (sample < self.samples)
        return np.where(inside, sample + 1, 0).astype(np.int32)

    def first_cells(self, row: int) -> NDArray[np.intp]:
        """Return the column of the first cell of each sample in a row."""
        cells, pixels = STRETCH
        first = -(-np.arange(self.samples) * cells // pixels)
        return np.minimum(first + self.shift(row), self.cols - 1)


def ground(spec: SceneSpec) -> dict[str, Any]:
    """Return the georeference of the grid, for rasterio."""
    origin = NORTH - spec.origin_row * STEP
    return grid_profile(spec) | {
        "crs": CRS.from_epsg(4326),
        "transform": Affine(STEP, 0.0, WEST, 0.0, -STEP, origin),
    }


class EmitWriter:
    """An EMIT file that is being written."""

    def __init__(self, spec: SceneSpec, path: Path) -> None:
        """Write all but the pixels."""
        self.swath = Swath(spec.rows, spec.cols)
        self.file = h5py.File(path, "w")
        centres = np.array(spec.wavelengths_nm)
        self.bad = np.any([(centres > a) & (centres < b) for a, b in BAD_NM], axis=0)
        lines, samples = self.swath.lines, self.swath.samples
        shape = lines, samples, len(centres)
        self.cube = self.file.create_dataset("reflectance", shape, "<f4")
        self.cube.attrs["_FillValue"] = np.array([NODATA["float32"]], "<f4")
        parameters = self.file.create_group("sensor_band_parameters")
        parameters["wavelengths"] = centres
        parameters["fwhm"] = np.array(band_widths(spec))
        parameters["good_wavelengths"] = (~self.bad).astype("<f4")
        location = self.file.create_group("location")
        grid = spec.rows, spec.cols
        self.table = [
            location.create_dataset(name, grid, "<i4") for name in ("glt_y", "glt_x")
        ]
        self.places = [
            location.create_dataset(name, (lines, samples), "<f8")
            for name in ("lat", "lon")
        ]
        profile = ground(spec)
        self.transform: Affine = profile["transform"]
        self.file.attrs["geotransform"] = np.array(self.transform.to_gdal())
        self.file.attrs["spatial_ref"] = np.bytes_(profile["crs"].to_wkt())
        self.file.attrs["time_coverage_start"] = "2024-06-30T10:11:12+0000"
        self.file.attrs["title"] = "EMIT L2A Estimated Surface Reflectance 60 m V001"

    def write(self, cube: NDArray[Any], row0: int) -> None:
        """Write the lines whose first cells are in a strip ``(band, row, col)``."""
        for number in range(cube.shape[1]):
            row = row0 + number
            line, samples = self.swath.line(row), self.swath.table(row)
            self.table[0][row] = np.where(samples > 0, line + 1, 0)
            self.table[1][row] = samples
            if row and line == self.swath.line(row - 1):
                continue
            cols = self.swath.first_cells(row)
            values = cube[:, number, cols].T.copy()  # (sample, band)
            empty = values[:, 0] == NODATA["float32"]
            values[:, self.bad] = np.where(empty, values[:, 0], SENTINEL)[:, None]
            self.cube[line] = values
            lon, lat = self.transform @ (cols + 0.5, np.full(len(cols), row + 0.5))
            self.places[0][line], self.places[1][line] = lat, lon

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


GENERATOR = Generator(
    bands=Bands(
        tuple(np.linspace(FIRST_NM, LAST_NM, BANDS).round(4).tolist()),
        (WIDTH_NM,) * BANDS,
    ),
    dtype="float32",
    resolution_m=60.0,
    folder=False,
    start=EmitWriter,
    grid=ground,
)

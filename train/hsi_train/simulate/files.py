"""Write simulated scenes strip by strip: GeoTIFF, or ENVI's flat binary and header.

The nodata value is always declared, and no valid pixel holds it in any band.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.windows import Window

from hsi_runtime.errors import OutputError, ResourceError
from hsi_runtime.files import sync, unfinished
from hsi_train.simulate.spec import (
    NODATA,
    SCALE,
    DType,
    SceneSpec,
    band_widths,
    class_colors,
    class_names,
)

Layout = Literal["tiff-band", "tiff-pixel", "tiff-striped", "bsq", "bil", "bip"]

ENVI_TYPES: dict[DType, int] = {"uint16": 12, "int16": 2, "float32": 4}
CRS_EPSG, WEST_M, NORTH_M = 32633, 400_000.0, 5_800_000.0
BLOCK = 128  # side of a tile
TILES = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}


def grid_profile(spec: SceneSpec) -> dict[str, Any]:
    """Return the georeference that all rasters of a scene share, for rasterio."""
    side = spec.resolution_m
    return {
        "driver": "GTiff",
        "height": spec.rows,
        "width": spec.cols,
        "crs": CRS.from_epsg(CRS_EPSG),
        "transform": from_origin(WEST_M, NORTH_M - spec.origin_row * side, side, side),
        "BIGTIFF": "IF_SAFER",
    }


class TiffCube:
    """A cube being written as a GeoTIFF."""

    def __init__(
        self,
        spec: SceneSpec,
        path: Path,
        layout: Layout,
        compress: str | None,
        sparse: bool,
    ) -> None:
        profile = grid_profile(spec) | {
            "count": len(spec.wavelengths_nm),
            "dtype": spec.dtype,
            "nodata": NODATA[spec.dtype],
            "interleave": "pixel" if layout == "tiff-pixel" else "band",
            "SPARSE_OK": sparse,
        }
        if layout != "tiff-striped":
            profile |= TILES
        if compress:
            profile |= {
                "compress": compress,
                "predictor": 3 if spec.dtype == "float32" else 2,
            }
        self.file = rasterio.open(path, "w", **profile)
        # The header is set before the pixels, so that it need not move behind them.
        if spec.dtype != "float32":
            self.file.scales = (1 / SCALE,) * len(spec.wavelengths_nm)
        for band, (centre, width) in enumerate(
            zip(spec.wavelengths_nm, band_widths(spec), strict=True), start=1
        ):
            self.file.set_band_description(band, f"{centre:.10g} nm")
            self.file.update_tags(
                band,
                wavelength=f"{centre:.10g}",
                wavelength_units="Nanometers",
                fwhm=f"{width:.10g}",
            )

    def write(self, cube: NDArray[Any], row0: int) -> None:
        """Write a strip ``(band, row, col)``."""
        self.file.write(cube, window=Window(0, row0, cube.shape[2], cube.shape[1]))

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


class EnviCube:
    """A cube being written as ENVI's flat binary; the header is ``envi_header``."""

    def __init__(self, spec: SceneSpec, path: Path, layout: Layout) -> None:
        self.spec = spec
        self.layout = layout
        self.file = path.open("wb")

    def write(self, cube: NDArray[Any], row0: int) -> None:
        """Write a strip ``(band, row, col)``; strips come in order."""
        little = cube.astype(cube.dtype.newbyteorder("<"), copy=False)
        if self.layout == "bil":
            self.file.write(np.ascontiguousarray(little.transpose(1, 0, 2)).data)
        elif self.layout == "bip":
            self.file.write(np.ascontiguousarray(little.transpose(1, 2, 0)).data)
        else:
            line = self.spec.cols * little.itemsize
            for band, plane in enumerate(little):
                self.file.seek((band * self.spec.rows + row0) * line)
                self.file.write(np.ascontiguousarray(plane).data)

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


def envi_header(spec: SceneSpec, layout: Layout) -> str:
    """Return the text of an ENVI header."""
    side = spec.resolution_m
    north = NORTH_M - spec.origin_row * side
    place = f"1, 1, {WEST_M:.10g}, {north:.10g}, {side:.10g}, {side:.10g}"
    centres = ", ".join(f"{w:.10g}" for w in spec.wavelengths_nm)
    widths = ", ".join(f"{w:.10g}" for w in band_widths(spec))
    names = ", ".join(f"{w:.10g} nm" for w in spec.wavelengths_nm)
    wkt = CRS.from_epsg(CRS_EPSG).to_wkt(version="WKT1_ESRI")
    lines = [
        "ENVI",
        f"description = {{Simulated scene, seed {spec.seed}}}",
        f"samples = {spec.cols}",
        f"lines = {spec.rows}",
        f"bands = {len(spec.wavelengths_nm)}",
        "header offset = 0",
        "file type = ENVI Standard",
        f"data type = {ENVI_TYPES[spec.dtype]}",
        f"interleave = {layout}",
        "byte order = 0",
        f"map info = {{UTM, {place}, {CRS_EPSG % 100}, North, WGS-84, units=Meters}}",
        f"coordinate system string = {{{wkt}}}",
        "wavelength units = Nanometers",
        f"wavelength = {{{centres}}}",
        f"fwhm = {{{widths}}}",
        f"band names = {{{names}}}",
        f"data ignore value = {NODATA[spec.dtype]:g}",
    ]
    if spec.dtype != "float32":
        lines.append(f"reflectance scale factor = {SCALE}")
    return "\n".join(lines) + "\n"


def open_truth(spec: SceneSpec, path: Path, grid: dict[str, Any]) -> Any:
    """Create the truth map: code 1..K of the largest abundance, 0 outside.

    Args:
        spec: The scene.
        path: The file.
        grid: Georeference, for rasterio.
    """
    profile = grid | {"count": 1, "dtype": "uint8", "nodata": 0}
    file = rasterio.open(path, "w", **profile, **TILES, compress="deflate")
    colours = {code: (*colour, 255) for code, colour in class_colors(spec).items()}
    file.write_colormap(1, {0: (0, 0, 0, 0)} | colours)
    file.update_tags(1, CLASS_NAMES=json.dumps(class_names(spec)))
    file.set_band_description(1, "class")
    return file


def open_abundances(spec: SceneSpec, path: Path, grid: dict[str, Any]) -> Any:
    """Create the abundance map: one float32 band per material, -1 outside.

    Args:
        spec: The scene.
        path: The file.
        grid: Georeference, for rasterio.
    """
    profile = grid | {"dtype": "float32", "nodata": -1}
    file = rasterio.open(
        path, "w", **profile, **TILES, count=len(spec.materials), compress="deflate"
    )
    file.descriptions = spec.materials
    return file


def check_space(folder: Path, stored_bytes: int) -> None:
    """Refuse to start what would overfill the disk."""
    free = shutil.disk_usage(folder).free
    if stored_bytes > free:
        raise ResourceError(
            f"The scene takes {stored_bytes / 1e9:.1f} GB and {folder} has "
            f"{free / 1e9:.1f} GB free; ask for a smaller scene, or make room."
        )


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse to write a product into a folder that holds something.

    Raises:
        OutputError: It does, and may not be overwritten; or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; a product needs a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise OutputError(f"{folder} is not empty; --overwrite replaces its files.")


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write to; its finished files then go to ``folder``.

    Files there that have the names of new ones are replaced, others stay. If writing
    fails, all are as they were.
    """
    partial = unfinished(folder)
    partial.mkdir()
    try:
        yield partial
        folder.mkdir(exist_ok=True)
        for path in sorted(partial.iterdir()):
            sync(path)
            os.replace(path, folder / path.name)
        sync(folder)
    finally:
        shutil.rmtree(partial)

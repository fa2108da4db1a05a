"""Writes DESIS L1C and L2A products: a folder of GeoTIFFs, METADATA.xml and a header.

An ENVI header of the cube repeats the wavelengths and gains of the XML. The XML has
elements ``band`` in two places: those of ``interiorOrientation`` describe no spectrum.
"""

from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from hsi_train.simulate.files import TILES, grid_profile
from hsi_train.simulate.products.generator import Bands, Generator
from hsi_train.simulate.products.xml_elements import add
from hsi_train.simulate.spec import NODATA, SceneSpec, band_widths

CENTRES_NM = np.linspace(401.9, 999.5, 235).round(3)
FWHM_NM = 3.5
# Bands of QL_QUALITY-2, of L2A only.
FLAGS = (
    *("shadow", "land", "snow", "haze over land", "haze over water"),
    *("cloud over land", "cloud over water", "water", "AOT", "water vapour"),
)
LAND = FLAGS.index("land")


class DesisWriter:
    """A DESIS product that is being written."""

    def __init__(self, spec: SceneSpec, folder: Path, level: str = "L2A") -> None:
        self.spec, self.folder, self.level = spec, folder, level
        self.name = f"DESIS-HSI-{level}-DT{spec.seed:010d}_001-20200101T101112-V0215"
        count = len(spec.wavelengths_nm)
        profile = grid_profile(spec) | TILES | {"compress": "deflate"}
        cube = {"count": count, "dtype": "int16", "nodata": NODATA["int16"]}
        cube |= {"interleave": "pixel", "predictor": 2}
        path = self.path("SPECTRAL_IMAGE.tif")
        self.cube = rasterio.open(path, "w", **profile | cube)
        mask = {"count": count, "dtype": "uint8", "interleave": "band"}
        path = self.path("QL_QUALITY.tif")
        self.mask = rasterio.open(path, "w", **profile | mask)
        self.flags = None
        if level == "L2A":
            path, flags = self.path("QL_QUALITY-2.tif"), {"count": len(FLAGS)}
            self.flags = rasterio.open(path, "w", **profile | mask | flags)

    def path(self, member: str) -> Path:
        """Name a file of the product."""
        return self.folder / f"{self.name}-{member}"

    def write(self, cube: NDArray[Any], row0: int) -> None:
        """Write a strip ``(band, row, col)``."""
        window = Window(0, row0, cube.shape[2], cube.shape[1])
        self.cube.write(cube, window=window)
        self.mask.write(np.zeros(cube.shape, "uint8"), window=window)
        if self.flags is not None:
            flags = np.zeros((len(FLAGS), *cube.shape[1:]), "uint8")
            flags[LAND] = cube[0] != NODATA["int16"]
            self.flags.write(flags, window=window)

    def close(self) -> None:
        """Finish the rasters, and write the metadata."""
        for file in (self.cube, self.mask, self.flags):
            if file is not None:
                file.close()
        header = self.path("SPECTRAL_IMAGE.hdr")
        header.write_text(self.header(), encoding="ascii")
        root = self.metadata()
        ElementTree.indent(root)
        path = self.path("METADATA.xml")
        ElementTree.ElementTree(root).write(path, "UTF-8", xml_declaration=True)

    def units(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return gain and offset of each band; those of radiance all differ."""
        count = len(self.spec.wavelengths_nm)
        if self.level == "L2A":
            return np.full(count, 1e-4), np.zeros(count)
        steps = np.arange(count, dtype=np.float64)
        return 2e-3 * (1 + 0.001 * steps), 0.05 * np.sin(steps)

    def header(self) -> str:
        """Return the text of the cube's ENVI header."""
        spec = self.spec
        gains, offsets = self.units()
        lists = {
            "wavelength": [f"{w:.10g}" for w in spec.wavelengths_nm],
            "fwhm": [f"{w:.10g}" for w in band_widths(spec)],
            "data gain values": [repr(float(gain)) for gain in gains],
            "data offset values": [repr(float(offset)) for offset in offsets],
        }
        lines = [
            "ENVI",
            f"description = {{{self.name}}}",
            f"samples = {spec.cols}",
            f"lines   = {spec.rows}",
            f"bands   = {len(spec.wavelengths_nm)}",
            "header offset = 0",
            "file type = TIFF",
            "data type = 2",
            "interleave = bip",
            "byte order = 0",
            f"data ignore value = {NODATA['int16']:g}",
            "wavelength units = Nanometers",
            *(f"{key} = {{{', '.join(values)}}}" for key, values in lists.items()),
        ]
        return "\n".join(lines) + "\n"

    def metadata(self) -> Element:
        """Compose METADATA.xml, reduced to what describes the cube."""
        spec = self.spec
        root = Element("hsi_doc")
        add(root, "base/mission", "DESIS")
        add(root, "base/productType", self.level)
        add(root, "base/temporalCoverage/startTime", "2020-01-01T10:11:12.345000Z")
        add(root, "base/tileID", "001")
        add(root, "specific/backgroundValue", f"{NODATA['int16']:g}")
        add(root, "specific/numberOfBands", len(spec.wavelengths_nm))
        bands = add(root, "specific/bandCharacterisation")
        orientation = add(root, "specific/interiorOrientation")
        gains, offsets = self.units()
        for number, (centre, width, gain, offset) in enumerate(
            zip(spec.wavelengths_nm, band_widths(spec), gains, offsets, strict=True),
            start=1,
        ):
            band = SubElement(bands, "band")
            add(band, "bandNumber", number)
            add(band, "wavelengthCenterOfBand", f"{centre:.10g}")
            add(band, "wavelengthWidthOfBand", f"{width:.10g}")
            add(band, "response", "0.0,0.5,1.0,0.5,0.0")
            add(band, "wavelengths", f"{centre - width:.10g},{centre + width:.10g}")
            add(band, "gainOfBand", repr(float(gain)))
            add(band, "offsetOfBand", repr(float(offset)))
            geometric = SubElement(orientation, "band")
            add(geometric, "bandNumber", number)
            add(geometric, "focalLength", "320.0")
        return root


def _bands() -> Bands:
    return Bands(tuple(CENTRES_NM.tolist()), (FWHM_NM,) * len(CENTRES_NM))


GENERATOR = Generator(
    bands=_bands(), dtype="int16", resolution_m=30.0, folder=True, start=DesisWriter
)
L1C = GENERATOR._replace(start=partial(DesisWriter, level="L1C"))

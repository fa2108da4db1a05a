"""Writes EnMAP L1C and L2A products: a folder of GeoTIFFs and METADATA.XML.

The cube has no spectral tag at all: wavelengths, gains and bad bands stand in the XML
alone. Two spectrometers overlap, and their bands are ordered by wavelength. Six bands
in water vapour hold nodata only.
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

VNIR_NM = np.linspace(418.24, 993.36, 91)
SWIR_NM = np.linspace(902.22, 2445.53, 133)
VNIR_FWHM_NM, SWIR_FWHM_NM = 7.6, 9.9
DEAD_NM = 1355.0, 1420.0  # holds bands 131 to 136 of 224
DEAD_MEAN = "-1000000"  # what the statistics say of a band without a value
QUALITY = ("CLASSES", "CLOUD", "CLOUDSHADOW", "CIRRUS", "HAZE", "SNOW", "TESTFLAGS")
INSIDE, OUTSIDE = 1, 3  # of QL_QUALITY_CLASSES: land, background


def bands() -> Bands:
    """Merge the bands of both spectrometers by wavelength."""
    centres = np.concatenate([VNIR_NM, SWIR_NM]).round(3)
    widths = np.repeat([VNIR_FWHM_NM, SWIR_FWHM_NM], [len(VNIR_NM), len(SWIR_NM)])
    order = np.argsort(centres)
    return Bands(tuple(centres[order].tolist()), tuple(widths[order].tolist()))


def dead(centres_nm: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Find the bands that hold nodata only."""
    low, high = DEAD_NM
    result: NDArray[np.bool_] = (centres_nm > low) & (centres_nm < high)
    return result


def product_name(spec: SceneSpec, level: str) -> str:
    """Name a product as the archive does."""
    return (
        f"ENMAP01-____{level}-DT{spec.seed:010d}_20240630T101112Z_001_V010502_"
        "20240702T030405Z"
    )


class EnmapWriter:
    """An EnMAP product that is being written."""

    def __init__(self, spec: SceneSpec, folder: Path, level: str = "L2A") -> None:
        self.spec, self.folder, self.level = spec, folder, level
        self.name = product_name(spec, level)
        self.centres = np.array(spec.wavelengths_nm)
        self.fill = NODATA["int16"] if level == "L2A" else 0
        count = len(self.centres)
        profile = grid_profile(spec) | TILES | {"compress": "deflate"}
        wide = profile | {"count": count, "interleave": "band", "predictor": 2}
        cube = wide | {"dtype": "int16", "nodata": self.fill}
        self.cube = rasterio.open(self.path("SPECTRAL_IMAGE.TIF"), "w", **cube)
        mask = self.path("QL_PIXELMASK.TIF")
        self.mask = rasterio.open(mask, "w", **wide | {"dtype": "uint8"})
        self.quality = {
            name: rasterio.open(
                self.path(f"QL_QUALITY_{name}.TIF"),
                "w",
                **profile | {"count": 1, "dtype": "uint8"},
            )
            for name in QUALITY
        }
        self.sums = np.zeros((3, count))  # number of values, sum, sum of squares

    def path(self, member: str) -> Path:
        """Name a file of the product."""
        return self.folder / f"{self.name}-{member}"

    def write(self, cube: NDArray[Any], row0: int) -> None:
        """Write a strip ``(band, row, col)``."""
        window = Window(0, row0, cube.shape[2], cube.shape[1])
        valid = cube[0] != NODATA["int16"]  # (row, col)
        real = np.where(cube == self.fill, self.fill + 1, cube)
        stored = np.where(valid, real, self.fill).astype("int16")
        stored[dead(self.centres)] = self.fill
        values = stored[:, valid].astype(np.float64)  # (band, pixel)
        counts = np.full(len(stored), valid.sum())
        self.sums += [counts, values.sum(axis=1), (values**2).sum(axis=1)]
        self.cube.write(stored, window=window)
        self.mask.write(np.zeros(stored.shape, "uint8"), window=window)
        for name, file in self.quality.items():
            layer = np.where(valid, INSIDE, OUTSIDE) if name == "CLASSES" else 0 * valid
            file.write(layer.astype("uint8"), 1, window=window)

    def close(self) -> None:
        """Finish the rasters, and write the metadata."""
        for file in (self.cube, self.mask, *self.quality.values()):
            file.close()
        root = self.metadata()
        ElementTree.indent(root)
        path = self.path("METADATA.XML")
        ElementTree.ElementTree(root).write(path, "UTF-8", xml_declaration=True)

    def metadata(self) -> Element:
        """Compose METADATA.XML, reduced to what describes the cube."""
        spec, count = self.spec, len(self.centres)
        root = Element("level_X")
        add(root, "metadata/name", f"{self.name}-METADATA.XML")
        add(root, "base/format", f"ENMAP_{self.level}")
        add(root, "base/level", self.level)
        add(root, "base/temporalCoverage/startTime", "2024-06-30T10:11:12.123456Z")
        add(root, "processing/productFormat", "GeoTIFF+Metadata")
        add(root, "specific/backgroundValue", f"{self.fill:g}")
        add(root, "specific/widthOfOrthoScene", spec.cols)
        add(root, "specific/heightOfOrthoScene", spec.rows)
        bands = add(root, "specific/bandCharacterisation")
        gains, offsets = self.units()
        for number, (centre, width, gain, offset) in enumerate(
            zip(self.centres, band_widths(spec), gains, offsets, strict=True), start=1
        ):
            band = SubElement(bands, "bandID", number=str(number))
            add(band, "wavelengthCenterOfBand", f"{centre:.10g}")
            add(band, "FWHMOfBand", f"{width:.10g}")
            add(band, "GainOfBand", repr(float(gain)))
            add(band, "OffsetOfBand", repr(float(offset)))
        vnir = np.isin(self.centres, VNIR_NM.round(3))
        for detector, its in (("vnir", vnir), ("swir", ~vnir)):
            numbers = ",".join(str(b + 1) for b in np.flatnonzero(its))
            quality = add(root, f"specific/{detector}ProductQuality")
            add(quality, "numChannelsExpected", int(its.sum()))
            add(quality, "expectedChannelsList", numbers)
        image = add(root, "product/image/merge")
        add(image, "name", f"{self.name}-SPECTRAL_IMAGE.TIF")
        add(image, "channels", count)
        files = add(root, "product/productFileInformation")
        for path in sorted(self.folder.iterdir()):
            add(SubElement(files, "file"), "name", path.name)
        self.add_statistics(root)
        return root

    def units(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return gain and offset of each band; those of radiance all differ."""
        count = len(self.centres)
        if self.level == "L2A":
            return np.full(count, 1e-4), np.zeros(count)
        steps = np.arange(count, dtype=np.float64)
        return 1e-5 * (1 + 0.001 * steps), 1e-4 * np.cos(steps)

    def add_statistics(self, root: Element) -> None:
        """Add mean and deviation of each band."""
        number, total, squares = self.sums
        mean = total / np.maximum(number, 1)
        deviation = np.sqrt(np.maximum(squares / np.maximum(number, 1) - mean**2, 0))
        statistics = add(root, "product/bandStatistics")
        empty = dead(self.centres)
        for at, (centre, spread) in enumerate(zip(mean, deviation, strict=True)):
            band = SubElement(statistics, "bandID", number=str(at + 1))
            add(band, "mean", DEAD_MEAN if empty[at] else f"{centre:.6f}")
            add(band, "stdDeviation", "0" if empty[at] else f"{spread:.6f}")


GENERATOR = Generator(
    bands=bands(), dtype="int16", resolution_m=30.0, folder=True, start=EnmapWriter
)
L1C = GENERATOR._replace(start=partial(EnmapWriter, level="L1C"))

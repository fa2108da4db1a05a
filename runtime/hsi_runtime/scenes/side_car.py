"""Reads GDAL's side-car of a raster, ``scene.tif.aux.xml``, as plain XML.

GDAL and ArcGIS put there what a file itself cannot hold or may not be changed for:
nodata, scale, coordinate system. It is not opened through GDAL, because a side-car can
name other files; here names mean nothing. What the file itself says comes first.
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError

from hsi_runtime.errors import SceneError
from hsi_runtime.files import read_whole
from hsi_runtime.scenes.products import safe_xml
from hsi_runtime.scenes.scene import ControlPoints, Transform
from hsi_runtime.scenes.wavelengths import (
    Place,
    imagery_place,
    list_place,
    tag_place,
)

MOST_BYTES = 16 * 1024**2  # histograms of hundreds of bands take less
CRS_LETTERS = 100_000

PerBand = NDArray[np.float64]
Units = tuple[PerBand | None, PerBand | None]  # scale, offset
# Of a band: what is kept as text.
NODATA_FIELDS = ("NoDataValue", "NoDataValueAsInt64", "NoDataValueAsUInt64")
BAND_FIELDS = (*NODATA_FIELDS, "Scale", "Offset", "Description", "ColorInterp")


@dataclass
class Statements:
    """What a file says about a raster, and what of it a scene takes.

    The file is the raster itself, or one beside it; where there is none, it says
    nothing.

    Attributes:
        path: The file.
        own: True if the file is the raster itself, whose words come first.
        product: True if the file is the metadata of the raster's product, which is the
            usual place for what it says: nobody needs a note about that.
        nodata: Fill values by 0-based band.
        scale: Scales by band.
        offset: Offsets by band.
        names: Descriptions by band.
        alpha: Bands that are masks of the others.
        tags: Metadata by band and domain; the domain of the usual tags is empty.
        dataset_tags: Metadata of the whole raster by domain.
        crs: Coordinate reference system, or None.
        transform: Geotransform, or None.
        control: Ground control points, or None.
        notes: Sentences about what cannot be read.
        taken: Names of what the scene took from here.
        overruled: Names of what the scene itself says otherwise.
    """

    path: Path
    own: bool = False
    product: bool = False
    nodata: dict[int, float] = field(default_factory=dict)
    scale: dict[int, float] = field(default_factory=dict)
    offset: dict[int, float] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    alpha: set[int] = field(default_factory=set)
    tags: dict[tuple[int, str], dict[str, str]] = field(default_factory=dict)
    dataset_tags: dict[str, dict[str, str]] = field(default_factory=dict)
    crs: CRS | None = None
    transform: Transform | None = None
    control: ControlPoints | None = None
    notes: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    overruled: list[str] = field(default_factory=list)

    def fills(self, declared: Sequence[float | None]) -> list[float | None]:
        """Complete the fill values of a scene's bands."""
        if not self.nodata:
            return list(declared)
        fills = [
            self.nodata.get(band) if value is None else value
            for band, value in enumerate(declared)
        ]
        own = [self.nodata.get(b, v) for b, v in enumerate(declared) if v is not None]
        if fills != list(declared):
            self.taken.append("nodata")
        if own != [v for v in declared if v is not None]:
            self.overruled.append("nodata")
        return fills

    def units(self, scale: PerBand | None, offset: PerBand | None, bands: int) -> Units:
        """Complete the scale and offset of a scene's bands."""
        if not self.scale and not self.offset:
            return scale, offset
        here = (
            np.array([self.scale.get(band, 1.0) for band in range(bands)]),
            np.array([self.offset.get(band, 0.0) for band in range(bands)]),
        )
        if scale is not None and offset is not None:
            if not np.array_equal((scale, offset), here):
                self.overruled.append("scale and offset")
            return scale, offset
        self.taken.append("scale and offset")
        return here

    def places(self, bands: int) -> list[Place]:
        """List where wavelengths may stand in it, but for the names of bands."""
        usual = envi = self.path.name
        if self.own:
            usual, envi = "", "the ENVI domain"
        elif self.product:
            usual = ""
        imagery = imagery_place(
            [self.tags.get((b, "IMAGERY"), {}) for b in range(bands)]
        )
        return [
            tag_place(usual, [self.tags.get((b, ""), {}) for b in range(bands)]),
            imagery._replace(name=usual),
            tag_place(envi, [self.tags.get((b, "ENVI"), {}) for b in range(bands)]),
            list_place(envi, self.dataset_tags.get("ENVI", {}), bands),
            list_place(usual, self.dataset_tags.get("", {}), bands),
        ]

    def all_names(self, bands: int) -> list[str | None]:
        """List the names of bands; GDAL copies those of an ENVI file as ``Band_1``."""
        tags = self.dataset_tags.get("", {})
        return [self.names.get(b) or tags.get(f"Band_{b + 1}") for b in range(bands)]

    def good(self, bands: int) -> NDArray[np.bool_] | None:
        """Return False for bands marked bad (``bbl`` 0), or None if none is marked."""
        marks = [
            {k.lower(): v for k, v in self.tags.get((band, domain), {}).items()}
            for domain in ("", "ENVI")
            for band in range(bands)
        ]
        texts = [
            marks[band].get("bbl") or marks[bands + band].get("bbl") or ""
            for band in range(bands)
        ]
        if not any(texts):
            fields = {
                k.lower(): v for k, v in self.dataset_tags.get("ENVI", {}).items()
            }
            listed = fields.get("bbl", "").strip(" {}").split(",")
            texts = listed if len(listed) == bands else texts
        if not any(texts):
            return None
        return np.array([text.strip() not in ("0", "0.0") for text in texts])

    def remarks(self, scene: Path) -> list[str]:
        """Say what a scene took, and what it did not."""
        notes = list(self.notes)
        others = [name for name in self.taken if name != "wavelengths"]  # said before
        if others and not self.product:
            notes.append(
                f"{scene.name}: taken from {self.path.name}: {', '.join(others)}."
            )
        if self.overruled:
            notes.append(
                f"{scene.name} and {self.path.name} differ in "
                f"{', '.join(self.overruled)}; what {scene.name} says counts."
            )
        return notes


def side_car_of(path: Path) -> Statements:
    """Read the side-car of a raster, where it has one.

    Raises:
        SceneError: It is there and cannot be read. It may state nodata, so that it is
            not left aside.
    """
    places = [path.with_name(path.name + end) for end in (".aux.xml", ".AUX.XML")]
    # A link to a file that is not there, such as one that was not fetched, counts.
    place = next(filter(os.path.lexists, places), None)
    if place is None:
        return Statements(places[0])
    reader = _Reader(place)
    try:
        reader.parse(read_whole(place, MOST_BYTES))
    except (ValueError, LookupError) as error:
        raise SceneError(
            f"{place} cannot be read ({error}); it may declare nodata of {path.name}. "
            "Correct or remove it."
        ) from error
    return reader.result


def check_mask(path: Path) -> None:
    """Refuse a raster whose mask lies beside it: only the raster itself is opened.

    Raises:
        SceneError: It does.
    """
    masks = [path.with_name(path.name + end) for end in (".msk", ".MSK")]
    for mask in filter(os.path.lexists, masks):
        raise SceneError(
            f"{path} has its mask in another file, {mask.name}, which is not read. Put "
            "both into one: gdal_translate --config GDAL_TIFF_INTERNAL_MASK YES "
            f"{path.name} masked.tif"
        )


def crs_of(text: str) -> CRS | None:
    """Read a coordinate system of a foreign file: ``EPSG:`` and a number, or WKT.

    Never by GDAL's guess: other texts than these can name files.
    """
    code = re.fullmatch(r"EPSG:(\d{4,6})", text)
    with rasterio.Env():  # without it, GDAL's errors go to stderr by themselves
        try:
            if code:
                return CRS.from_epsg(int(code[1]))
            return CRS.from_wkt(text[:CRS_LETTERS])
        except (CRSError, UnicodeEncodeError):
            # GDAL's error waits, and would be raised by the next call for a raster.
            CRS.from_epsg(4326)
            return None


class _Reader:
    """Turns the elements of a side-car into a `Statements` while they are parsed."""

    def __init__(self, path: Path) -> None:
        self.result = Statements(path)
        self.names: list[str] = []  # of the open elements
        self.text: list[str] = []
        self.attributes: dict[str, str] = {}
        self.band: int | None = None
        self.domain = ""
        self.points: list[tuple[float, float, float, float, float]] = []
        self.points_crs: str | None = None

    def parse(self, content: bytes) -> None:
        safe_xml.parse(content, self.start, self.end, self.text.append)
        if self.points:
            self.result.control = ControlPoints(self.points_crs, tuple(self.points))

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if not self.names and name != "PAMDataset":
            raise ValueError(f"its first element is {name[:40]}, not PAMDataset")
        self.names.append(name)
        self.text.clear()
        self.attributes = attributes
        if self.names[1:] == ["PAMRasterBand"]:
            self.band = int(attributes["band"]) - 1
            if self.band < 0:
                raise ValueError("its bands do not count from 1")
        elif name == "Metadata":
            self.domain = attributes.get("domain", "")
        elif name == "GCPList":
            self.points_crs = attributes.get("Projection") or None
        elif self.names[1:] == ["GCPList", "GCP"]:
            row, col, x, y = (float(attributes[k]) for k in ("Line", "Pixel", "X", "Y"))
            self.points.append((row, col, x, y, float(attributes.get("Z", 0))))

    def end(self, name: str) -> None:
        text, where = "".join(self.text).strip(), self.names[1:]
        self.text.clear()
        self.names.pop()
        if where == ["SRS"]:
            self.set_crs(text)
        elif where == ["GeoTransform"]:
            self.set_transform(text)
        elif where[-2:] == ["Metadata", "MDI"] and "key" in self.attributes:
            self.set_tag(where, self.attributes["key"], text)
        elif where == ["PAMRasterBand"]:
            self.band = None
        elif where[:-1] == ["PAMRasterBand"] and name in BAND_FIELDS:
            self.set_band(name, text)
        elif name == "GeodataXform":
            self.result.notes.append(
                f"{self.result.path.name} holds a transformation of ArcGIS, which is "
                "not read."
            )

    def set_crs(self, text: str) -> None:
        if not text:
            return
        self.result.crs = crs_of(text)
        if self.result.crs is None:
            self.result.notes.append(
                f"{self.result.path.name}: its coordinate system cannot be read."
            )

    def set_transform(self, text: str) -> None:
        values = [float(value) for value in text.split(",")]
        if len(values) != 6 or not all(map(math.isfinite, values)):
            raise ValueError("its GeoTransform is not six numbers")
        a, b, c, d, e, f = values
        self.result.transform = a, b, c, d, e, f

    def set_tag(self, where: list[str], key: str, text: str) -> None:
        if where[:-2] == ["PAMRasterBand"] and self.band is not None:
            self.result.tags.setdefault((self.band, self.domain), {})[key] = text
        elif not where[:-2]:
            self.result.dataset_tags.setdefault(self.domain, {})[key] = text
            if key == "NODATA_VALUES" and not self.domain:
                fills = enumerate(map(float, text.split()))
                self.result.nodata = dict(fills) | self.result.nodata

    def set_band(self, name: str, text: str) -> None:
        assert self.band is not None
        if name == "Description":
            self.result.names[self.band] = text
            return
        if name == "ColorInterp":
            if text == "Alpha":
                self.result.alpha.add(self.band)
            return
        values = dict.fromkeys(NODATA_FIELDS, self.result.nodata)
        values |= {"Scale": self.result.scale, "Offset": self.result.offset}
        values[name][self.band] = float(text)

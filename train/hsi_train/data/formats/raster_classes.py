"""Reads names and colours of classes from a label raster and the files beside it."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from hsi_runtime.errors import SceneError
from hsi_runtime.files import open_binary
from hsi_runtime.scenes.envi_header import read_header
from hsi_runtime.scenes.geotiff import GDAL_OPTIONS
from hsi_runtime.scenes.scene import SceneInfo
from hsi_train.data.classes import MAX_CODE, ClassTable

MAX_SIDE_CAR_BYTES = 16 * 1024 * 1024
# What GDAL calls the columns of a raster attribute table: its numbers for their use.
NAME, MINIMUM, MAXIMUM, VALUE, RED, GREEN, BLUE = "2", "3", "4", "5", "6", "7", "8"
TEXT = "2"  # GDAL's number for the type of a column

Rows = Sequence[Sequence[str]]


def classes_of(info: SceneInfo) -> ClassTable:
    """Read the classes that a label raster declares; damaged tables count as none."""
    if info.driver == "ENVI":
        return from_envi_header(info.files[0])
    if info.driver != "GTiff":
        return ClassTable()
    return from_side_car(info.path).updated(_from_tiff(info.path))


def _from_tiff(path: Path) -> ClassTable:
    """Read the colour table of a GeoTIFF, and the names in its tags."""
    try:
        with (
            rasterio.Env(**GDAL_OPTIONS),
            warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
            rasterio.open(path, driver="GTiff") as raster,
        ):
            names = _named_codes(raster.tags(1).get("CLASS_NAMES"))
            try:
                colormap = raster.colormap(1)
            except ValueError:  # rasterio's way to say that there is none
                colormap = {}
    except RasterioError:
        return ClassTable()
    return ClassTable(names, {c: _hex(*rgb[:3]) for c, rgb in colormap.items()})


def _named_codes(text: str | None) -> dict[int, str]:
    """Read ``{"1": "roof"}``, as hsi-run writes it into a class map."""
    try:
        names = {int(k): str(v) for k, v in json.loads(text or "{}").items()}
    except (ValueError, AttributeError, RecursionError):
        return {}
    return _in_range(names)


def from_side_car(path: Path) -> ClassTable:
    """Read GDAL's ``.aux.xml`` of a raster: category names, colours, attribute table.

    It is read as plain XML, never through GDAL, which follows what it refers to.
    """
    side_car = path.with_name(path.name + ".aux.xml")
    if not side_car.is_file():
        return ClassTable()
    try:
        with open_binary(side_car) as file:
            text = file.read(MAX_SIDE_CAR_BYTES + 1).decode("utf-8-sig")
        if len(text) > MAX_SIDE_CAR_BYTES or "<!" in text.replace("<!--", ""):
            return ClassTable()  # declarations of entities belong to no side-car
        band = ElementTree.fromstring(text).find("./PAMRasterBand")
    except (ElementTree.ParseError, ValueError, SceneError):
        return ClassTable()
    if band is None:
        return ClassTable()
    categories = band.findall("./CategoryNames/Category")
    table = ClassTable(
        _in_range({n: c.text for n, c in enumerate(categories) if c.text}),
        _in_range(_colours(band)),
    )
    tag = band.find("./Metadata/MDI[@key='CLASS_NAMES']")
    named = ClassTable(_named_codes(None if tag is None else tag.text))
    return _from_attribute_table(band).updated(table).updated(named)


def _colours(band: ElementTree.Element) -> dict[int, str]:
    colours = {}
    for code, entry in enumerate(band.findall("./ColorTable/Entry")):
        rgb = [_whole(entry.get(f"c{n}", "")) for n in (1, 2, 3)]
        if all(v is not None and 0 <= v <= 255 for v in rgb):
            colours[code] = _hex(*rgb)
    return colours


def _from_attribute_table(band: ElementTree.Element) -> ClassTable:
    """Read a raster attribute table: one row for each value, or for equal steps."""
    table = band.find("./GDALRasterAttributeTable")
    if table is None:
        return ClassTable()
    fields = [
        [field.findtext(key, "").strip() for key in ("Name", "Type", "Usage")]
        for field in table.findall("./FieldDefn")
    ]
    rows = [
        [cell.text or "" for cell in row.findall("./F")]
        for row in table.findall("./Row")
    ]
    rows = [row for row in rows if len(row) == len(fields)]
    codes = _codes(table, fields, rows)
    names = _column(fields, rows, NAME) or _named_column(fields, rows)
    rgb = [_column(fields, rows, usage) for usage in (RED, GREEN, BLUE)]
    named = dict(zip(codes, names, strict=False))
    colours = {}
    for code, *text in zip(codes, *rgb, strict=False):
        values = [_whole(v) for v in text]
        if all(v is not None and 0 <= v <= 255 for v in values):
            colours[code] = _hex(*values)
    return ClassTable(
        _in_range({c: n.strip() for c, n in named.items() if n.strip()}),
        _in_range(colours),
    )


def _codes(table: ElementTree.Element, fields: Rows, rows: Rows) -> list[int | None]:
    """Return the value that each row describes, None where it is no whole number."""
    values = _column(fields, rows, VALUE)
    if not values:
        low, high = (_column(fields, rows, use) for use in (MINIMUM, MAXIMUM))
        values = [a if a == b else "" for a, b in zip(low, high, strict=False)]
    if not values:
        for number, (name, *_) in enumerate(fields):
            if name.lower() in ("value", "code", "class_id", "id"):
                values = [row[number] for row in rows]
                break
    if values:
        return [_whole(v) for v in values]
    start, step = (_whole(table.get(key, "")) for key in ("Row0Min", "BinSize"))
    if start is None or not step:
        return []
    return [start + k * step for k in range(len(rows))]


def _column(fields: Rows, rows: Rows, usage: str) -> list[str]:
    for number, field in enumerate(fields):
        if field[2] == usage:
            return [row[number] for row in rows]
    return []


def _named_column(fields: Rows, rows: Rows) -> list[str]:
    """Return the first text column: many programs leave the use of columns open."""
    for number, field in enumerate(fields):
        if field[1] == TEXT and field[2] == "0":
            return [row[number] for row in rows]
    return []


def from_envi_header(path: Path) -> ClassTable:
    """Read ``class names`` and ``class lookup`` of an ENVI classification."""
    header = read_header(path)
    names = [name.strip() for name in header.text("class names").split(",")]
    lookup = [_whole(v) for v in header.text("class lookup").split(",")]
    colours = {}
    for code in range(len(lookup) // 3):
        rgb = lookup[3 * code : 3 * code + 3]
        if all(v is not None and 0 <= v <= 255 for v in rgb):
            colours[code] = _hex(*rgb)
    return ClassTable(
        _in_range({code: name for code, name in enumerate(names) if name}),
        _in_range(colours),
    )


def _whole(text: str) -> int | None:
    """Read a whole number, also one written as ``3.0``."""
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def _hex(*rgb: Any) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def _in_range(values: dict[Any, Any]) -> dict[int, Any]:
    return {
        code: value
        for code, value in values.items()
        if code is not None and 0 <= code <= MAX_CODE
    }

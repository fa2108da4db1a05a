"""Writes styles in QGIS's format: names and colours for a class map and polygons."""

from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.model.plain_text import plain
from hsi_runtime.output.layers import UNCLASSIFIED

DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"


def write_qml(path: Path, document: ModelDocument) -> None:
    """Write the style of a class map, which QGIS finds beside it by its name.

    Unclassified pixels are black, nodata is transparent.
    """
    root = _root()
    pipe = SubElement(root, "pipe")
    renderer = SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1"
    )
    palette = SubElement(renderer, "colorPalette")
    entries = [(UNCLASSIFIED, "unclassified", "#000000")]
    entries += [(c.code, plain(c.name), c.color) for c in document.classes]
    for value, label, color in entries:
        SubElement(
            palette,
            "paletteEntry",
            value=str(value),
            label=label,
            color=color,
            alpha="255",
        )
    path.write_text(_text(root), encoding="utf-8")


def polygon_style(document: ModelDocument) -> str:
    """Return the style of polygons with a field ``code``: filled, without outlines."""
    root = _root()
    renderer = SubElement(
        root, "renderer-v2", type="categorizedSymbol", attr="code", enableorderby="0"
    )
    categories = SubElement(renderer, "categories")
    symbols = SubElement(renderer, "symbols")
    for index, entry in enumerate(document.classes):
        SubElement(
            categories,
            "category",
            value=str(entry.code),
            label=plain(entry.name),
            symbol=str(index),
            render="true",
        )
        symbol = SubElement(symbols, "symbol", name=str(index), type="fill")
        layer = SubElement(symbol, "layer", {"class": "SimpleFill"})
        red, green, blue = bytes.fromhex(entry.color[1:])
        SubElement(layer, "prop", k="color", v=f"{red},{green},{blue},255")
        SubElement(layer, "prop", k="outline_style", v="no")
    return _text(root)


def _root() -> Element:
    return Element("qgis", version="3.22", styleCategories="Symbology")


def _text(root: Element) -> str:
    text: str = tostring(root, encoding="unicode")
    return f"{DOCTYPE}{text}\n"

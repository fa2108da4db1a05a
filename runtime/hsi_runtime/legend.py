"""Writes the ``.qml`` beside a class map: QGIS takes names and colours from it."""

from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from hsi_runtime.class_map import UNCLASSIFIED
from hsi_runtime.model_file import ModelDocument


def write_qml(path: Path, document: ModelDocument) -> None:
    """Write a paletted style; unclassified pixels are black, nodata is transparent."""
    root = Element("qgis", version="3.22", styleCategories="Symbology")
    pipe = SubElement(root, "pipe")
    renderer = SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1"
    )
    palette = SubElement(renderer, "colorPalette")
    entries = [(UNCLASSIFIED, "unclassified", "#000000")]
    entries += [(c.code, c.name, c.color) for c in document.classes]
    for value, label, color in entries:
        SubElement(
            palette,
            "paletteEntry",
            value=str(value),
            label=label,
            color=color,
            alpha="255",
        )
    path.write_bytes(
        b"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        + tostring(root, encoding="utf-8")
        + b"\n"
    )

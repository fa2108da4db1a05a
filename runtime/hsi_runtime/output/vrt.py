"""Describes a raw file of ours to GDAL, with names, colours and georeference."""

import json
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from hsi_runtime.scenes.scene import ControlPoints, SceneInfo

GDAL_TYPES = {"uint8": "Byte", "uint16": "UInt16"}
# GDAL lists names from zero without gaps: a far code would make a list of thousands.
MAX_CATEGORIES = 1024


def raw_vrt(raw_name: str, layer: Any, info: SceneInfo, tags: dict[str, str]) -> bytes:
    """Write the VRT of a band-sequential raw file that lies beside it.

    Args:
        raw_name: File name of the raw file.
        layer: A `hsi_runtime.output.layers.Layer`.
        info: Scene whose grid it has.
        tags: Metadata of the data set.
    """
    root = Element("VRTDataset", rasterXSize=str(info.cols), rasterYSize=str(info.rows))
    if info.crs:
        SubElement(root, "SRS").text = info.crs
    if info.transform:
        numbers = ", ".join(repr(float(v)) for v in info.transform)
        SubElement(root, "GeoTransform").text = numbers
    if info.control:
        _control_points(root, info.control)
    _metadata(root, tags)
    _metadata(root, info.rpcs or {}, domain="RPC")
    size = layer.dtype.itemsize
    for index, description in enumerate(layer.bands):
        band = SubElement(
            root,
            "VRTRasterBand",
            dataType=GDAL_TYPES[layer.dtype.name],
            band=str(index + 1),
            subClass="VRTRawRasterBand",
        )
        _metadata(band, _band_tags(layer))
        SubElement(band, "Description").text = description
        SubElement(band, "NoDataValue").text = str(layer.nodata)
        if layer.scale is not None:
            SubElement(band, "Scale").text = repr(layer.scale)
        if layer.colors:
            SubElement(band, "ColorInterp").text = "Palette"
            _color_table(band, layer.colors)
        if layer.names:
            _categories(band, layer.names)
        SubElement(band, "SourceFilename", relativeToVRT="1").text = raw_name
        offset = index * info.rows * info.cols * size
        SubElement(band, "ImageOffset").text = str(offset)
        SubElement(band, "PixelOffset").text = str(size)
        SubElement(band, "LineOffset").text = str(info.cols * size)
        SubElement(band, "ByteOrder").text = "LSB"
    text: bytes = tostring(root, encoding="utf-8")
    return text


def _band_tags(layer: Any) -> dict[str, str]:
    if not layer.names:
        return {}
    names = {str(k): v for k, v in sorted(layer.names.items())}
    return {"CLASS_NAMES": json.dumps(names, ensure_ascii=False)}


def _control_points(root: Element, control: ControlPoints) -> None:
    listed = SubElement(root, "GCPList", Projection=control.crs or "")
    for number, (row, col, x, y, z) in enumerate(control.points, start=1):
        place = {"Pixel": col, "Line": row, "X": x, "Y": y, "Z": z}
        texts = {key: repr(float(value)) for key, value in place.items()}
        SubElement(listed, "GCP", texts, Id=str(number))


def _metadata(parent: Element, tags: dict[str, str], domain: str = "") -> None:
    if tags:
        metadata = SubElement(parent, "Metadata", {"domain": domain} if domain else {})
        for key, value in tags.items():
            SubElement(metadata, "MDI", key=key).text = value


def _color_table(band: Element, colors: dict[int, str]) -> None:
    table = SubElement(band, "ColorTable")
    for value in range(max(colors) + 1):
        text = colors.get(value, "#000000")
        red, green, blue = (str(int(text[i : i + 2], 16)) for i in (1, 3, 5))
        SubElement(table, "Entry", c1=red, c2=green, c3=blue, c4="255")


def _categories(band: Element, names: dict[int, str]) -> None:
    listed = {k: v for k, v in names.items() if k < MAX_CATEGORIES}
    categories = SubElement(band, "CategoryNames")
    for value in range(max(listed) + 1):
        SubElement(categories, "Category").text = listed.get(value, "")

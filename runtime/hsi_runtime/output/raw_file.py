"""The raw file of a layer: band-sequential values, and their description to GDAL."""

import json
import os
from pathlib import Path
from typing import IO, Any
from xml.etree.ElementTree import Element, SubElement, tostring

from numpy.typing import NDArray

from hsi_runtime import files
from hsi_runtime.model.plain_text import plain
from hsi_runtime.output.layers import Layer, rgb
from hsi_runtime.scenes.georeference import is_grid
from hsi_runtime.scenes.scene import ControlPoints, SceneInfo

GDAL_TYPES = {"uint8": "Byte", "uint16": "UInt16"}
# GDAL lists names from zero without gaps: a far code would make a list of thousands.
MAX_CATEGORIES = 1024


class RawFile:
    """Values of a layer on disk, band by band and row by row.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, layer: Layer, grid: SceneInfo, mode: str) -> None:
        """Open the file at full size: a full disk shows now, not in hours.

        Args:
            path: The file; it is created where it does not exist.
            layer: Raster that it holds.
            grid: Size of the raster.
            mode: ``r+b`` to keep its values, ``w+b`` to start afresh.

        Raises:
            OSError: It cannot be opened, or the disk is full.
        """
        self.path = path
        self._layer, self._grid = layer, grid
        if not path.exists():  # where one was lost, its pieces are computed again
            mode = "w+b"
        self._file: IO[bytes] = files.open_own(path, mode)
        try:
            files.reserve(self._file, bytes_of(layer, grid))
        except OSError:
            self.close()
            raise

    def write(
        self, rows: tuple[int, int], cols: tuple[int, int], values: NDArray[Any]
    ) -> None:
        """Write a rectangle of values, shape ``(band, row, col)``."""
        width = self._grid.cols
        for band, plane in enumerate(values):
            start = self._position(band, rows[0], cols[0])
            if cols == (0, width):
                files.write_at(self._file, plane.tobytes(), start)
                continue
            for number, line in enumerate(plane):
                offset = start + number * width * self._layer.dtype.itemsize
                files.write_at(self._file, line.tobytes(), offset)

    def read(self, band: int, rows: tuple[int, int], cols: tuple[int, int]) -> bytes:
        """Read values back, row by row in C order."""
        file, size = self._file.fileno(), self._layer.dtype.itemsize
        if cols == (0, self._grid.cols):
            length = (rows[1] - rows[0]) * self._grid.cols * size
            return os.pread(file, length, self._position(band, rows[0], 0))
        length = (cols[1] - cols[0]) * size
        return b"".join(
            os.pread(file, length, self._position(band, row, cols[0]))
            for row in range(*rows)
        )

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _position(self, band: int, row: int, col: int) -> int:
        pixel = (band * self._grid.rows + row) * self._grid.cols + col
        return pixel * self._layer.dtype.itemsize


def bytes_of(layer: Layer, grid: SceneInfo) -> int:
    """Return the size of a layer's raw file."""
    return grid.rows * grid.cols * len(layer.bands) * layer.dtype.itemsize


def raw_vrt(
    raw_name: str, layer: Layer, info: SceneInfo, tags: dict[str, str]
) -> bytes:
    """Write the VRT of a band-sequential raw file that lies beside it.

    Args:
        raw_name: File name of the raw file.
        layer: Raster that the raw file holds.
        info: Scene whose grid it has.
        tags: Metadata of the data set.
    """
    root = Element("VRTDataset", rasterXSize=str(info.cols), rasterYSize=str(info.rows))
    if info.crs:
        SubElement(root, "SRS").text = plain(info.crs)
    if info.transform and is_grid(info.transform):
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


def _band_tags(layer: Layer) -> dict[str, str]:
    if not layer.names:
        return {}
    names = {str(k): v for k, v in sorted(layer.names.items())}
    return {"CLASS_NAMES": json.dumps(names, ensure_ascii=False)}


def _control_points(root: Element, control: ControlPoints) -> None:
    listed = SubElement(root, "GCPList", Projection=plain(control.crs or ""))
    for number, (row, col, x, y, z) in enumerate(control.points, start=1):
        place = {"Pixel": col, "Line": row, "X": x, "Y": y, "Z": z}
        texts = {key: repr(float(value)) for key, value in place.items()}
        SubElement(listed, "GCP", texts, Id=str(number))


def _metadata(parent: Element, tags: dict[str, str], domain: str = "") -> None:
    if tags:
        metadata = SubElement(parent, "Metadata", {"domain": domain} if domain else {})
        for key, value in tags.items():
            SubElement(metadata, "MDI", key=key).text = plain(value)


def _color_table(band: Element, colors: dict[int, str]) -> None:
    table = SubElement(band, "ColorTable")
    for value in range(max(colors) + 1):
        red, green, blue = map(str, rgb(colors.get(value, "#000000")))
        SubElement(table, "Entry", c1=red, c2=green, c3=blue, c4="255")


def _categories(band: Element, names: dict[int, str]) -> None:
    listed = {k: v for k, v in names.items() if k < MAX_CATEGORIES}
    categories = SubElement(band, "CategoryNames")
    for value in range(max(listed) + 1):
        SubElement(categories, "Category").text = listed.get(value, "")

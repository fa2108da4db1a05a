"""Reads the tiles of an uncompressed TIFF from the file itself, several times as fast.

GDAL copies a tile of all bands band by band, and a whole tile for any part of it.
"""

import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Interleaving

from hsi_runtime.errors import SceneError
from hsi_runtime.files import open_binary, read_at
from hsi_runtime.scenes.scene import Cube

READ_BYTES = 512 * 1024  # at once; they stay in a core's cache until they are copied
NATIVE_MAGIC = b"II" if sys.byteorder == "little" else b"MM"

Interval = tuple[int, int]


class RawTiles:
    """Tiles of values as they lie in memory.

    Args:
        path: The file.
        dataset: It, open with rasterio; says where its tiles are.
    """

    def __init__(self, path: Path, dataset: Any) -> None:
        self._path, self._dataset = path, dataset
        self._file = open_binary(path)
        self._side: tuple[int, int] = dataset.block_shapes[0]
        self._dtype: np.dtype[Any] = np.dtype(dataset.dtypes[0])
        self._pixel = dataset.interleaving == Interleaving.pixel
        self._offsets: dict[tuple[int, int, int], int | None] = {}

    def read(
        self, rows: Interval, cols: Interval, bands: NDArray[np.intp], out: Cube
    ) -> bool:
        """Read a window; return False, ``out`` being undefined, if a tile is absent.

        Args:
            rows: Half-open interval.
            cols: Half-open interval.
            bands: 0-based indices of the file's bands, any order.
            out: Cube to fill, shape ``(band, row, col)``.

        Raises:
            SceneError: The file is shorter than its tags promise.
        """
        for y, (top, bottom) in _parts(rows, self._side[0]):
            for x, (left, right) in _parts(cols, self._side[1]):
                first = y * self._side[0], x * self._side[1]
                place = np.s_[
                    :,
                    top - rows[0] : bottom - rows[0],
                    left - cols[0] : right - cols[0],
                ]
                inside = (
                    (top - first[0], bottom - first[0]),
                    (
                        left - first[1],
                        right - first[1],
                    ),
                )
                if not self._read_tile((x, y), *inside, bands, out[place]):
                    return False
        return True

    def _read_tile(
        self,
        tile: tuple[int, int],
        rows: Interval,
        cols: Interval,
        bands: NDArray[np.intp],
        out: Cube,
    ) -> bool:
        """Read a part of one tile, its rows and columns counted from the tile's."""
        if not self._pixel:
            for plane, band in zip(out, bands, strict=True):
                offset = self._offset(*tile, int(band))
                if offset is None:
                    return False
                for part, values in self._rows(offset, rows, 1):
                    plane[slice(*part)] = values[:, slice(*cols), 0]
            return True
        offset = self._offset(*tile, 0)
        if offset is None:
            return False
        # Runs of neighbouring bands are copied whole.
        starts = np.flatnonzero(np.diff(bands, prepend=-2) != 1)
        runs = list(pairwise([*starts.tolist(), len(bands)]))
        for part, values in self._rows(offset, rows, self._dataset.count):
            stored = values[:, slice(*cols)].transpose(2, 0, 1)
            for start, stop in runs:
                chosen = stored[bands[start] : bands[stop - 1] + 1]
                out[start:stop, slice(*part)] = chosen
        return True

    def _rows(
        self, offset: int, rows: Interval, bands: int
    ) -> Iterator[tuple[Interval, NDArray[Any]]]:
        """Read rows of a tile, a few at once.

        Yields:
            Rows counted from the first one that is read; their values, shape
            ``(row, col, band)``, overwritten by the next.
        """
        row_bytes = self._side[1] * bands * self._dtype.itemsize
        at_once = max(READ_BYTES // row_bytes, 1)
        buffer = np.empty((at_once, self._side[1], bands), self._dtype)
        for row in range(*rows, at_once):
            values = buffer[: min(at_once, rows[1] - row)]
            self._fill(values, offset + row * row_bytes)
            yield (row - rows[0], row - rows[0] + len(values)), values

    def _fill(self, values: NDArray[Any], offset: int) -> None:
        view = memoryview(values.reshape(-1).view(np.uint8).data)
        count = read_at(self._file, view, offset)
        if count < len(view):
            raise SceneError(
                f"{self._path} cannot be read at byte {offset + count}: the file ends "
                "there. Is the file complete?"
            )

    def _offset(self, x: int, y: int, band: int) -> int | None:
        """Return where a tile begins in the file; None if it is not in it whole."""
        key = x, y, band
        if key not in self._offsets:
            bands = self._dataset.count if self._pixel else 1
            size = self._side[0] * self._side[1] * bands * self._dtype.itemsize
            start, length = (
                self._dataset.get_tag_item(f"BLOCK_{name}_{x}_{y}", "TIFF", band + 1)
                for name in ("OFFSET", "SIZE")
            )
            whole = start is not None and length == str(size)
            self._offsets[key] = int(start) if whole else None
        return self._offsets[key]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def raw_tiles(path: Path, dataset: Any) -> RawTiles | None:
    """Return a reader of tiles, or None where the values of a TIFF need decoding."""
    layout = dataset.tags(ns="IMAGE_STRUCTURE") | dataset.tags(1, ns="IMAGE_STRUCTURE")
    sides = set(dataset.block_shapes)
    tiled = len(sides) == 1 and dataset.block_shapes[0][1] != dataset.width
    if not tiled or {"COMPRESSION", "NBITS"} & layout.keys():
        return None
    with open_binary(path) as file:
        native = file.read(2) == NATIVE_MAGIC
    return RawTiles(path, dataset) if native else None


def _parts(interval: Interval, side: int) -> Iterator[tuple[int, Interval]]:
    """Cut an interval along tiles; number and interval of each."""
    for number in range(interval[0] // side, -(-interval[1] // side)):
        start = max(number * side, interval[0])
        yield number, (start, min((number + 1) * side, interval[1]))

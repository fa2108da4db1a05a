"""Covers a scene with windows, and says where the context around each comes from.

All intervals are half open, in pixels of the scene: rows ``[start, stop)``.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Window(NamedTuple):
    """A rectangle of a scene, in pixels.

    Attributes:
        row: First row.
        col: First column.
        rows: Height.
        cols: Width.
    """

    row: int
    col: int
    rows: int
    cols: int

    @property
    def row_end(self) -> int:
        """One past the last row."""
        return self.row + self.rows

    @property
    def col_end(self) -> int:
        """One past the last column."""
        return self.col + self.cols


def mirror(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Index an axis beyond its ends, as numpy's ``reflect`` padding does.

    The only pixels this project invents are those outside the scene; training and
    run time both get them here.

    Args:
        start: First index, may be negative.
        stop: One past the last index, may exceed ``size``.
        size: Length of the axis, at least 1.

    Returns:
        Indices within ``[0, size)``, shape ``(stop - start,)``.
    """
    if size == 1:
        return np.zeros(stop - start, dtype=np.intp)
    period = 2 * (size - 1)
    folded = np.arange(start, stop) % period
    return np.where(folded < size, folded, period - folded).astype(np.intp)


def mirrored_extent(start: int, stop: int, size: int) -> tuple[int, int]:
    """Return the real interval that ``mirror(start, stop, size)`` reads from."""
    indices = mirror(start, stop, size)
    return int(indices.min()), int(indices.max()) + 1


def tiles(interval: tuple[int, int], side: int) -> Iterator[tuple[int, int]]:
    """Cut an interval into intervals of at most ``side``."""
    for first in range(*interval, side):
        yield first, min(first + side, interval[1])


class StripRows(NamedTuple):
    """Rows of a scene that are read at once, and the outputs they complete.

    Attributes:
        read: Rows to read, whole blocks of the file where they fit.
        outputs: Rows whose context is then complete.
    """

    read: tuple[int, int]
    outputs: tuple[int, int]


class Plan(NamedTuple):
    """How a scene is walked: panels of columns, from top to bottom in strips.

    Attributes:
        panels: Output columns of each panel.
        strips: Rows of each strip, the same in every panel.
        tile: Side of the squares that are classified at once.
        strip_bytes: Memory of the largest strip with its context.
    """

    panels: list[tuple[int, int]]
    strips: list[StripRows]
    tile: int
    strip_bytes: int

    def count_windows(self, pieces: Collection[int] | None = None) -> int:
        """Count the squares that are classified, in all pieces or in those numbered."""
        squares = [
            _count(strip.outputs, self.tile) * _count(panel, self.tile)
            for panel in self.panels
            for strip in self.strips
        ]
        return sum(squares if pieces is None else (squares[n] for n in pieces))


DEFAULT_TILE = 128
SMALL_TILE = 48
# Where a strip ends, cores wait for each other. No count of cores, so that another
# machine can resume a run.
STRIP_SQUARES = 32
STRIP_BYTES = 64 * 1024**2  # enough for sequential reading, little beside the engine


def plan(
    size: tuple[int, int],
    region: Window,
    pixel_bytes: int,
    block: tuple[int, int],
    halo: int,
    tile: int = DEFAULT_TILE,
    strip_bytes: int = STRIP_BYTES,
    squares: int = 1,
) -> Plan:
    """Plan the walk over a scene by the layout of its file.

    A strip is as many rows of blocks as the budget holds, so that every block is
    decoded once; its last rows wait for the next strip as context. Where even one row
    of blocks exceeds the budget, the scene is walked in panels of columns.

    Args:
        size: Rows and columns of the scene.
        region: Pixels to classify; context comes from outside it, too.
        pixel_bytes: Stored size of one pixel in all bands that are read.
        block: Rows and columns of the file's blocks.
        halo: Context of an output.
        tile: Side of the squares that are classified at once.
        strip_bytes: Budget of a strip.
        squares: Squares that a strip should hold, if the budget allows.
    """
    rows, cols = size
    top, bottom = mirrored_extent(region.row - halo, region.row_end + halo, rows)
    left, right = mirrored_extent(region.col - halo, region.col_end + halo, cols)
    block_rows, block_cols = min(block[0], rows), min(block[1], cols)
    extent = bottom - top
    pixels = max(strip_bytes // pixel_bytes, 1)
    # A strip in memory has its context above and below.
    affordable = pixels // (right - left)
    affordable = extent if affordable >= extent else affordable - 2 * halo
    # As many rows of squares as make up `squares`, but whole ones, and as fit.
    for_squares = -(-squares // _count((0, region.cols), tile)) * tile
    for_squares = min(for_squares, affordable // tile * tile, extent)
    height = max(min(max(tile, 2 * halo), extent), for_squares)
    if affordable >= max(block_rows, height):
        height = max(height // block_rows, 1) * block_rows
        panels = [(region.col, region.col_end)]
    else:
        if block_rows <= 2 * height:
            height = max(height // block_rows, 1) * block_rows
        width = max(pixels // min(height + 2 * halo, extent) - 2 * halo, tile)
        if width > block_cols:
            width = width // block_cols * block_cols
        panels = list(tiles((region.col, region.col_end), width))
    widest = min(max(b - a for a, b in panels) + 2 * halo, right - left)
    tallest = min(height + 2 * halo, extent)
    return Plan(
        panels=panels,
        strips=list(_strips((top, bottom), region, height, halo)),
        tile=tile,
        strip_bytes=widest * tallest * pixel_bytes,
    )


def _strips(
    needed: tuple[int, int], region: Window, height: int, halo: int
) -> Iterator[StripRows]:
    """Cut the rows that a region needs into strips of whole blocks."""
    (top, bottom), done = needed, region.row
    for first in range(top // height * height, bottom, height):
        last = min(first + height, bottom)
        ready = region.row_end if last == bottom else last - halo
        ready = min(max(ready, done), region.row_end)
        yield StripRows((max(first, top), last), (done, ready))
        done = ready


def _count(interval: tuple[int, int], side: int) -> int:
    return -(-(interval[1] - interval[0]) // side)

"""Covers a scene with windows, and says where the context around each comes from.

All intervals are half open, in pixels of the scene: rows ``[start, stop)``.
"""

from collections.abc import Iterator
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


class Strip(NamedTuple):
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
    strips: list[Strip]
    tile: int
    strip_bytes: int

    def windows(self) -> int:
        """Count the squares that are classified."""
        rows = sum(_pieces(s.outputs, self.tile) for s in self.strips)
        return rows * sum(_pieces(p, self.tile) for p in self.panels)


DEFAULT_TILE = 128
STRIP_BYTES = 128 * 1024**2  # enough for sequential reading, little beside the engine


def plan(
    rows: int,
    cols: int,
    pixel_bytes: int,
    block: tuple[int, int],
    halo: int,
    tile: int = DEFAULT_TILE,
    strip_bytes: int = STRIP_BYTES,
) -> Plan:
    """Plan the walk over a scene by the layout of its file.

    A strip is as many rows of blocks as the budget holds, so that every block is
    decoded once; its last rows wait for the next strip as context. Where even one row
    of blocks exceeds the budget, the scene is walked in panels of columns.

    Args:
        rows: Height of the scene.
        cols: Width of the scene.
        pixel_bytes: Stored size of one pixel in all bands that are read.
        block: Rows and columns of the file's blocks.
        halo: Context of an output.
        tile: Side of the squares that are classified at once.
        strip_bytes: Budget of a strip.
    """
    block_rows, block_cols = min(block[0], rows), min(block[1], cols)
    pixels = max(strip_bytes // pixel_bytes, 1)
    wanted = min(max(tile, 2 * halo), rows)
    # A strip in memory has its context above and below.
    lines = rows if pixels // cols >= rows else pixels // cols - 2 * halo
    if lines >= max(block_rows, wanted):
        height = max(wanted // block_rows, 1) * block_rows
        panels = [(0, cols)]
    else:
        height = wanted
        if block_rows <= 2 * height:
            height = max(height // block_rows, 1) * block_rows
        width = max(pixels // min(height + 2 * halo, rows) - 2 * halo, tile)
        if width > block_cols:
            width = width // block_cols * block_cols
        panels = list(tiles((0, cols), width))
    strips, done = [], 0
    for first, last in tiles((0, rows), height):
        ready = rows if last == rows else max(last - halo, done)
        strips.append(Strip((first, last), (done, ready)))
        done = ready
    widest = min(max(b - a for a, b in panels) + 2 * halo, cols)
    tallest = min(height + 2 * halo, rows)
    return Plan(panels, strips, tile, widest * tallest * pixel_bytes)


def _pieces(interval: tuple[int, int], side: int) -> int:
    return -(-(interval[1] - interval[0]) // side)

"""Covers a scene with windows, and says where the context around each comes from.

All intervals are half open, in pixels of the scene: rows ``[start, stop)``.
"""

from collections.abc import Collection, Iterator
from itertools import pairwise, product
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


def even_parts(interval: tuple[int, int], side: int) -> Iterator[tuple[int, int]]:
    """Cut an interval into as few parts of at most ``side`` as `tiles`, all alike.

    A narrow rest costs as much context as a whole square: 147 pixels become 3 x 49, not
    64 + 64 + 19.
    """
    first, stop = interval
    count = _count(interval, side)
    cuts = [first + (stop - first) * number // count for number in range(count)]
    yield from pairwise([*cuts, stop])


def largest_part(interval: tuple[int, int], side: int) -> int:
    """Return the length of the largest of the `even_parts` of an interval."""
    return -(-(interval[1] - interval[0]) // _count(interval, side))


class Span(NamedTuple):
    """Rows or columns of a scene that are read at once, and the outputs they complete.

    Attributes:
        read: Interval to read, whole blocks of the file where they fit.
        outputs: Outputs whose context is then complete. They lag behind what is read
            by the halo, except at the end.
    """

    read: tuple[int, int]
    outputs: tuple[int, int]


class Plan(NamedTuple):
    """How a scene is walked: in passes from top to bottom, strip by strip.

    In each strip a pass goes through its panels from left to right. What a piece, one
    panel of one strip, has read and others need as context is kept for them, so that
    within a pass everything is read once.

    Attributes:
        strips: Rows of each strip, the same in every panel.
        panels: Columns of each panel, the same in every strip.
        passes: Panels of each pass, as an interval of their numbers.
        tile: Side of the largest squares that are classified at once.
        strip_bytes: Memory of the largest piece with its context.
    """

    strips: list[Span]
    panels: list[Span]
    passes: list[tuple[int, int]]
    tile: int
    strip_bytes: int

    def pieces(self) -> Iterator[tuple[Span, Span]]:
        """Go through strip and panel of all pieces, in the order of their numbers."""
        for first, stop in self.passes:
            yield from product(self.strips, self.panels[first:stop])

    def count_windows(self, pieces: Collection[int] | None = None) -> int:
        """Count the squares that are classified, in all pieces or in those numbered."""
        squares = [
            _count(strip.outputs, self.tile) * _count(panel.outputs, self.tile)
            for strip, panel in self.pieces()
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

    A piece is made of whole blocks, so that each is decoded once: of as many whole rows
    of them as the budget holds, else of a part of one row. Only where a single block
    exceeds the budget are there several pieces to a block, which then is decoded for
    each of them.

    Args:
        size: Rows and columns of the scene.
        region: Pixels to classify; context comes from outside it, too.
        pixel_bytes: Stored size of one pixel in all bands that are read.
        block: Rows and columns of the blocks that are decoded at once.
        halo: Context of an output.
        tile: Side of the largest squares that are classified at once.
        strip_bytes: Budget of a piece; the rows that a pass keeps have one like it.
        squares: Squares that a strip should hold, if the budget allows.
    """
    rows, cols = size
    needed = needed_of(size, region, halo)
    height, width = _piece(
        needed,
        (min(block[0], rows), min(block[1], cols)),
        halo,
        tile,
        _count((0, region.cols), tile),
        max(strip_bytes // pixel_bytes, 1),
        squares,
    )
    strips = list(_spans(needed[0], (region.row, region.row_end), height, halo))
    panels = list(_spans(needed[1], (region.col, region.col_end), width, halo))
    tallest, widest = (max(held(s, halo) for s in spans) for spans in (strips, panels))
    # The rows that wait for the strip below lie in memory for all columns of a pass.
    kept = (needed[1][1] - needed[1][0]) * 2 * halo * pixel_bytes
    largest = widest * tallest * pixel_bytes
    passes = max(-(-kept // max(strip_bytes, largest)), 1) if strips[1:] else 1
    return Plan(
        strips=strips,
        panels=panels,
        passes=list(even_parts((0, len(panels)), -(-len(panels) // passes))),
        tile=tile,
        strip_bytes=largest,
    )


def needed_of(
    size: tuple[int, int], region: Window, halo: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the rows and columns that a region needs with its context."""
    return (
        mirrored_extent(region.row - halo, region.row_end + halo, size[0]),
        mirrored_extent(region.col - halo, region.col_end + halo, size[1]),
    )


def held(span: Span, halo: int) -> int:
    """Count the rows or columns of a span in memory, with context of earlier ones."""
    return span.read[1] - max(min(span.outputs[0] - halo, span.read[0]), 0)


def piece_bytes(
    size: tuple[int, int],
    pixel_bytes: int,
    block: tuple[int, int],
    halo: int,
    tile: int,
) -> int:
    """Return the memory of the smallest piece of whole blocks, with its context."""
    height, width = (
        min(max(min(tile, full) // min(side, full), 1) * side + 2 * halo, full)
        for full, side in zip(size, block, strict=True)
    )
    return height * width * pixel_bytes


def completes(strip: Span, panel: Span) -> bool:
    """Return True if a piece completes any output, and is not only context."""
    return strip.outputs[1] > strip.outputs[0] and panel.outputs[1] > panel.outputs[0]


def _piece(
    needed: tuple[tuple[int, int], tuple[int, int]],
    block: tuple[int, int],
    halo: int,
    tile: int,
    across: int,
    pixels: int,
    squares: int,
) -> tuple[int, int]:
    """Choose how many rows and columns are read at once.

    Args:
        needed: Rows and columns that are needed at all.
        block: Rows and columns of a block.
        halo: Context of an output.
        tile: Side of the largest squares that are classified at once.
        across: Squares in a whole row of them.
        pixels: Budget.
        squares: Squares that a strip should hold, if the budget allows.
    """
    (top, bottom), (left, right) = needed
    extent = bottom - top
    # A strip in memory has its context above and below.
    affordable = pixels // (right - left)
    affordable = extent if affordable >= extent else affordable - 2 * halo
    # As many rows of squares as make up `squares`, but whole ones, and as fit.
    for_squares = -(-squares // across) * tile
    for_squares = min(for_squares, affordable // tile * tile, extent)
    height = max(min(max(tile, 2 * halo), extent), for_squares)
    if affordable >= max(block[0], height):
        return max(height // block[0], 1) * block[0], right
    least = min(max(tile, 2 * halo), extent)
    whole = max(least // block[0], 1) * block[0]
    width = pixels // min(whole + 2 * halo, extent) - 2 * halo
    if width >= block[1]:
        return whole, width // block[1] * block[1]
    # Part of a block: a block's whole width first, since its rows lie together.
    tall = _divisor(block[0], pixels // (block[1] + 2 * halo) - 2 * halo)
    if tall >= least:
        return tall, block[1]
    height = whole if block[0] <= 2 * least else least
    width = max(pixels // min(height + 2 * halo, extent) - 2 * halo, tile)
    return height, width // block[1] * block[1] or width


def _divisor(number: int, most: int) -> int:
    """Return the largest divisor of a number that is at most ``most``, or 0."""
    return next((n for n in range(min(number, most), 0, -1) if number % n == 0), 0)


def _spans(
    needed: tuple[int, int], outputs: tuple[int, int], side: int, halo: int
) -> Iterator[Span]:
    """Cut the rows or columns that outputs need into intervals of whole blocks."""
    (low, high), (done, end) = needed, outputs
    for first in range(low // side * side, high, side):
        last = min(first + side, high)
        ready = end if last == high else last - halo
        ready = min(max(ready, done), end)
        yield Span((max(first, low), last), (done, ready))
        done = ready


def _count(interval: tuple[int, int], side: int) -> int:
    return -(-(interval[1] - interval[0]) // side)

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


def tiles(start: int, stop: int, side: int) -> Iterator[tuple[int, int]]:
    """Cut ``[start, stop)`` into intervals of at most ``side``."""
    for first in range(start, stop, side):
        yield first, min(first + side, stop)

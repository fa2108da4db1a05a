"""Bounds the parts of a scene that hold labels, so that no other pixel is read."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hsi_runtime.errors import ResourceError
from hsi_runtime.machine import machine_bytes

LARGE = 2**30  # bytes from which labels are read in several parts
MAX_PARTS = 64
MIN_GAP = 64  # pixels between two parts
MASK_BYTES = 8  # per pixel: classes, roles, masks


class LabelledPart(NamedTuple):
    """A rectangle of a scene, and the label codes that belong to it.

    Attributes:
        row: First row.
        col: First column.
        codes: Label codes, 0 = unlabelled, shape ``(row, col)``.
    """

    row: int
    col: int
    codes: NDArray[Any]


def labelled_part(codes: NDArray[Any], halo: int) -> tuple[int, int, int, int]:
    """Bound the labelled pixels with ``halo`` pixels of context around them."""
    rows = np.flatnonzero(codes.any(axis=1))
    cols = np.flatnonzero(codes.any(axis=0))
    row, col = max(rows[0] - halo, 0), max(cols[0] - halo, 0)
    row_end = min(rows[-1] + 1 + halo, codes.shape[0])
    col_end = min(cols[-1] + 1 + halo, codes.shape[1])
    return int(row), int(col), int(row_end - row), int(col_end - col)


def labelled_parts(
    codes: NDArray[Any], halo: int, pixel_bytes: int
) -> list[LabelledPart]:
    """Bound the labelled pixels, by several rectangles where one would be large.

    Parts lie so far apart that no window of one shows a labelled pixel of another.

    Args:
        codes: Label codes of the whole scene, shape ``(row, col)``, not all zero.
        halo: Context to keep around labels, pixels.
        pixel_bytes: What a pixel needs in memory.
    """
    row, col, rows, cols = labelled_part(codes, halo)
    whole = codes[row : row + rows, col : col + cols]
    if whole.size * pixel_bytes > LARGE:
        parts = _separate(whole, halo)
        if sum(part.codes.size for part in parts) < whole.size / 2:
            return [p._replace(row=p.row + row, col=p.col + col) for p in parts]
    return [LabelledPart(row, col, whole)]


def _separate(codes: NDArray[Any], halo: int) -> list[LabelledPart]:
    """Group labelled pixels by the cells of a grid that touch."""
    cell = max(MIN_GAP, 4 * halo + 2)
    while True:
        groups, count = ndimage.label(_cells(codes, cell), np.ones((3, 3)))
        if count <= MAX_PARTS:
            break
        cell *= 2
    parts = []
    for number, (high, wide) in enumerate(ndimage.find_objects(groups), start=1):
        top, left = high.start * cell, wide.start * cell
        inside = codes[top : high.stop * cell, left : wide.stop * cell]
        own = groups[high, wide] == number
        mask = own.repeat(cell, axis=0).repeat(cell, axis=1)
        mask = mask[: inside.shape[0], : inside.shape[1]]
        own_codes = np.where(mask, inside, 0)
        row, col, height, width = labelled_part(own_codes, 0)
        up, down = min(halo, top + row), min(halo, len(codes) - top - row - height)
        back, on = min(halo, left + col), min(halo, codes.shape[1] - left - col - width)
        core = own_codes[row : row + height, col : col + width]
        parts.append(
            LabelledPart(
                row=top + row - up,
                col=left + col - back,
                codes=np.pad(core, ((up, down), (back, on))),
            )
        )
    return parts


def _cells(codes: NDArray[Any], cell: int) -> NDArray[np.bool_]:
    """Return True for every cell of a grid that holds a labelled pixel."""
    rows = np.arange(0, codes.shape[0], cell)
    cols = np.arange(0, codes.shape[1], cell)
    held = np.logical_or.reduceat(codes != 0, rows, axis=0)
    return np.logical_or.reduceat(held, cols, axis=1)


def check_room(needed: int, what: str) -> None:
    """Refuse what this machine cannot hold, before it is read.

    Raises:
        ResourceError: It needs more memory than the machine, or its container, has.
    """
    if needed > (room := machine_bytes()):
        raise ResourceError(
            f"{what} need at least {needed / 1e9:.1f} GB of memory; this machine has "
            f"{room / 1e9:.1f} GB. Give fewer or smaller scenes, cut them to the "
            "labelled part, or train on a larger machine."
        )

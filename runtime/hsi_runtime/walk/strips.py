"""Reads a scene strip by strip, and cuts windows with their context out of strips.

Strips lie in memory as their values lie in the file, because transposing them costs
several times more than reading; each window is transposed when it is computed.
"""

import math
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.scenes.scene import Cube, Scene, in_file_order
from hsi_runtime.walk.windows import Plan, mirror, mirrored_extent

BUFFERS = 3  # strips in memory at once: one computed, one waiting, one being read


class Strip(NamedTuple):
    """A piece of the scene in memory.

    Attributes:
        number: Of the piece within the plan.
        cube: Stored units, shape ``(band, row, col)``, in the file's order.
        row: Scene row of its first row.
        col: Scene column of its first column.
        rows: Scene rows whose outputs it completes.
        cols: Scene columns whose outputs it completes.
    """

    number: int
    cube: Cube
    row: int
    col: int
    rows: tuple[int, int]
    cols: tuple[int, int]


def read_strips(
    scene: Scene,
    bands: NDArray[np.intp],
    plan: Plan,
    halo: int,
    finished: Collection[int] = (),
) -> Iterator[Strip]:
    """Read a scene piece by piece, each block of the file once per panel.

    Memory is reused: a strip's cube is overwritten when the strip `BUFFERS` places
    after it is asked for.

    Args:
        scene: An open scene.
        bands: 0-based bands to read, in this order.
        plan: The walk.
        halo: Context of an output.
        finished: Numbers of pieces to leave out.
    """
    info = scene.info
    buffers = [np.empty(0, info.dtype)] * BUFFERS
    turn = 0
    number = -1
    for panel in plan.panels:
        cols = mirrored_extent(panel[0] - halo, panel[1] + halo, info.cols)
        kept: Strip | None = None
        for strip in plan.strips:
            number += 1
            if number in finished:
                kept = None
                continue
            if kept is None:
                first = max(min(strip.outputs[0] - halo, strip.read[0]), 0)
                fresh = first
            else:
                first = max(kept.rows[1] - halo, kept.row)
                fresh = strip.read[0]
            shape = len(bands), strip.read[1] - first, cols[1] - cols[0]
            completes = strip.outputs[1] > strip.outputs[0]
            if completes:
                if buffers[turn].size < math.prod(shape):
                    buffers[turn] = np.empty(math.prod(shape), info.dtype)
                buffer = buffers[turn]
                turn = (turn + 1) % BUFFERS
            else:  # rows that are only context: no turn, all buffers may be in use
                buffer = np.empty(math.prod(shape), info.dtype)
            cube = in_file_order(buffer, info.interleave, shape)
            context = fresh - first
            if kept is not None:
                cube[:, :context] = kept.cube[:, first - kept.row :]
            scene.read((fresh, strip.read[1]), cols, bands, cube[:, context:])
            kept = Strip(number, cube, first, cols[0], strip.outputs, panel)
            if completes:
                yield kept


def cut(
    strip: Strip,
    valid: NDArray[np.bool_],
    rows: tuple[int, int],
    cols: tuple[int, int],
    halo: int,
    size: tuple[int, int],
) -> tuple[Cube, NDArray[np.bool_]]:
    """Cut outputs with their context out of a strip, mirrored at the scene's edge.

    Args:
        strip: The piece.
        valid: Its pixels with data, shape ``(row, col)``.
        rows: Scene rows of the outputs.
        cols: Scene columns of the outputs.
        halo: Context on each side.
        size: Rows and columns of the scene.

    Returns:
        Cube ``(band, row + 2 halo, col + 2 halo)`` and the same part of ``valid``.
    """
    (top, bottom), (left, right) = ((a - halo, b + halo) for a, b in (rows, cols))
    place: Any  # rows, columns
    if min(top, left) >= 0 and bottom <= size[0] and right <= size[1]:
        place = (  # a view: nothing is copied yet
            slice(top - strip.row, bottom - strip.row),
            slice(left - strip.col, right - strip.col),
        )
    else:
        # Both axes in one gather: one after the other takes up to nine times longer.
        place = np.ix_(
            mirror(top, bottom, size[0]) - strip.row,
            mirror(left, right, size[1]) - strip.col,
        )
    return strip.cube[:, *place], valid[place]

"""Reads a scene strip by strip, and cuts windows with their context out of strips.

Strips lie in memory as their values lie in the file, because transposing them costs
several times more than reading; each window is transposed when it is computed.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.scenes.scene import Cube, Scene, SceneInfo, in_file_order, valid_pixels
from hsi_runtime.walk.windows import Plan, mirror, mirrored_extent

BUFFERS = 3  # strips in memory at once: one computed, one waiting, one being read


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A piece of the scene in memory, with the context of its outputs.

    Attributes:
        number: Number of the piece within the plan.
        cube: Stored units, shape ``(band, row, col)``, in the file's order.
        row: Scene row of its first row.
        col: Scene column of its first column.
        rows: Scene rows whose outputs it completes.
        cols: Scene columns whose outputs it completes.
        halo: Context on each side of an output.
        scene_size: Rows and columns of the scene.
        nodata: Fill value of each band, NaN where none, shape ``(band,)``.
    """

    number: int
    cube: Cube
    row: int
    col: int
    rows: tuple[int, int]
    cols: tuple[int, int]
    halo: int
    scene_size: tuple[int, int]
    nodata: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of its outputs."""
        return self.rows[1] - self.rows[0], self.cols[1] - self.cols[0]

    def cut(
        self, rows: tuple[int, int], cols: tuple[int, int]
    ) -> tuple[Cube, NDArray[np.bool_]]:
        """Cut outputs with their context, mirrored at the scene's edge.

        Args:
            rows: Scene rows of the outputs.
            cols: Scene columns of the outputs.

        Returns:
            Cube ``(band, row + 2 halo, col + 2 halo)``, stored units, in C order; and
            its pixels with data.
        """
        (top, bottom), (left, right) = (
            (first - self.halo, last + self.halo) for first, last in (rows, cols)
        )
        height, width = self.scene_size
        place: Any  # rows, columns
        if min(top, left) >= 0 and bottom <= height and right <= width:
            place = (
                slice(top - self.row, bottom - self.row),
                slice(left - self.col, right - self.col),
            )
        else:
            # Both axes in one gather: one by one takes up to nine times longer.
            place = np.ix_(
                mirror(top, bottom, height) - self.row,
                mirror(left, right, width) - self.col,
            )
        # Engines want bands first. Transposed once, in their stored type, values lie
        # side by side for all that follows, which then takes half the time.
        cube = np.ascontiguousarray(self.cube[:, *place])
        flat = cube.reshape(len(cube), 1, -1)
        return cube, valid_pixels(flat, self.nodata).reshape(cube.shape[1:])


class _Buffers:
    """Memory of the last `BUFFERS` strips, which are reused in turn."""

    def __init__(self, info: SceneInfo) -> None:
        self._info = info
        self._buffers = [np.empty(0, info.dtype)] * BUFFERS
        self._turn = 0

    def cube(self, shape: tuple[int, int, int], only_context: bool) -> Cube:
        """Return a cube to read into, its values in the file's order.

        Rows that are only context get memory of their own: all buffers may be in use.
        """
        size = math.prod(shape)
        if only_context:
            buffer = np.empty(size, self._info.dtype)
        else:
            if self._buffers[self._turn].size < size:
                self._buffers[self._turn] = np.empty(size, self._info.dtype)
            buffer = self._buffers[self._turn]
            self._turn = (self._turn + 1) % BUFFERS
        return in_file_order(buffer, self._info.interleave, shape)


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
        finished: Numbers of the pieces to leave out.
    """
    info = scene.info
    buffers = _Buffers(info)
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
            cube = buffers.cube(shape, only_context=not completes)
            context = fresh - first
            if kept is not None:
                cube[:, :context] = kept.cube[:, first - kept.row :]
            scene.read((fresh, strip.read[1]), cols, bands, cube[:, context:])
            kept = Strip(
                number=number,
                cube=cube,
                row=first,
                col=cols[0],
                rows=strip.outputs,
                cols=panel,
                halo=halo,
                scene_size=(info.rows, info.cols),
                nodata=info.nodata[bands],
            )
            if completes:
                yield kept

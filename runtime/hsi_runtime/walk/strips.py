"""Reads a scene strip by strip, and cuts windows with their context out of strips.

Strips lie in memory as they are read fastest, mostly as their values lie in the file,
because transposing them costs several times more than reading; each window is
transposed when it is computed.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.matching.missing import Missing
from hsi_runtime.scenes.scene import Cube, Scene, SceneInfo, in_file_order
from hsi_runtime.walk.windows import Plan, completes, held, mirror

BUFFERS = 2  # pieces in memory at once: one computed, one being read


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A piece of the scene in memory, with the context of its outputs.

    Attributes:
        number: Number of the piece within the plan.
        cube: Stored units, shape ``(band, row, col)``, in the order that is read
            fastest.
        row: Scene row of its first row.
        col: Scene column of its first column.
        rows: Scene rows whose outputs it completes.
        cols: Scene columns whose outputs it completes.
        halo: Context on each side of an output.
        scene_size: Rows and columns of the scene.
        missing: Which pixels hold no measurement.
    """

    number: int
    cube: Cube
    row: int
    col: int
    rows: tuple[int, int]
    cols: tuple[int, int]
    halo: int
    scene_size: tuple[int, int]
    missing: Missing

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
        valid = self.missing.valid(flat)
        return cube, valid.reshape(cube.shape[1:])


class _Buffers:
    """Memory of the last `BUFFERS` pieces, which is reused in turn."""

    def __init__(self, info: SceneInfo) -> None:
        self._info = info
        self._buffers = [np.empty(0, info.dtype)] * BUFFERS
        self._turn = 0

    def cube(self, shape: tuple[int, int, int], only_context: bool) -> Cube:
        """Return a cube to read into, its values in the order that is read fastest.

        A piece that is only context gets memory of its own: all buffers may be in use.
        """
        size = math.prod(shape)
        if only_context:
            buffer = np.empty(size, self._info.dtype)
        else:
            if self._buffers[self._turn].size < size:
                self._buffers[self._turn] = np.empty(size, self._info.dtype)
            buffer = self._buffers[self._turn]
            self._turn = (self._turn + 1) % BUFFERS
        order = self._info.read_order or self._info.interleave
        return in_file_order(buffer, order, shape)


class _Kept(NamedTuple):
    """The last rows of a piece, which the strip below needs as context.

    Attributes:
        strip: Index of the strip they were read in.
        row: Scene row of the first.
        cols: Scene columns.
        cube: Their values, shape ``(band, row, col)``.
    """

    strip: int
    row: int
    cols: tuple[int, int]
    cube: Cube


class _Pass:
    """Reads the pieces of one pass, and keeps what later ones need as context.

    Args:
        scene: An open scene.
        bands: 0-based bands to read, in this order.
        plan: The walk.
        halo: Context of an output.
        buffers: Memory for the pieces.
        missing: Which pixels hold no measurement.
    """

    def __init__(
        self,
        scene: Scene,
        bands: NDArray[np.intp],
        plan: Plan,
        halo: int,
        buffers: "_Buffers",
        missing: Missing,
    ) -> None:
        self._scene, self._bands, self._plan = scene, bands, plan
        self._missing = missing
        self._halo, self._buffers = halo, buffers
        self._left: Strip | None = None
        self._above: dict[int, _Kept] = {}  # by number of the panel

    def start_strip(self) -> None:
        """Forget the piece at the left: a new strip begins."""
        self._left = None

    def skip(self, panel: int) -> None:
        """Leave a piece out, which then is no context of others."""
        self._left = None
        self._above.pop(panel, None)

    def read(self, number: int, row: int, col: int) -> Strip:
        """Read a piece.

        Args:
            number: Number of the piece within the plan.
            row: Index of its strip.
            col: Number of its panel.
        """
        info, halo = self._scene.info, self._halo
        strip, panel = self._plan.strips[row], self._plan.panels[col]
        top, left = strip.read[1] - held(strip, halo), panel.read[1] - held(panel, halo)
        own = left if self._left is None else panel.read[0]
        shape = len(self._bands), strip.read[1] - top, panel.read[1] - left
        cube = self._buffers.cube(shape, only_context=not completes(strip, panel))
        if self._left is not None:
            cube[:, :, : own - left] = self._left.cube[:, :, left - self._left.col :]
        above, fresh = self._above.get(col), top
        if above and above.strip == row - 1 and above.cols[0] <= own:
            fresh = strip.read[0]
            kept = above.cube[:, top - above.row :, own - above.cols[0] :]
            cube[:, : fresh - top, own - left :] = kept
        place = (fresh, strip.read[1]), (own, panel.read[1])
        into = cube[:, fresh - top :, own - left :]
        self._scene.read(*place, self._bands, into)
        if row + 1 < len(self._plan.strips):
            below = self._plan.strips[row + 1]
            first = below.read[1] - held(below, halo)
            rest = cube[:, first - top :, own - left :].copy("K")
            self._above[col] = _Kept(row, first, place[1], rest)
        self._left = Strip(
            number=number,
            cube=cube,
            row=top,
            col=left,
            rows=strip.outputs,
            cols=panel.outputs,
            halo=halo,
            scene_size=(info.rows, info.cols),
            missing=self._missing,
        )
        return self._left


def read_strips(
    scene: Scene,
    bands: NDArray[np.intp],
    plan: Plan,
    halo: int,
    finished: Collection[int] = (),
    missing: Missing | None = None,
) -> Iterator[Strip]:
    """Read a scene piece by piece, each block of the file once per pass.

    Memory is reused: a piece's cube is overwritten when the piece `BUFFERS` places
    after it is asked for.

    Args:
        scene: An open scene.
        bands: 0-based bands to read, in this order.
        plan: The walk.
        halo: Context of an output.
        finished: Numbers of the pieces to leave out.
        missing: Which pixels hold no measurement; by default those that have a declared
            fill value.
    """
    buffers = _Buffers(scene.info)
    missing = missing or Missing(nodata=scene.info.nodata[bands])
    numbers = count()
    for first, stop in plan.passes:
        walk = _Pass(scene, bands, plan, halo, buffers, missing)
        for row, strip in enumerate(plan.strips):
            walk.start_strip()
            for col in range(first, stop):
                number = next(numbers)
                if number in finished:
                    walk.skip(col)
                    continue
                piece = walk.read(number, row, col)
                if completes(strip, plan.panels[col]):
                    yield piece

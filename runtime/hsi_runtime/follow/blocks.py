"""Waits for lines and reads them, with their context, as strips for the engine."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.follow.pace import Pace
from hsi_runtime.follow.sources.source import LineSource, wait_for_lines
from hsi_runtime.matching.missing import Missing
from hsi_runtime.scenes.scene import Scene, in_file_order
from hsi_runtime.walk.strips import Strip
from hsi_runtime.walk.windows import mirrored_extent

LOOK_S = 0.1  # longest wait before the pace is asked again
FLUSH_S = 0.5  # a sensor that stalls so long does not keep the lines that are there


class Block(NamedTuple):
    """Lines to classify.

    Attributes:
        rows: Rows of the scene, half open.
        strip: Their values with context; None where they are skipped to stay live.
        closed: Rows of the scene if the block knew its end, where it is mirrored.
        written: When its first line was first seen, by `time.monotonic`.
    """

    rows: tuple[int, int]
    strip: Strip | None
    closed: int | None
    written: float


class Blocks:
    """The blocks of a source, from some row on; iterating waits for lines.

    Args:
        source: Where lines become available.
        scene: How they are read; the source, or what wraps it.
        bands: 0-based bands to read.
        pace: How many lines make a block.
        stop: Set to take the lines that are there for all.
        watch: Called after every look at the source.
        latest: Skip lines to stay live.
        missing: Which pixels hold no measurement; by default those that have a declared
            fill value.
    """

    def __init__(
        self,
        source: LineSource,
        scene: Scene,
        bands: NDArray[np.intp],
        pace: Pace,
        stop: threading.Event,
        watch: Callable[[], None] = lambda: None,
        latest: bool = False,
        missing: Missing | None = None,
    ) -> None:
        self._source, self._scene, self._bands = source, scene, bands
        self._pace, self._stop = pace, stop
        self._watch, self._latest = watch, latest
        self._missing = missing or Missing(nodata=scene.info.nodata[bands])

    def after(self, done: int) -> Iterator[Block]:
        """Wait for and read blocks from a row on, until the source has ended.

        Raises:
            SceneError: A line cannot be read, or was rewritten.
        """
        source, number = self._source, 0
        while True:
            if self._stop.is_set():
                source.finish()
            source.look()
            self._watch()
            rows, skipped = self._ready(done)
            if skipped:
                yield Block((done, done + skipped), None, None, source.arrived(done))
                done += skipped
            if rows:
                yield self._read((done, done + rows), number)
                done, number = done + rows, number + 1
            elif source.ended:
                return
            else:
                wait_for_lines(source, self._stop, LOOK_S)

    def _ready(self, done: int) -> tuple[int, int]:
        """Return how many lines to take now, and how many to skip before them."""
        source, pace = self._source, self._pace
        halo = 0 if source.ended else pace.halo
        ready = max(source.complete - halo - done, 0)
        least = pace.rows(source.lines_per_second)
        if self._latest and not source.ended and ready > 2 * pace.most:
            return least, ready - least
        if ready >= least or source.ended:
            return min(ready, pace.most), 0
        late = pace.latency_s or FLUSH_S
        stalled = time.monotonic() - source.arrived(source.complete - 1) > late
        return (ready if ready and stalled else 0), 0

    def _read(self, rows: tuple[int, int], number: int) -> Block:
        info, halo = self._scene.info, self._pace.halo
        # Before the end is known, no row beyond the lines that are there is needed.
        closed = info.rows if self._source.ended else None
        top, bottom = mirrored_extent(rows[0] - halo, rows[1] + halo, info.rows)
        shape = len(self._bands), bottom - top, info.cols
        buffer = np.empty(int(np.prod(shape)), info.dtype)
        cube = in_file_order(buffer, info.interleave, shape)
        self._scene.read((top, bottom), (0, info.cols), self._bands, cube)
        strip = Strip(
            number=number,
            cube=cube,
            row=top,
            col=0,
            rows=rows,
            cols=(0, info.cols),
            halo=halo,
            scene_size=(info.rows, info.cols),
            missing=self._missing,
        )
        return Block(rows, strip, closed, self._source.arrived(rows[0]))

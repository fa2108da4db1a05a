"""Says how many lines make a block, from the speed of the sensor and of the engine."""

import math
from dataclasses import dataclass

SPARE_S = 0.1  # what else the machine does may take so long, and no line is late
LEAST_SHARE = 0.9  # of the efficiency of a batch run's squares, where nobody is waiting
STEP = 8  # lines
SMOOTHING = 0.2  # weight of the latest block in the measured speed


@dataclass(kw_only=True)
class Pace:
    """How many lines a block has, and into which squares it is cut.

    A network computes its context, too: of a window of ``rows x cols`` outputs, the
    share ``rows cols / ((rows + 2 halo) (cols + 2 halo))`` is useful. A block of few
    rows is cut into wide windows, of the area that suits the engine.

    Attributes:
        halo: Context of an output, px.
        cols: Width of the scene, px.
        tile: Side of the squares that a batch run would use, px.
        at_once: Windows that the engine computes at the same time.
        most: Largest block that memory allows, lines.
        latency_s: Time from a line to its classes that was asked for, or None.
        asked: Lines of a block that were asked for, or None.
    """

    halo: int
    cols: int
    tile: int
    at_once: int
    most: int
    latency_s: float | None = None
    asked: int | None = None

    def __post_init__(self) -> None:
        """Begin with the smallest efficient block; nothing is measured yet."""
        best = self._efficiency(self.tile)
        rows = STEP
        while rows < self.tile and self._efficiency(rows) < LEAST_SHARE * best:
            rows += STEP
        self._efficient = rows
        self.most = max(1, min(self.most, max(rows, self.tile)))
        if self.asked is not None:
            self._efficient = self.most = self.asked
        self._engine_s: float | None = None  # seconds of the engine for a line

    def rows(self, lines_per_second: float | None) -> int:
        """Return the lines to wait for, given the speed of the sensor.

        The first line of a block waits for the others and their context, then for the
        engine: ``(rows + halo) / lines_per_second + rows * engine_seconds``. Where no
        latency was asked for, a block has so many lines that this leaves `SPARE_S` of
        the time of two blocks and half the context.
        """
        if not lines_per_second or self._engine_s is None:
            return min(self._efficient, self.most)
        period = 1 / lines_per_second
        if self.latency_s is not None:
            rows = (self.latency_s - self.halo * period) / (period + self._engine_s)
            return max(1, min(math.floor(rows), self.most))
        spare = period - self._engine_s  # of every line, after the engine
        if spare * self.most <= SPARE_S:
            return self.most
        steady = math.ceil((SPARE_S + self.halo / 2 * period) / spare)
        return min(max(steady, self._efficient), self.most)

    def shortest_s(self, lines_per_second: float) -> float:
        """Return the shortest possible time from a line to its classes."""
        return (self.halo + 1) / lines_per_second + (self._engine_s or 0.0)

    def measured(self, rows: int, seconds: float) -> None:
        """Take account of a block that was computed."""
        line = seconds / rows
        old = line if self._engine_s is None else self._engine_s
        self._engine_s = old + SMOOTHING * (line - old)

    def side(self, rows: int) -> int:
        """Return the side of the squares that a block of some rows is cut into, px.

        All of them are equally wide, and as many as the engine's threads can share.
        """
        width = max(self.tile * self.tile // rows, rows)
        count = -(-self.cols // width)
        count = -(-count // self.at_once) * self.at_once
        return max(-(-self.cols // count), rows)

    def _efficiency(self, rows: int) -> float:
        cols = min(self.tile * self.tile / rows, self.cols)
        return rows * cols / ((rows + 2 * self.halo) * (cols + 2 * self.halo))

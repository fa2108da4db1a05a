"""Puts nodata lines where a camera lost frames, by the number that each frame holds."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.scene import Cube, Scene, SceneInfo, missing_value

LINES_AT_ONCE = 4096
MOST_LEAPS = 0.1, 2  # of a counter: share of the lines, and their number
SURE_LINES = 50  # a flight is not given up before so many lines are there
MOST_LOST = 10_000  # frames in a row; a larger step is a counter that began anew


class FrameCounter:
    """Counts lost frames by the numbers of those that came, which may wrap around.

    Args:
        info: The scene.
        place: Column and band of the numbers, from 0.

    Raises:
        SceneError: There is no such pixel, or it holds no whole number.
    """

    def __init__(self, info: SceneInfo, place: tuple[int, int]) -> None:
        (col, band), dtype = place, info.dtype
        if not (0 <= col < info.cols and 0 <= band < info.bands):
            raise SceneError(
                f"The frame counter is said to be in column {col} and band {band}, "
                f"from 0; {info.path.name} has {info.cols} columns and {info.bands} "
                "bands."
            )
        if dtype.kind not in "iu":
            raise SceneError(f"A frame counter is a whole number, not {dtype.name}.")
        limits = np.iinfo(dtype)
        # A signed counter counts in its positive half.
        self._period = int(limits.max) + 1
        self._last: int | None = None
        self._name, self._place = info.path.name, place
        self._came = self._leaps = 0

    def lost(self, number: int) -> int:
        """Return how many frames are missing before one with this number."""
        last, self._last = self._last, number
        self._came += 1
        if last is None:
            return 0
        step = (number - last) % self._period
        # A step of more than half a turn is one backwards.
        self._leaps += not 1 <= step <= min(MOST_LOST, self._period // 2)
        return step - 1 if 1 < step <= MOST_LOST else 0

    def check(self, least: int = 0) -> None:
        """Refuse numbers that do not count, such as measurements.

        Args:
            least: Lines that must be there to tell.

        Raises:
            SceneError: They stand still or leap too often.
        """
        came, leaps, (col, band) = self._came, self._leaps, self._place
        if came >= least and leaps > max(MOST_LEAPS[0] * came, MOST_LEAPS[1]):
            raise SceneError(
                f"Column {col} and band {band} of {self._name} hold no frame counter: "
                f"the number stands still or leaps at {leaps} of {came} lines. Correct "
                "--frame-counter, or leave it out."
            )


class FramedScene:
    """A scene with a nodata line for each frame that was lost.

    Args:
        scene: The lines that came.
        counter: Column and band of the frame's number.

    Raises:
        SceneError: There is no such pixel, or it holds no whole number.
    """

    def __init__(self, scene: Scene, counter: tuple[int, int]) -> None:
        info = scene.info
        self._scene, self._place = scene, counter
        self._counter = FrameCounter(info, counter)
        self._dtype, self._missing = missing_value(info.dtype)
        self._row_of: list[int] = []  # of each line that came
        self.extend()

    @property
    def lost(self) -> int:
        """Lines that are missing."""
        return self.info.rows - len(self._row_of)

    @property
    def info(self) -> SceneInfo:
        info, came = self._scene.info, len(self._row_of)
        rows = self.row_of(came - 1) + 1 if came else 0
        lost = f"{rows - came} lines were lost by the frame counter; they are nodata."
        notes = (*info.notes, lost) if rows > came else info.notes
        return replace(info, rows=rows, dtype=self._dtype, notes=notes)

    def check_counter(self, least: int = 0) -> None:
        """Refuse numbers that do not count; see `FrameCounter.check`."""
        self._counter.check(least)

    def extend(self) -> None:
        """Take account of lines that came since."""
        col, band = self._place
        total = self._scene.info.rows
        del self._row_of[total:]  # a final header may leave some out
        while (first := len(self._row_of)) < total:
            rows = first, min(first + LINES_AT_ONCE, total)
            numbers = self._scene.read(rows, (col, col + 1), np.array([band]))
            for number in numbers[0, :, 0]:
                lost = self._counter.lost(int(number))
                last = self._row_of[-1] if self._row_of else -1
                self._row_of.append(last + 1 + lost)

    def row_of(self, line: int) -> int:
        """Return the row of a line that came."""
        return self._row_of[line]

    def line_before(self, row: int) -> int:
        """Return how many lines that came lie before a row."""
        return int(np.searchsorted(self._row_of, row))

    def read(
        self,
        rows: tuple[int, int],
        cols: tuple[int, int],
        bands: NDArray[np.intp],
        out: Cube | None = None,
    ) -> Cube:
        if out is None:
            shape = len(bands), rows[1] - rows[0], cols[1] - cols[0]
            out = np.empty(shape, self._dtype)
        first, last = self.line_before(rows[0]), self.line_before(rows[1])
        if last - first == rows[1] - rows[0]:
            out[:] = self._scene.read((first, last), cols, bands)
            return out
        out[:] = self._missing
        if last > first:
            places = np.array(self._row_of[first:last]) - rows[0]
            out[:, places] = self._scene.read((first, last), cols, bands)
        return out

    def close(self) -> None:
        self._scene.close()

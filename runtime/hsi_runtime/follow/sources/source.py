"""What every source of lines is: a scene whose lines become available one by one."""

import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from hsi_runtime.scenes.scene import Scene

POLLS_S = (0.0005, 0.02)  # first and longest wait between two looks at a source
KNOWN_ARRIVALS = 4096
# The rate is that of the lines of so long, or of more where they are few.
RATE_S, LEAST_RATE_S = 2.0, 0.1


class LineSource(Scene, Protocol):
    """An open scene that still grows; `Scene.info` has the rows that are whole.

    Attributes:
        durable: True if every line can be read again, from a file.
        path: Where the lines come from.
    """

    durable: bool
    path: Path

    @property
    def dropped(self) -> int:
        """Lines that the sensor or the stream lost; they are nodata."""

    @property
    def header_fields(self) -> Mapping[str, str]:
        """Fields of the header that describes the lines."""

    @property
    def complete(self) -> int:
        """Whole lines so far, as of the last look."""

    @property
    def ended(self) -> bool:
        """True if no more lines will come."""

    @property
    def end_byte(self) -> int:
        """Where the whole lines end in a file."""

    def rows_before(self, byte: int) -> int:
        """Return how many rows end before a byte of a file."""

    def begin(self, row: int) -> None:
        """Take lines from now on; the first one that comes is that of a row."""

    def look(self) -> None:
        """Find out how many lines are whole, without waiting.

        Raises:
            SceneError: Lines that were there are gone, or have changed.
        """

    def finish(self) -> None:
        """Take what is there for all."""

    def check_lines(self) -> None:
        """Look again at some of the lines that were read.

        Raises:
            SceneError: One has changed.
        """

    @property
    def lines_per_second(self) -> float | None:
        """Rate at which lines are written, or None before it is known."""

    def arrived(self, line: int) -> float:
        """Return when a line was first seen whole, by `time.monotonic`."""


class Arrivals:
    """When lines were first seen whole, for some of the latest."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, float]] = deque(maxlen=KNOWN_ARRIVALS)
        self._latest: deque[tuple[int, float]] = deque()

    def note(self, complete: int) -> None:
        """Note how many lines are whole now."""
        if self._seen and complete <= self._seen[-1][0]:
            return
        now = time.monotonic()
        self._seen.append((complete, now))
        self._latest.append((complete, now))
        while self._latest[0][1] <= now - RATE_S:
            self._latest.popleft()

    def of(self, line: int) -> float:
        """Return when a line was first seen whole; now, if it was not."""
        moment = time.monotonic()
        for complete, seen in reversed(self._seen.copy()):
            if complete <= line:
                break
            moment = seen
        return moment

    @property
    def lines_per_second(self) -> float | None:
        """Rate of the latest lines, or None before there are enough."""
        # Asked after every line: nothing here may take long.
        for seen in (self._latest, self._seen):
            if not seen:
                continue
            (first, since), (last, until) = seen[0], seen[-1]
            if until - since >= LEAST_RATE_S:
                return (last - first) / (until - since)
        return None


def wait_for_lines(
    source: LineSource, stop: threading.Event, patience_s: float
) -> bool:
    """Wait for more lines, looking ever less often.

    Args:
        source: A source of lines.
        stop: Ends the wait, and the source.
        patience_s: Longest time to wait.

    Returns:
        True if there are more lines, or the source has ended.

    Raises:
        SceneError: Lines that were there are gone, or have changed.
    """
    before, delay = source.complete, POLLS_S[0]
    limit = time.monotonic() + patience_s
    while True:
        if stop.is_set():
            source.finish()
        source.look()
        if source.complete > before or source.ended:
            return True
        if time.monotonic() >= limit:
            return False
        stop.wait(delay)
        delay = min(2 * delay, POLLS_S[1])

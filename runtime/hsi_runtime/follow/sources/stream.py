"""Lines that come once: from stdin, a FIFO, or a ring in shared memory.

A thread takes them as they come and keeps those that are not classified yet. Where the
engine is behind, a pipe makes its writer wait; a ring overwrites lines, which are lost.
"""

import hashlib
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.follow.sources.ring import RingReader
from hsi_runtime.follow.sources.source import Arrivals
from hsi_runtime.scenes.envi_header import Header, Layout
from hsi_runtime.scenes.scene import Cube, SceneInfo, missing_value

KEPT_BYTES = 128 * 1024**2  # of lines that wait
LEAST_LINES = 512
WAIT_S = 0.05
RING_WAIT_S = 0.0005


class Feed(Protocol):
    """Where the lines come from."""

    def next_line(self) -> bytes | None:
        """Wait a little for a line; None if there is none yet.

        Raises:
            EOFError: There will be no more.
            SceneError: What comes is no line.
            LostLineError: One was lost.
        """

    def close(self) -> None:
        """Give back what is open."""


class LostLineError(Exception):
    """A line was lost; it counts, but has no values."""


class TornLineError(SceneError):
    """The lines end within one."""


class PipeFeed:
    """Lines from stdin or a FIFO."""

    def __init__(self, path: Path, line_bytes: int) -> None:
        own = str(path) != "-"
        if not own and sys.stdin is None:
            raise SceneError("stdin is closed. Pipe the lines into the command.")
        self._name = "stdin" if not own else str(path)
        flags = os.O_RDONLY | os.O_NONBLOCK
        self._file = os.open(path, flags) if own else sys.stdin.fileno()
        self._own, self._begun = own, not own
        self._line_bytes = line_bytes
        self._part = bytearray()

    def next_line(self) -> bytes | None:
        while len(self._part) < self._line_bytes:
            if not select.select([self._file], [], [], WAIT_S)[0]:
                return None
            try:
                data = os.read(self._file, self._line_bytes - len(self._part))
            except BlockingIOError:
                return None
            if not data and not self._begun:
                time.sleep(WAIT_S)  # a FIFO that nobody has opened to write
                return None
            if not data:
                if self._part:
                    raise TornLineError(
                        f"{self._name} ends within a line: {len(self._part)} of "
                        f"{self._line_bytes} bytes. Check --shape and --dtype; if they "
                        "are right, the same command publishes the lines before."
                    )
                raise EOFError
            self._begun = True
            self._part += data
        line, self._part = bytes(self._part), bytearray()
        return line

    def close(self) -> None:
        if self._own:
            os.close(self._file)


class RingFeed:
    """Lines from a ring in shared memory."""

    def __init__(self, ring: RingReader) -> None:
        self._ring = ring

    def next_line(self) -> bytes | None:
        if self._ring.next_line >= self._ring.written:
            if self._ring.ended:
                raise EOFError
            if self._ring.begun_anew:
                raise SceneError(
                    f"The ring {self._ring.path} was begun anew while it was followed. "
                    "What was classified is kept: the same command goes on with the "
                    "lines that come."
                )
            time.sleep(RING_WAIT_S)
            return None
        line = self._ring.read()
        if line is None:
            raise LostLineError
        return line

    def close(self) -> None:
        self._ring.close()


class Stream:
    """A line source that keeps the lines which are not read yet.

    Args:
        info: What is known of the scene; its rows do not count.
        layout: How the values of a line lie.
        feed: Where the lines come from.
        idle_s: A feed that gives nothing for so long has ended.
        header: Header that describes the lines, or None.
        check: Called in the end; refuses what the lines turned out to be.
    """

    durable = False

    def __init__(
        self,
        info: SceneInfo,
        layout: Layout,
        feed: Feed,
        idle_s: float,
        header: Header | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        dtype, self._missing = missing_value(info.dtype)
        self._info = replace(info, dtype=dtype)
        self._layout, self._feed, self._idle_s = layout, feed, idle_s
        self._header, self._check = header, check
        self.path = info.path
        line = layout.strides[0]
        self._capacity = max(KEPT_BYTES // line, LEAST_LINES)
        self._lines: dict[int, bytes | None] = {}
        self._first = 0  # row of the oldest line that is kept
        self.complete, self.ended, self.dropped = 0, False, 0
        self._at_end = threading.Event()
        self._closing, self._last = threading.Event(), time.monotonic()
        self._room = threading.Condition()
        self._error: Exception | None = None
        self._torn: TornLineError | None = None
        self._closed = False
        self._arrivals, self._hash = Arrivals(), hashlib.sha256()
        self._thread = threading.Thread(target=self._run, daemon=True, name="stream")

    @property
    def info(self) -> SceneInfo:
        return replace(self._info, rows=self.complete)

    @property
    def header_fields(self) -> dict[str, str]:
        """Fields of the header that describes the lines."""
        return {} if self._header is None else self._header.fields

    @property
    def lines_per_second(self) -> float | None:
        return self._arrivals.lines_per_second

    @property
    def end_byte(self) -> int:
        return 0

    def rows_before(self, byte: int) -> int:
        return self.complete

    def begin(self, row: int) -> None:
        """Take lines from now on; the first is that of a row."""
        self._first = self.complete = row
        self._last = time.monotonic()
        self._thread.start()

    def resume_ended(self, row: int) -> None:
        """Take nothing: all rows are classified, and no more will come."""
        self.complete, self.ended = row, True

    def arrived(self, line: int) -> float:
        return self._arrivals.of(line)

    def look(self) -> None:
        at_end = self._at_end.is_set()
        if self._error is not None:
            raise self._error
        if at_end:
            # Set here, by who reads: between two looks nothing ends.
            self.ended = True
        quiet = time.monotonic() - self._last
        if quiet > self._idle_s and not self._full():
            self.finish()

    def finish(self) -> None:
        """Take no more lines."""
        self._closing.set()
        with self._room:
            self._room.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        self.ended = True

    def read(
        self,
        rows: tuple[int, int],
        cols: tuple[int, int],
        bands: NDArray[np.intp],
        out: Cube | None = None,
    ) -> Cube:
        if out is None:
            shape = len(bands), rows[1] - rows[0], cols[1] - cols[0]
            out = np.empty(shape, self._info.dtype)
        sizes = self._layout.sizes[0], 1, self._layout.sizes[2]
        layout = replace(self._layout, offset=0, sizes=sizes)
        for place, row in enumerate(range(*rows)):
            line = self._lines.get(row)
            if line is None:
                out[:, place] = self._missing
            else:
                cube = layout.cube(line)
                out[:, place] = cube[bands, 0, slice(*cols)]
        self._release(rows[0])
        return out

    def check_lines(self) -> None:
        self._check()

    def sha256(self) -> str:
        """Return the hash of all lines that came.

        Raises:
            SceneError: They end within a line; those before are classified.
        """
        if self._torn is not None:
            raise self._torn
        return self._hash.hexdigest()

    def close(self) -> None:
        if not self._closed:
            self.finish()
            self._feed.close()
        self._closed = True

    def _full(self) -> bool:
        return self.complete - self._first >= self._capacity

    def _release(self, before: int) -> None:
        """Forget the lines before a row: later blocks need no context of them."""
        with self._room:
            for row in range(self._first, before):
                self._lines.pop(row, None)
            self._first = max(self._first, before)
            self._room.notify_all()

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                with self._room:
                    self._room.wait_for(
                        lambda: not self._full() or self._closing.is_set()
                    )
                if not self._closing.is_set():
                    self._take()
        except EOFError:
            self._at_end.set()
        except TornLineError as error:  # whole lines come once: they are not given up
            self._torn = error
            self._at_end.set()
        except (SceneError, OSError) as error:
            self._error = error

    def _take(self) -> None:
        try:
            line = self._feed.next_line()
        except LostLineError:
            self._add(None)
            return
        if line is not None:
            self._hash.update(line)
            self._add(line)

    def _add(self, line: bytes | None) -> None:
        self._lines[self.complete] = line
        self.dropped += line is None
        self.complete += 1
        self._last = time.monotonic()
        self._arrivals.note(self.complete)


def counted(feed: Feed, gap: Callable[[bytes], int]) -> Feed:
    """Return a feed that counts the lines missing before each line as lost."""
    return _Counted(feed, gap)


class _Counted:
    def __init__(self, feed: Feed, gap: Callable[[bytes], int]) -> None:
        self._feed, self._gap = feed, gap
        self._owed, self._waiting = 0, b""
        self._told = 0  # lines that the feed itself lost since the last that came

    def next_line(self) -> bytes | None:
        if not self._owed and not self._waiting:
            try:
                line = self._feed.next_line()
            except LostLineError:
                self._told += 1
                raise
            if line is None:
                return None
            # A line that a ring lost is missing in its numbers, too.
            self._owed, self._waiting = max(self._gap(line) - self._told, 0), line
            self._told = 0
        if self._owed:
            self._owed -= 1
            raise LostLineError
        line, self._waiting = self._waiting, b""
        return line

    def close(self) -> None:
        self._feed.close()

"""A BIL or BIP file of ENVI that a camera still writes."""

import logging
import os
import time
import zlib
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.files import open_binary, read_at
from hsi_runtime.follow.sources.source import Arrivals
from hsi_runtime.scenes.envi import describe
from hsi_runtime.scenes.envi_files import find_envi
from hsi_runtime.scenes.envi_header import Header, Layout, layout_of, read_header
from hsi_runtime.scenes.scene import FILE_AXES, Cube, SceneInfo

log = logging.getLogger(__name__)

# Without growth, after the header's count of lines is there: the header may be one that
# counts along with the lines.
SETTLE_S, SETTLE_SHARE = 1.0, 0.2  # at most, and of the time to be idle
TORN_S = 1.0  # how long a header may be half written
WAIT_S = 0.05  # between two looks for a file that is not there yet
CHECKED_BYTES = 1024**3  # of the lines read before, looked at again in the end
# Fields without which the bytes mean something else.
LAYOUT = (
    *("samples", "bands", "header offset", "data type", "interleave", "byte order"),
    *("major frame offsets", "minor frame offsets"),
)


class GrowingFile:
    """A line source: whole lines of a file, counted by its size.

    The header comes first. Its ``lines`` may be 0, or more than there are, and may be
    rewritten later: the file ends when it has the header's count of lines, or does not
    grow any more.

    Args:
        path: The data file, or its header.
        idle_s: How long a file may not grow before it counts as complete.

    Raises:
        SceneError: The files are no lines of ENVI, or do not appear.
    """

    durable = True
    dropped = 0

    def __init__(self, path: Path, idle_s: float) -> None:
        self._idle_s = idle_s
        self._settle_s = min(SETTLE_S, SETTLE_SHARE * idle_s)
        header_path, self.path = _waited_for(path, idle_s)
        self._header_seen = _identity(header_path)
        self._header = read_header(header_path)
        self._layout = line_layout(self._header)
        self._file = open_binary(self.path)
        self._place = os.fstat(self._file.fileno())
        self._info = describe(self._header, self.path, self._layout)
        self._complete, self._ended = 0, False
        self._size = 0  # of the file, when it ended
        self._grown = time.monotonic()
        self._arrivals = Arrivals()
        self._checks = array("Q")  # of each line: 0 before it is read, or 1 + its CRC
        self.look()

    @property
    def info(self) -> SceneInfo:
        return replace(self._info, rows=self._complete)

    @property
    def header(self) -> Header:
        """The header as it was last read."""
        return self._header

    @property
    def complete(self) -> int:
        return self._complete

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def lines_per_second(self) -> float | None:
        """Rate at which lines are written."""
        return self._arrivals.lines_per_second

    @property
    def end_byte(self) -> int:
        """Where the whole lines end in the file."""
        return self._layout.offset + self._complete * self._layout.strides[0]

    @property
    def header_fields(self) -> dict[str, str]:
        return self._header.fields

    def begin(self, row: int) -> None:
        pass

    def rows_before(self, byte: int) -> int:
        return max(byte - self._layout.offset, 0) // self._layout.strides[0]

    def arrived(self, line: int) -> float:
        return self._arrivals.of(line)

    def look(self) -> None:
        if self._ended:
            return
        status = self._check_place()
        lines = max(status.st_size - self._layout.offset, 0) // self._layout.strides[0]
        if lines < self._complete:
            raise SceneError(
                f"{self.path} shrank while it was followed: {self._complete} lines "
                f"were there, {lines} are. What was classified is kept; to start "
                "afresh with the file as it is, add --no-resume."
            )
        self._reread_header()
        now = time.monotonic()
        if lines > self._complete:
            self._complete, self._grown = lines, now
            self._arrivals.note(lines)
        quiet = now - self._grown
        all_there = 0 < lines == self._promised()  # 0: the header does not know yet
        if quiet >= (self._settle_s if all_there else self._idle_s):
            self.finish()

    def finish(self) -> None:
        """Take what is there for all: no more lines than a final header says."""
        if self._ended:
            return
        limit = time.monotonic() + TORN_S
        while not self._reread_header() and time.monotonic() < limit:
            time.sleep(WAIT_S)
        self._take_promised()
        self._size = self._check_place().st_size
        self._info = describe(self._header, self.path, self._final_layout())
        self._ended = True

    def _take_promised(self) -> None:
        """Leave out lines that the header does not count; tell of those that lack."""
        promised, came, name = self._promised(), self._complete, self.path.name
        if 0 < promised < came:
            self._complete = promised
            log.warning(
                f"{name} has {came - promised} lines more than its header promises; "
                "the map leaves them out."
            )
        elif promised > came:
            log.warning(
                f"The header of {name} promises {promised} lines; the map has the "
                f"{came} that came whole."
            )

    def read(
        self,
        rows: tuple[int, int],
        cols: tuple[int, int],
        bands: NDArray[np.intp],
        out: Cube | None = None,
    ) -> Cube:
        stride, lines = self._layout.strides[0], rows[1] - rows[0]
        buffer = np.empty(lines * stride, np.uint8).data
        self._fill(buffer, self._layout.offset + rows[0] * stride)
        self._note_lines(rows[0], buffer)
        sizes = self._layout.sizes[0], lines, self._layout.sizes[2]
        cube = replace(self._layout, offset=0, sizes=sizes).cube(buffer)
        block = cube[:, :, slice(*cols)]
        if out is None:
            out = np.empty((len(bands), *block.shape[1:]), dtype=self._info.dtype)
        if len(bands) == len(block) and (np.diff(bands) == 1).all():
            np.copyto(out, block)
        else:
            for target, band in zip(out, bands, strict=True):
                target[:] = block[band]
        return out

    def close(self) -> None:
        self._file.close()

    def check_lines(self) -> None:
        """Look again at the lines that were read, or some of them if they are many.

        Raises:
            SceneError: One has changed.
        """
        if self._ended and self._check_place().st_size > self._size:
            log.warning(
                f"{self.path.name} grew after its end was found; the map leaves out "
                "the lines that came since. Follow with a longer --idle."
            )
        stride = self._layout.strides[0]
        step = -(-len(self._checks) * stride // CHECKED_BYTES)
        for line in range(0, len(self._checks), max(step, 1)):
            self._check_line(line)

    def _note_lines(self, first: int, values: memoryview) -> None:
        """Remember what lines are now, and look again at one that was read before."""
        stride, known = self._layout.strides[0], len(self._checks)
        lines = len(values) // stride
        self._checks.extend([0] * (first + lines - known))
        for place in range(lines):
            self._compare(first + place, values[place * stride : (place + 1) * stride])
        if known:
            self._check_line(first % known)

    def _check_line(self, line: int) -> None:
        if self._checks[line]:
            stride = self._layout.strides[0]
            buffer = memoryview(bytearray(stride))
            self._fill(buffer, self._layout.offset + line * stride)
            self._compare(line, buffer)

    def _compare(self, line: int, values: memoryview) -> None:
        """Compare a line with what it was, if it was read before."""
        check = 1 + zlib.crc32(values)
        before, self._checks[line] = self._checks[line], check
        if before not in (0, check):
            raise SceneError(
                f"Line {line} of {self.path} was rewritten after it was classified. "
                "Repeat the run with --no-resume when the file is complete."
            )

    def _fill(self, buffer: bytearray | memoryview, position: int) -> None:
        if read_at(self._file, memoryview(buffer), position) < len(buffer):
            raise SceneError(
                f"{self.path} was truncated while it was followed. What was "
                "classified is kept; repeat the command when the file is whole."
            )

    def _check_place(self) -> os.stat_result:
        """Refuse a file that took the place of the one that is followed."""
        try:
            present = os.stat(self.path)
        except OSError as error:
            raise SceneError(
                f"{self.path} cannot be read any more: {error.strerror}."
            ) from error
        if not os.path.samestat(present, self._place):
            raise SceneError(
                f"{self.path} was replaced by another file while it was followed. "
                "What was classified is kept; to start afresh, add --no-resume."
            )
        return present

    def _reread_header(self) -> bool:
        """Take over a header that was rewritten.

        Returns:
            False if it is half written now.

        Raises:
            SceneError: By the new header the bytes mean something else.
        """
        try:
            seen = _identity(self._header.path)
            if seen == self._header_seen:
                return True
            header = read_header(self._header.path)
            layout = line_layout(header)
            header.integer("lines", 0)
        except SceneError:
            return False
        if layout != self._layout:
            changed = [k for k in LAYOUT if header.text(k) != self._header.text(k)]
            raise SceneError(
                f"{header.path} was rewritten with other {', '.join(changed)} while "
                f"{self.path.name} was followed. Repeat the run with --no-resume."
            )
        self._header, self._header_seen = header, seen
        return True

    def _promised(self) -> int:
        """Lines of the header; 0 where it does not know them yet."""
        return max(self._header.integer("lines", 0), 0)

    def _final_layout(self) -> Layout:
        bands, _, cols = self._layout.sizes
        return replace(self._layout, sizes=(bands, max(self._complete, 1), cols))


def line_layout(header: Header) -> Layout:
    """Read where the values lie, of one line.

    Raises:
        SceneError: The file has no lines, or the header cannot be used.
    """
    layout = layout_of(Header(header.path, header.fields | {"lines": "1"}))
    if FILE_AXES[layout.interleave][0] != 1:
        raise SceneError(
            f"{header.path} is band sequential (bsq): no line is complete before the "
            "whole file is. Let the camera write bil or bip to follow it."
        )
    return layout


def _waited_for(path: Path, idle_s: float) -> tuple[Path, Path]:
    """Wait until there are a header and a data file.

    Raises:
        SceneError: They do not appear in time.
    """
    limit = time.monotonic() + idle_s
    while True:
        try:
            return _found(path)
        except SceneError:
            if time.monotonic() > limit:
                raise
        time.sleep(WAIT_S)


def _found(path: Path) -> tuple[Path, Path]:
    with open_binary(path) as file:
        magic = file.read(8)
    files = find_envi(path, magic)
    if files is None:
        raise SceneError(
            f"{path} has no ENVI header beside it; only ENVI files can be followed. "
            "The header must be there before the lines."
        )
    read_header(files[0])
    return files


def _identity(path: Path) -> tuple[Any, ...]:
    try:
        status = path.stat()
    except OSError as error:
        raise SceneError(f"{path} cannot be read: {error.strerror}.") from error
    return status.st_ino, status.st_size, status.st_mtime_ns

"""The classes of a flight while it lasts, for others to map, and to go on from.

``OUT.hsi-live/`` holds a growing raster of ENVI for each layer, ``classes.img`` first,
and a journal with a line for each block. Values are written before the journal's line
and the header that count them: a reader who maps as many lines as ``classes.hdr`` says
never sees a torn one.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from hsi_runtime import files
from hsi_runtime.errors import DISK_FULL, OutputError, ResourceError, reason
from hsi_runtime.follow.live.envi_classes import header_text
from hsi_runtime.follow.live.sync_behind import SyncBehind
from hsi_runtime.output import journal_plan
from hsi_runtime.output.journal import SYNC_BYTES, SYNC_SECONDS
from hsi_runtime.output.journal_folder import JOURNAL, PLAN, JournalFolder
from hsi_runtime.output.layers import Counts, Layer

SUFFIX = ".hsi-live"

State = Literal["classified", "skipped", "lost"]
Values = dict[str, NDArray[Any]]


class LiveBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows of the live map.

    Attributes:
        rows: Half open.
        state: ``classified``; ``skipped``, to stay live; or ``lost`` by the source.
        closed: Rows of the whole scene if the block was mirrored at its end.
        hash: Of the values in all layers.
        counts: Pixels of the class map.
    """

    rows: tuple[int, int]
    state: State
    closed: int | None
    hash: str
    counts: Counts


class LiveMap:
    """A folder of growing rasters; entering it takes over what a dead run left.

    Attributes:
        blocks: What is there, from the first row on without a gap.
    """

    def __init__(
        self,
        output: Path,
        layers: Sequence[Layer],
        cols: int,
        plan: dict[str, Any],
        resume: bool,
        proved: int | None,
    ) -> None:
        """Describe the rasters; entering the context creates them.

        Args:
            output: Path of the class map that is published in the end.
            layers: Rasters to write, the classes first.
            cols: Width.
            plan: All that the values depend on; must be the same to resume.
            resume: Go on where an earlier run stopped.
            proved: Rows whose lines are known to be what they were; None where no line
                can be read again.
        """
        self._folder = JournalFolder(output, SUFFIX)
        self.folder = self._folder.path
        self.layers, self._cols = list(layers), cols
        self.blocks: list[LiveBlock] = []
        self.georeference: dict[str, str] = {}
        self._plan, self._resume, self._proved = plan, resume, proved
        self._files: dict[str, IO[bytes]] = {}
        self._journal: IO[bytes] | None = None
        self._unsynced_bytes, self._synced = 0, time.monotonic()
        self._behind = SyncBehind()

    @property
    def rows(self) -> int:
        """Rows that are there."""
        return self.blocks[-1].rows[1] if self.blocks else 0

    def __enter__(self) -> Self:
        try:
            self._folder.lock()
            plan = self.folder / PLAN
            afresh = not (self._resume and journal_plan.may_resume(plan, self._plan))
            if afresh:
                plan.unlink(missing_ok=True)
                (self.folder / JOURNAL).unlink(missing_ok=True)
            for layer in self.layers:
                path = self._path(layer, ".img")
                mode = "r+b" if path.is_file() and not afresh else "w+b"
                self._files[layer.name] = files.open_own(path, mode)
            if afresh:
                files.write_bytes(plan, journal_plan.as_text(self._plan))
            else:
                self._take_over()
            self._journal = files.open_own(self.folder / JOURNAL, "ab")
            self._write_headers()
        except OSError as error:
            self._release()
            raise self._explained(error) from error
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if not self.blocks:
                self.remove()
            else:
                self._sync()
        except OSError:
            pass  # lines whose bytes got lost have the wrong hash
        finally:
            self._release()

    def append(
        self,
        rows: tuple[int, int],
        state: State,
        closed: int | None,
        values: Values,
        counts: Counts,
    ) -> None:
        """Write the next rows.

        Args:
            rows: Half open, from the last row on.
            state: See `LiveBlock`.
            closed: See `LiveBlock`.
            values: By name of the layer, shape ``(band, row, col)``.
            counts: Pixels of the class map.

        Raises:
            ResourceError: The disk is full.
        """
        assert self._journal is not None
        digest = _start_hash(rows, state, closed, counts)
        try:
            for layer in self.layers:
                data = _as_lines(values[layer.name])
                digest.update(data)
                self._write(layer, data, rows[0])
                self._unsynced_bytes += len(data)
            block = LiveBlock(rows, state, closed, digest.hexdigest(), counts)
            self._journal.write(msgspec.json.encode(block) + b"\n")
            self.blocks.append(block)
            self._write_headers()
            late = time.monotonic() - self._synced > SYNC_SECONDS
            if late or self._unsynced_bytes > SYNC_BYTES:
                self._sync_behind()
        except OSError as error:
            raise self._explained(error) from error

    def read(self, layer: Layer, rows: tuple[int, int]) -> NDArray[Any]:
        """Read rows of a layer, shape ``(band, row, col)``."""
        count, line = rows[1] - rows[0], self._line_bytes(layer)
        file = self._files[layer.name].fileno()
        data = os.pread(file, count * line, rows[0] * line)
        shape = count, len(layer.bands), self._cols
        return np.frombuffer(data, layer.dtype).reshape(shape).transpose(1, 0, 2)

    def remove(self) -> None:
        """Delete everything; the map is published."""
        self._folder.remove()

    def _take_over(self) -> None:
        """Take the blocks whose bytes have the hash of their line, up to a bad one.

        Blocks that were mirrored at an end are computed again: there may be more lines.
        """
        path = self.folder / JOURNAL
        good: list[bytes] = []
        for line in path.read_bytes().splitlines() if path.is_file() else []:
            try:
                block = msgspec.json.decode(line, type=LiveBlock)
            except msgspec.DecodeError:
                break  # torn by the end of the run
            follows = self.rows == block.rows[0] < block.rows[1]
            if not follows or not self._holds(block):
                break
            again = block.closed is not None or block.rows[1] > (self._proved or 0)
            if self._proved is not None and again:
                break
            self.blocks.append(block)
            good.append(line)
        # The headers shrink first, then what they count.
        self._write_headers()
        files.write_bytes(path, b"".join(line + b"\n" for line in good))
        for layer in self.layers:
            size = self.rows * self._line_bytes(layer)
            self._files[layer.name].truncate(size)

    def _holds(self, block: LiveBlock) -> bool:
        digest = _start_hash(block.rows, block.state, block.closed, block.counts)
        for layer in self.layers:
            line = self._line_bytes(layer)
            size = (block.rows[1] - block.rows[0]) * line
            file = self._files[layer.name].fileno()
            digest.update(os.pread(file, size, block.rows[0] * line))
        held: bool = digest.hexdigest() == block.hash
        return held

    def _write(self, layer: Layer, data: bytes, row: int) -> None:
        position = row * self._line_bytes(layer)
        files.write_at(self._files[layer.name], data, position)

    def _write_headers(self) -> None:
        """Count the rows in every header, which is replaced at once."""
        for layer in self.layers:
            size = self.rows, self._cols
            text = header_text(layer, size, self.georeference)
            path = self._path(layer, ".hdr")
            partial = self._path(layer, ".hdr.part")
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, path)

    def _path(self, layer: Layer, suffix: str) -> Path:
        return self.folder / f"{layer.name}{suffix}"

    def _line_bytes(self, layer: Layer) -> int:
        return len(layer.bands) * self._cols * layer.dtype.itemsize

    def _sync_behind(self) -> None:
        if self._behind.start(self._open_files()):
            self._unsynced_bytes, self._synced = 0, time.monotonic()

    def _sync(self) -> None:
        for file in self._open_files():
            os.fdatasync(file.fileno())

    def _open_files(self) -> list[IO[bytes]]:
        journal = [] if self._journal is None else [self._journal]
        return [*self._files.values(), *journal]

    def _release(self) -> None:
        for file in self._open_files():
            file.close()
        self._folder.unlock()

    def _explained(self, error: OSError) -> Exception:
        if error.errno in DISK_FULL:
            return ResourceError(
                f"The disk of {self.folder.parent} is full. What was classified is "
                "kept: make room and repeat the command."
            )
        return OutputError(f"{self.folder}: {reason(error)}.")


def _as_lines(values: NDArray[Any]) -> bytes:
    """Lay out ``(band, row, col)`` line by line, as the growing file has them."""
    return values.transpose(1, 0, 2).tobytes()


def _start_hash(
    rows: tuple[int, int], state: State, closed: int | None, counts: Counts
) -> Any:
    line = msgspec.json.encode((rows, state, closed, counts))
    return hashlib.blake2b(line, digest_size=16)

"""Keeps unfinished results beside the output, so that a dead run can be resumed.

``OUT.hsi-part/`` holds raw files of the output's size, a journal with one line for each
finished piece, and the plan they belong to. A GeoTIFF writer that is killed leaves a
file that opens and reads as zeros; here, a piece counts only when its journal line says
so and its bytes still have the hash written there.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec
from numpy.typing import NDArray

from hsi_runtime import files
from hsi_runtime.errors import DISK_FULL, HsiError, OutputError, ResourceError
from hsi_runtime.output.layers import Counts, Layer
from hsi_runtime.scenes.fingerprint import only_content_differs
from hsi_runtime.scenes.scene import SceneInfo

log = logging.getLogger(__name__)

UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
SYNC_SECONDS, SYNC_BYTES = 5.0, 64 * 1024**2


PLAN, PUBLISHING = "plan.json", "publishing"


def folder_of(output: Path) -> Path:
    """Name the scratch folder of an output."""
    return output.with_name(output.name + ".hsi-part")


def was_publishing(output: Path) -> bool:
    """Tell whether a run died after it began to give its files their names."""
    return os.path.isfile(folder_of(output) / PUBLISHING)


class Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A finished piece: its number, its rectangle in the output, hash and counts."""

    number: int
    rows: tuple[int, int]
    cols: tuple[int, int]
    hash: str
    counts: Counts


class Journal:
    """Raw files that take results piece by piece, until they are published.

    A context manager. Leaving it with an error keeps finished pieces for the next run.

    Attributes:
        pieces: What is finished, by number.
        published: Whether files under the outputs' names may be ours.
    """

    def __init__(
        self,
        output: Path,
        grid: SceneInfo,
        wanted: Sequence[Layer],
        plan: dict[str, Any],
        resume: bool = True,
    ) -> None:
        """Describe what is to be written; entering the context creates it.

        Args:
            output: Path of the class map.
            grid: Size and georeference of the outputs.
            wanted: Rasters to write.
            plan: All that the values depend on; must be the same to resume.
            resume: Whether to go on where an earlier run stopped.
        """
        self.folder = folder_of(output)
        self.grid, self.layers = grid, list(wanted)
        self.pieces: dict[int, Piece] = {}
        self.published = False
        self._plan, self._resume = plan, resume
        self._files: dict[str, IO[bytes]] = {}
        self._journal: IO[bytes] | None = None
        self._lock: IO[bytes] | None = None
        self._unsynced_bytes = 0
        self._synced = time.monotonic()
        self._broken = False

    def __enter__(self) -> Self:
        self._acquire()
        afresh = False
        try:
            plan = self.folder / PLAN
            text = (json.dumps(self._plan, indent=1, sort_keys=True) + "\n").encode()
            afresh = not self._may_resume(plan, text)
            # Alone, the mark is of a run that was stopped while it removed its scratch.
            ours = self._resume and not (afresh and plan.is_file())
            self.published = ours and (self.folder / PUBLISHING).is_file()
            if afresh:
                for name in (PUBLISHING, plan.name):
                    (self.folder / name).unlink(missing_ok=True)
                self._open("w+b")
                (self.folder / "journal.jsonl").unlink(missing_ok=True)
                # The plan comes last: without it, there is nothing to resume.
                files.write_bytes(plan, text)
            else:
                self._open("r+b")
                self._read_journal()
            self._journal = (self.folder / "journal.jsonl").open("ab", buffering=0)
        except OSError as error:
            if afresh:  # nothing was computed yet, so nothing is lost
                shutil.rmtree(self.folder, ignore_errors=True)
            self._release()
            if isinstance(error, OutputError):
                raise
            raise self.explain(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is not None and not self.pieces:
                self.remove()  # nothing to resume
            elif error is not None and not self._broken:
                self.sync()
        except (OSError, ResourceError):
            pass  # the error that ended the run is the one to tell
        finally:
            self._release()

    def write(
        self,
        number: int,
        rows: tuple[int, int],
        cols: tuple[int, int],
        values: dict[str, NDArray[Any]],
        counts: Counts,
    ) -> None:
        """Store a finished piece.

        Args:
            number: Of the piece.
            rows: Its rows in the output.
            cols: Its columns in the output.
            values: By name of the layer, shape ``(band, row, col)``.
            counts: Of its class map.

        Raises:
            ResourceError: The disk is full.
        """
        digest = _start_hash(number, rows, cols, counts)
        try:
            for layer in self.layers:
                for band, plane in enumerate(values[layer.name]):
                    digest.update(plane.tobytes())
                    for offset, line in self._lines(layer, band, rows, cols, plane):
                        _write_all(self._files[layer.name].fileno(), line, offset)
            piece = Piece(number, rows, cols, digest.hexdigest(), counts)
            self.pieces[number] = piece
            self._note(piece)
            self._unsynced_bytes += sum(v.nbytes for v in values.values())
            late = time.monotonic() - self._synced > SYNC_SECONDS
            if late or self._unsynced_bytes > SYNC_BYTES:
                self.sync()
        except OSError as error:
            self._broken = True
            raise self.explain(error) from error

    def sync(self) -> None:
        """Make what was written survive a power cut.

        The order does not matter: a line whose bytes got lost has the wrong hash.
        """
        for file in (*self._files.values(), self._journal):
            if file is not None:
                os.fdatasync(file.fileno())
        self._unsynced_bytes, self._synced = 0, time.monotonic()

    def read(
        self, layer: Layer, band: int, rows: tuple[int, int], cols: tuple[int, int]
    ) -> bytes:
        """Read values back, row by row in C order."""
        file = self._files[layer.name].fileno()
        size, width = layer.dtype.itemsize, self.grid.cols
        start = (band * self.grid.rows + rows[0]) * width
        if cols == (0, width):
            length = (rows[1] - rows[0]) * width * size
            return os.pread(file, length, start * size)
        length = (cols[1] - cols[0]) * size
        return b"".join(
            os.pread(file, length, (start + row * width + cols[0]) * size)
            for row in range(rows[1] - rows[0])
        )

    def mark_publishing(self) -> None:
        """Note that files under the outputs' names may be ours from now on."""
        (self.folder / PUBLISHING).touch()

    def remove(self) -> None:
        """Delete everything; the outputs are published."""
        # Without its plan, what may be left of the folder is nothing to resume.
        with contextlib.suppress(OSError):
            (self.folder / PLAN).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def bytes_of(self, layer: Layer) -> int:
        """Size of a layer's raw file."""
        pixels = self.grid.rows * self.grid.cols
        return pixels * len(layer.bands) * layer.dtype.itemsize

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Turn errors of the operating system into ours, whatever happens inside."""
        try:
            yield
        except HsiError:
            raise
        except OSError as error:
            raise self.explain(error) from error

    def explain(self, error: OSError) -> Exception:
        """Turn an error of the operating system into one of ours."""
        if error.errno in DISK_FULL:
            needed = sum(self.bytes_of(layer) for layer in self.layers) / 1e6
            return ResourceError(
                f"The disk of {self.folder.parent} is full; the outputs need up to "
                f"{needed:.1f} MB of scratch and as much again for the result. Make "
                "room and repeat the command: it resumes."
            )
        return OutputError(f"{self.folder.parent}: {error.strerror}.")

    def _acquire(self) -> None:
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = (self.folder / "lock").open("a+b", buffering=0)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise self.explain(error) from error
            raise OutputError(
                f"{self.folder} cannot be created: {error.strerror}."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            owner = self._lock.read().decode(errors="replace") or "another process"
            self._release()
            raise OutputError(
                f"Another hsi-run is writing {self.folder} ({owner}); wait for it, or "
                "choose another -o."
            ) from error
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                self._release()
                raise OutputError(
                    f"{self.folder} cannot be locked: {error.strerror}."
                ) from error
        with contextlib.suppress(OSError):  # only tells others who it is
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()} on {os.uname().nodename}".encode())

    def _may_resume(self, plan: Path, text: bytes) -> bool:
        """Tell whether the plan that lies here is this run's, which is `text`.

        Raises:
            OutputError: It is another run's, which may still be resumed.
        """
        if not self._resume or not plan.is_file():
            return False
        there = plan.read_bytes()
        if there == text:
            return True
        try:
            old = json.loads(there)
        except ValueError:  # a power cut left no plan, or a part of one
            return False
        if isinstance(old, dict) and only_content_differs(old, self._plan):
            log.warning(
                f"The scene has changed since the interrupted run in {self.folder}; "
                "starting afresh."
            )
            return False
        raise OutputError(
            f"{self.folder} holds an interrupted run with another "
            f"{_difference(old, self._plan)}; repeat that run to resume it, or start "
            "afresh with --no-resume."
        )

    def _open(self, mode: str) -> None:
        """Open the raw files at full size: a full disk shows now, not in hours."""
        for layer in self.layers:
            path = self.folder / f"{layer.name}.raw"
            path.touch()  # where one was lost, its pieces are computed again
            self._files[layer.name] = path.open(mode, buffering=0)
            file, size = self._files[layer.name].fileno(), self.bytes_of(layer)
            try:
                os.posix_fallocate(file, 0, size)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                os.ftruncate(file, size)

    def _read_journal(self) -> None:
        """Take over pieces whose bytes have the hash of their journal line."""
        path = self.folder / "journal.jsonl"
        good = []
        for line in path.read_bytes().splitlines() if path.is_file() else []:
            try:
                piece = msgspec.json.decode(line, type=Piece)
            except msgspec.DecodeError:
                continue  # torn by the end of the run
            inside = 0 <= piece.rows[0] < piece.rows[1] <= self.grid.rows
            inside &= 0 <= piece.cols[0] < piece.cols[1] <= self.grid.cols
            if inside and self._hash(piece) == piece.hash:
                self.pieces[piece.number] = piece
                good.append(line)
        files.write_bytes(path, b"".join(line + b"\n" for line in good))

    def _note(self, piece: Piece) -> None:
        """Append a line to the journal."""
        assert self._journal is not None
        view = memoryview(msgspec.json.encode(piece) + b"\n")
        while view:
            view = view[self._journal.write(view) :]

    def _hash(self, piece: Piece) -> str:
        digest = _start_hash(piece.number, piece.rows, piece.cols, piece.counts)
        for layer in self.layers:
            for band in range(len(layer.bands)):
                digest.update(self.read(layer, band, piece.rows, piece.cols))
        found: str = digest.hexdigest()
        return found

    def _lines(
        self,
        layer: Layer,
        band: int,
        rows: tuple[int, int],
        cols: tuple[int, int],
        plane: NDArray[Any],
    ) -> list[tuple[int, bytes]]:
        """Pair runs of neighbouring bytes with their place in the raw file."""
        size, width = layer.dtype.itemsize, self.grid.cols
        start = (band * self.grid.rows + rows[0]) * width + cols[0]
        if cols == (0, width):
            return [(start * size, plane.tobytes())]
        return [
            ((start + number * width) * size, line.tobytes())
            for number, line in enumerate(plane)
        ]

    def _release(self) -> None:
        for file in (*self._files.values(), self._journal, self._lock):
            if file is not None:
                file.close()


def _start_hash(
    number: int, rows: tuple[int, int], cols: tuple[int, int], counts: Counts
) -> Any:
    """Begin the hash of a piece with what its journal line says of it."""
    line = msgspec.json.encode((number, rows, cols, counts))
    return hashlib.blake2b(line, digest_size=16)


def _write_all(file: int, data: bytes, offset: int) -> None:
    """Write all bytes: a nearly full disk takes a part of them without an error."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _difference(old: Any, plan: dict[str, Any]) -> str:
    """Name what differs between two plans."""
    if not isinstance(old, dict):
        return "plan"
    keys = [k for k in plan if old.get(k) != plan[k]]
    return ", ".join(keys) or "plan"

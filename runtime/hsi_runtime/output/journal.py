"""Keeps unfinished results beside the output, so that a dead run can be resumed.

``OUT.hsi-part/`` holds raw files of the output's size, a journal with one line for each
finished piece, and the plan they belong to. A GeoTIFF writer that is killed leaves a
file that opens and reads as zeros; here, a piece counts only when its journal line says
so and its bytes still have the hash written there.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec
from numpy.typing import NDArray

from hsi_runtime import files
from hsi_runtime.errors import (
    DISK_FULL,
    HsiError,
    OutputError,
    ResourceError,
    reason,
)
from hsi_runtime.output import journal_plan
from hsi_runtime.output.journal_folder import (
    JOURNAL,
    PLAN,
    PUBLISHING,
    JournalFolder,
)
from hsi_runtime.output.layers import Counts, Layer
from hsi_runtime.output.raw_file import RawFile, bytes_of
from hsi_runtime.scenes.scene import SceneInfo

SYNC_SECONDS, SYNC_BYTES = 5.0, 64 * 1024**2


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
        published: True if files under the outputs' names may be ours.
    """

    def __init__(
        self,
        output: Path,
        grid: SceneInfo,
        layers: Sequence[Layer],
        plan: dict[str, Any],
        resume: bool = True,
    ) -> None:
        """Describe what is to be written; entering the context creates it.

        Args:
            output: Path of the class map.
            grid: Size and georeference of the outputs.
            layers: Rasters to write.
            plan: All that the values depend on; must be the same to resume.
            resume: Go on where an earlier run stopped.
        """
        self._folder = JournalFolder(output)
        self.folder = self._folder.path
        self.grid, self.layers = grid, list(layers)
        self.pieces: dict[int, Piece] = {}
        self.published = False
        self._plan, self._resume = plan, resume
        self._files: dict[str, RawFile] = {}
        self._placed: dict[str, RawFile] = {}
        self._journal: IO[bytes] | None = None
        self._unsynced_bytes = 0
        self._synced = time.monotonic()
        self._broken = False

    def __enter__(self) -> Self:
        with self.explaining():
            self._folder.lock()
        afresh = False
        try:
            plan = self.folder / PLAN
            afresh = not (self._resume and journal_plan.may_resume(plan, self._plan))
            # Alone, the mark is of a run that was stopped while it removed its folder.
            ours = self._resume and not (afresh and plan.is_file())
            self.published = ours and (self.folder / PUBLISHING).is_file()
            if afresh:
                for name in (PUBLISHING, PLAN):
                    (self.folder / name).unlink(missing_ok=True)
                self._open("w+b")
                (self.folder / JOURNAL).unlink(missing_ok=True)
                # The plan comes last: without it, there is nothing to resume.
                files.write_bytes(plan, journal_plan.as_text(self._plan))
            else:
                self._open("r+b")
                self._read_journal()
            self._journal = files.open_own(self.folder / JOURNAL, "ab")
        except (HsiError, OSError) as error:
            if afresh:  # nothing was computed yet, so nothing is lost
                self._folder.remove()
            self._release()
            if isinstance(error, HsiError):
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
        except OSError:
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
            number: Number of the piece.
            rows: Its rows in the output.
            cols: Its columns in the output.
            values: By name of the layer, shape ``(band, row, col)``.
            counts: Pixels of its class map.

        Raises:
            ResourceError: The disk is full.
        """
        planes = (plane for layer in self.layers for plane in values[layer.name])
        piece = piece_of(number, rows, cols, counts=counts, planes=planes)
        try:
            for layer in self.layers:
                self._files[layer.name].write(rows, cols, values[layer.name])
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
        for file in self._files.values():
            file.sync()
        if self._journal is not None:
            os.fdatasync(self._journal.fileno())
        self._unsynced_bytes, self._synced = 0, time.monotonic()

    def read(
        self, layer: Layer, band: int, rows: tuple[int, int], cols: tuple[int, int]
    ) -> bytes:
        """Read values back, row by row in C order."""
        return self._raw(layer).read(band, rows, cols)

    def raw_name(self, layer: Layer) -> str:
        """Name the raw file that holds what is published of a layer."""
        return self._raw(layer).path.name

    def publish_from(self, grid: SceneInfo, rasters: dict[str, RawFile]) -> None:
        """Publish other rasters than the pieces, which are read for nothing else then.

        Args:
            grid: Size and georeference of the rasters.
            rasters: Raw file in the journal's folder by the name of its layer; they are
                closed with the journal.
        """
        self.grid, self._placed = grid, rasters

    def mark_publishing(self) -> None:
        """Note that files under the outputs' names may be ours from now on."""
        files.open_own(self.folder / PUBLISHING, "ab").close()

    def remove(self) -> None:
        """Delete everything; the outputs are published."""
        self._folder.remove()

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Turn errors of the operating system that happen inside into ours."""
        try:
            yield
        except OSError as error:
            raise self.explain(error) from error

    def check_present(self) -> None:
        """Refuse to go on where somebody has removed the folder.

        Raises:
            OutputError: It is not there any more.
        """
        if not self.folder.is_dir():
            raise OutputError(
                f"{self.folder} was removed while the scene was classified. Repeat the "
                "command; it starts afresh."
            )

    def explain(self, error: OSError) -> Exception:
        """Turn an error of the operating system into one of ours."""
        if error.errno in DISK_FULL:
            needed = sum(bytes_of(layer, self.grid) for layer in self.layers) / 1e6
            # An output may lie on another disk, where it is copied in the end.
            target = error.filename2 or self.folder
            return ResourceError(
                f"The disk of {Path(target).parent} is full; the outputs need up to "
                f"{needed:.1f} MB of temporary space and as much again for the result. "
                "Make room and repeat the command: it resumes."
            )
        try:
            self.check_present()
        except OutputError as removed:
            return removed
        return OutputError(f"{self.folder.parent}: {reason(error)}.")

    def _raw(self, layer: Layer) -> RawFile:
        return (self._placed or self._files)[layer.name]

    def _open(self, mode: str) -> None:
        for layer in self.layers:
            path = self.folder / f"{layer.name}.raw"
            self._files[layer.name] = RawFile(path, layer, self.grid, mode)

    def _read_journal(self) -> None:
        """Take over pieces whose bytes have the hash of their journal line."""
        path = self.folder / JOURNAL
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
        result: str = digest.hexdigest()
        return result

    def _release(self) -> None:
        for file in (*self._files.values(), *self._placed.values(), self._journal):
            if file is not None:
                file.close()
        self._folder.unlock()


def piece_of(
    number: int,
    rows: tuple[int, int],
    cols: tuple[int, int],
    *,
    counts: Counts,
    planes: Iterable[NDArray[Any]],
) -> Piece:
    """Describe a finished piece, its values included.

    Args:
        number: Number of the piece.
        rows: Its rows in the output.
        cols: Its columns in the output.
        counts: Pixels of its class map.
        planes: Its values, layer by layer and band by band, shape ``(row, col)``.
    """
    digest = _start_hash(number, rows, cols, counts)
    for plane in planes:
        digest.update(plane.tobytes())
    return Piece(number, rows, cols, digest.hexdigest(), counts)


def _start_hash(
    number: int, rows: tuple[int, int], cols: tuple[int, int], counts: Counts
) -> Any:
    """Start the hash of a piece with the other entries of its journal line."""
    line = msgspec.json.encode((number, rows, cols, counts))
    return hashlib.blake2b(line, digest_size=16)

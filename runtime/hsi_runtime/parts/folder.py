"""The folder of a scene's finished pieces, which many machines fill at the same time.

``OUT.hsi-parts/`` holds the plan that all parts share, a file for each finished piece
and a record of each attempt at a part. A file gets its name in one step, when it is
complete, and whoever computes a piece once more writes the same bytes. So writers need
no lock, which network file systems may lack, or pretend to have.

Nobody can tell whether the writer of an unfinished file lives: it runs on another
machine, whose clock differs. So each attempt at a part begins by removing the
unfinished files of its pieces, as a join does for all, and a writer whose file is gone
writes it again.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hsi_runtime import files
from hsi_runtime.errors import (
    DISK_FULL,
    OutputError,
    ResourceError,
    VerificationError,
    reason,
)
from hsi_runtime.output.journal import Piece, piece_of
from hsi_runtime.output.journal_folder import PLAN, folder_of, refuse_foreign
from hsi_runtime.output.journal_plan import as_text, difference
from hsi_runtime.output.layers import Layer

SUFFIX = ".hsi-parts"
# The walk depends on it where memory is limited, so a join needs it; values do not.
UNCOMPARED = "windows_at_once"
HEADER_BYTES = 2**20
_PIECE = re.compile(r"(\d{6,9})\.piece")
_UNFINISHED = re.compile(rf"{_PIECE.pattern}\.[0-9a-f]{{8}}\.part")
_OWN = re.compile(
    r"(plan\.json|\d{6,9}\.piece|\d+-\d+\.[0-9a-f]{16}\.attempt)"
    r"(\.[0-9a-f]{8}\.part)?"
)
# NFS keeps a file that is open under such a name when it is removed.
_THERE = re.compile(rf"{_OWN.pattern}|\.nfs[0-9a-f]+")
# What a writer meets whose file another attempt has removed; each does so once.
REMOVED = errno.ENOENT, errno.ESTALE
REWRITES = 100
REMOVERS = 8  # threads: each file takes a way to the disk, or to a server


class _Engine(msgspec.Struct):
    """What a join needs of the engine that computed the parts."""

    device: str
    precision: str


class _Plan(msgspec.Struct):
    """What a join needs of the plan, besides comparing it."""

    engine: _Engine
    windows_at_once: int


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """First line of a piece's file."""

    terms: str
    piece: Piece


class PartsFolder:
    """The folder, for one machine that reads or fills it.

    Attributes:
        path: The folder.
    """

    def __init__(self, output: Path) -> None:
        self.path = folder_of(output, SUFFIX)

    def check_own(self) -> None:
        """Refuse a folder that is not ours, before anything in it is opened.

        Raises:
            OutputError: It is a link, or holds something else.
        """
        with self.explaining(), contextlib.suppress(FileNotFoundError):
            refuse_foreign(self.path, _THERE)

    def plan(self) -> dict[str, Any]:
        """Read the plan that the parts share, with what is not compared.

        Raises:
            OutputError: There are no parts, or the plan is not one of ours.
        """
        path = self.path / PLAN
        if not path.is_file():
            raise OutputError(
                f"There are no parts in {self.path}; compute them with --part I/N, "
                "then join."
            )
        try:
            text = path.read_bytes()
            msgspec.json.decode(text, type=_Plan)
            plan: dict[str, Any] = json.loads(text)
        except (OSError, msgspec.DecodeError) as error:
            raise OutputError(
                f"{path} is damaged. Remove {self.path} to start afresh."
            ) from error
        return plan

    def agree(self, terms: dict[str, Any], windows_at_once: int) -> None:
        """Create the folder, or compare its plan with the present one.

        Raises:
            OutputError: The parts there are of another plan, or the folder is not ours.
            ResourceError: The disk is full.
        """
        with self.explaining():
            self.path.mkdir(exist_ok=True)
            refuse_foreign(self.path, _THERE)
            if not (self.path / PLAN).is_file():
                text = as_text(terms | {UNCOMPARED: windows_at_once})
                files.write_bytes(self.path / PLAN, text)
        self.compare(self.plan(), terms)

    def compare(self, plan: dict[str, Any], terms: dict[str, Any]) -> None:
        """Refuse parts of another plan.

        Raises:
            OutputError: They are; what differs is named.
        """
        shared = {key: value for key, value in plan.items() if key != UNCOMPARED}
        if shared != terms:
            raise OutputError(
                f"{self.path} holds parts of another {difference(shared, terms)}. Give "
                "all parts and the join the same options, on machines of one kind; or "
                "remove that folder to start afresh."
            )

    def check_locks(self) -> None:
        """Refuse a file system without locks, where two joins would not see each other.

        Raises:
            OutputError: It has none.
        """
        with (self.path / PLAN).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in files.UNSUPPORTED:
                    raise
                raise OutputError(
                    f"The file system of {self.path} has no locks (flock), which a "
                    "join needs. Copy the folder to a disk that has them, and join "
                    "there with -o."
                ) from error

    def numbers(self) -> set[int]:
        """Return the numbers of the pieces that are there."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return set()
        return {int(m[1]) for m in map(_PIECE.fullmatch, names) if m}

    def remove_unfinished(self, numbers: Collection[int]) -> None:
        """Remove what killed attempts left of some pieces.

        An attempt that lives writes its piece again; see `write`.
        """
        with contextlib.suppress(OSError):
            for name in os.listdir(self.path):
                match = _UNFINISHED.fullmatch(name)
                if match and int(match[1]) in numbers:
                    (self.path / name).unlink(missing_ok=True)

    def write(
        self,
        terms: str,
        piece: Piece,
        layers: Sequence[Layer],
        values: dict[str, NDArray[Any]],
    ) -> None:
        """Store a finished piece; `sync` makes it survive a power cut.

        Args:
            terms: Hash of what its values depend on.
            piece: Its description.
            layers: Rasters, in the order of the values.
            values: By name of the layer, shape ``(band, row, col)``.

        Raises:
            OutputError: The folder is gone.
            ResourceError: The disk is full.
        """
        header = msgspec.json.encode(_Header(terms, piece)) + b"\n"
        path = self.piece_path(piece.number)
        with self.explaining():
            for left in reversed(range(REWRITES)):
                partial = files.unfinished(path)
                try:
                    with files.open_own(partial, "xb") as file:
                        files.write_at(file, header, 0)
                        offset = len(header)
                        for layer in layers:
                            data = values[layer.name].tobytes()
                            files.write_at(file, data, offset)
                            offset += len(data)
                    os.replace(partial, path)
                    return
                except BaseException as error:
                    partial.unlink(missing_ok=True)
                    removed = isinstance(error, OSError) and error.errno in REMOVED
                    if not (removed and left and self.path.is_dir()):
                        raise

    def sync(self, numbers: Iterable[int]) -> None:
        """Make pieces survive a power cut; one that got lost before has a wrong hash.

        Raises:
            OutputError: The folder is gone.
            ResourceError: The disk is full.
        """
        with self.explaining():
            for number in numbers:
                files.sync(self.piece_path(number))
            files.sync(self.path)

    def check_terms(self, number: int, terms: str) -> None:
        """Refuse a piece of another plan.

        Raises:
            OutputError: It is; it is named.
            VerificationError: It is torn.
        """
        with self._opened(number) as file:
            self._header(number, file, terms)

    def read(
        self,
        number: int,
        terms: str,
        place: tuple[tuple[int, int], tuple[int, int]],
        layers: Sequence[Layer],
    ) -> tuple[Piece, dict[str, NDArray[Any]]]:
        """Read a piece, and verify every byte of it.

        Args:
            number: Number of the piece.
            terms: Hash of what its values must depend on.
            place: Rows and columns that it must have.
            layers: Rasters, in the order of the values.

        Raises:
            OutputError: It is of another plan.
            VerificationError: It is torn, or its bytes have changed.
        """
        (top, bottom), (left, right) = place
        values: dict[str, NDArray[Any]] = {}
        with self._opened(number) as file:
            piece, offset = self._header(number, file, terms)
            good = (piece.number, piece.rows, piece.cols) == (number, *place)
            for layer in layers if good else ():
                shape = len(layer.bands), bottom - top, right - left
                array = np.empty(shape, layer.dtype)
                buffer = array.data.cast("B")
                good &= files.read_at(file, buffer, offset) == len(buffer)
                offset += len(buffer)
                values[layer.name] = array
            good &= os.fstat(file.fileno()).st_size == offset
        if good:
            planes = (plane for layer in layers for plane in values[layer.name])
            counts = piece.counts
            good = piece == piece_of(number, *place, counts=counts, planes=planes)
        if not good:
            raise self._torn(number)
        return piece, values

    def piece_path(self, number: int) -> Path:
        """Name the file of a piece."""
        return self.path / f"{number:06}.piece"

    def remove(self) -> None:
        """Delete the folder: the outputs are published."""
        with contextlib.suppress(OSError), ThreadPoolExecutor(REMOVERS) as threads:
            for _ in range(REWRITES):
                own = [n for n in os.listdir(self.path) if _OWN.fullmatch(n)]
                rest = [self.path / name for name in own if name != PLAN]
                list(threads.map(partial(Path.unlink, missing_ok=True), rest))
                (self.path / PLAN).unlink(missing_ok=True)
                try:
                    self.path.rmdir()
                    return
                except OSError as error:
                    # A part that is computed once more has just added a piece.
                    if error.errno != errno.ENOTEMPTY:
                        raise

    def remove_plan(self) -> None:
        """Delete the folder if it holds nothing but a plan."""
        with contextlib.suppress(OSError):
            if os.listdir(self.path) == [PLAN]:
                self.remove()

    @contextlib.contextmanager
    def _opened(self, number: int) -> Iterator[IO[bytes]]:
        path = self.piece_path(number)
        try:
            with files.open_own(path, "rb") as file:
                yield file
        except OSError as error:
            raise OutputError(f"{path} cannot be read: {reason(error)}.") from error

    def _header(self, number: int, file: IO[bytes], terms: str) -> tuple[Piece, int]:
        """Read the first line of a piece's file; return where its values begin."""
        buffer = bytearray(HEADER_BYTES)
        size = files.read_at(file, memoryview(buffer), 0)
        line, end, _ = bytes(buffer[:size]).partition(b"\n")
        try:
            header = msgspec.json.decode(line, type=_Header)
        except msgspec.DecodeError as error:
            raise self._torn(number) from error
        if not end:
            raise self._torn(number)
        if header.terms != terms:
            raise OutputError(
                f"{self.piece_path(number)} is of another scene, model or engine. "
                "Remove it and compute its part again."
            )
        return header.piece, len(line) + 1

    def _torn(self, number: int) -> VerificationError:
        return VerificationError(
            f"{self.piece_path(number)} is damaged: it is not what was computed. "
            "Compute its part again."
        )

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Turn errors of the operating system that happen inside into ours."""
        try:
            yield
        except OSError as error:
            if error.errno in DISK_FULL:
                raise ResourceError(
                    f"The disk of {self.path} is full. Make room and repeat the "
                    "command: it resumes."
                ) from error
            if not self.path.is_dir() and self.path.exists():
                raise OutputError(
                    f"{self.path} is not a folder. Move it away, or choose another -o."
                ) from error
            if not self.path.is_dir() and self.path.parent.is_dir():
                raise OutputError(
                    f"{self.path} is not there any more. If the parts were joined "
                    "meanwhile, all is done; else repeat the command."
                ) from error
            raise OutputError(f"{self.path}: {reason(error)}.") from error

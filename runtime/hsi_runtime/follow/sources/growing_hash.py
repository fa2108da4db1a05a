"""Hashes a file while it grows, and proves that what was there has not changed.

At the end of a flight no file is read again: the hash of its content is ready. Beside
the live map lie earlier states of it; the next run, which must hash the file from its
beginning, finds out by them whether lines that are classified were rewritten.
"""

import hashlib
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from hsi_runtime import files
from hsi_runtime.errors import HsiError, SceneError
from hsi_runtime.files import open_binary

CHUNK_BYTES = 1024**2
LOOK_S = 0.05
STATE_SECONDS = 1.0  # between two states that are kept


class HashState(msgspec.Struct, frozen=True):
    """The hash of a file up to a byte."""

    bytes: int
    sha256: str


class GrowingHash:
    """The hash of a growing file; a context manager that hashes in a thread.

    Args:
        path: The file.
        states: File of earlier states; new ones are added.
    """

    def __init__(self, path: Path, states: Path) -> None:
        self._path, self._states = path, states
        self._known = read_states(states)
        self._hash, self._done = hashlib.sha256(), 0
        self._end = 0
        self._closed, self._stopped = False, False
        self._error: Exception | None = None
        self._saved = time.monotonic()
        self._saved_bytes = self._known[-1].bytes if self._known else 0
        self._thread = threading.Thread(target=self._run, daemon=True, name="hash")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped = True
        if error is None or isinstance(error, Exception):
            self._thread.join()

    def reach(self, end: int) -> None:
        """Hash up to a byte, where the whole lines end.

        Raises:
            SceneError: What is hashed is not what it was.
        """
        self._end = max(self._end, end)
        if self._error is not None:
            raise self._error

    def result(self, end: int) -> str:
        """Hash up to the end of the file, and return the hash.

        Raises:
            SceneError: What is hashed is not what it was.
        """
        self.reach(end)
        self._closed = True
        self._thread.join()
        self.reach(end)
        return self._hash.hexdigest()

    def _run(self) -> None:
        try:
            with open_binary(self._path) as file:
                while not self._stopped:
                    if self._done < self._end:
                        self._advance(file)
                    elif self._closed:
                        return
                    else:
                        self._save()
                        time.sleep(LOOK_S)
        except (HsiError, OSError) as error:
            self._error = error

    def _advance(self, file: Any) -> None:
        """Hash a chunk, up to the next byte where the hash is known."""
        states = self._known
        stop = min(self._end, self._done + CHUNK_BYTES)
        if states:
            stop = min(stop, states[0].bytes)
        chunk = file.read(stop - self._done)
        if not chunk:
            raise SceneError(f"{self._path} was truncated while it was followed.")
        self._hash.update(chunk)
        self._done += len(chunk)
        if states and self._done == states[0].bytes:
            kept = states.pop(0).sha256
            if self._hash.hexdigest() != kept:
                raise SceneError(
                    f"Lines of {self._path} were rewritten after they were "
                    "classified. Repeat the run with --no-resume when the file is "
                    "complete."
                )
        if time.monotonic() - self._saved > STATE_SECONDS:
            self._save()

    def _save(self) -> None:
        """Keep the present state, unless there is one of these bytes or of more."""
        if self._known or self._done <= self._saved_bytes:
            return
        state = HashState(self._done, self._hash.hexdigest())
        with files.open_own(self._states, "ab") as file:
            file.write(msgspec.json.encode(state) + b"\n")
        self._saved, self._saved_bytes = time.monotonic(), self._done


def read_states(path: Path) -> list[HashState]:
    """Read the states that a dead run left, in the order of their bytes."""
    states = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            states.append(msgspec.json.decode(line, type=HashState))
        except msgspec.DecodeError:
            break  # torn by the end of the run
    return sorted(states, key=lambda state: state.bytes)

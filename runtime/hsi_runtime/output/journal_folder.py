"""The folder beside an output that holds what is not finished, and its lock."""

import contextlib
import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import IO

from hsi_runtime.errors import DISK_FULL, OutputError

PLAN, JOURNAL, PUBLISHING, LOCK = "plan.json", "journal.jsonl", "publishing", "lock"
# Errors of file systems that know neither locks nor reserved space.
UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def folder_of(output: Path) -> Path:
    """Name the journal's folder of an output."""
    return output.with_name(output.name + ".hsi-part")


def was_publishing(output: Path) -> bool:
    """Return True if a run died after it began to give its files their names."""
    return os.path.isfile(folder_of(output) / PUBLISHING)


class JournalFolder:
    """A folder that one run at a time may use.

    Attributes:
        path: The folder.
    """

    def __init__(self, output: Path) -> None:
        self.path = folder_of(output)
        self._lock: IO[bytes] | None = None

    def lock(self) -> None:
        """Create the folder and lock it.

        Raises:
            OutputError: Another run holds it, or it cannot be created.
            OSError: The disk is full.
        """
        try:
            self.path.mkdir(exist_ok=True)
            self._lock = (self.path / LOCK).open("a+b", buffering=0)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            raise OutputError(
                f"{self.path} cannot be created: {error.strerror}."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            owner = self._lock.read().decode(errors="replace") or "another process"
            self.unlock()
            raise OutputError(
                f"Another hsi-run is writing {self.path} ({owner}); wait for it, or "
                "choose another -o."
            ) from error
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                self.unlock()
                raise OutputError(
                    f"{self.path} cannot be locked: {error.strerror}."
                ) from error
        with contextlib.suppress(OSError):  # only tells others who it is
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()} on {os.uname().nodename}".encode())

    def unlock(self) -> None:
        """Let other runs use the folder."""
        if self._lock is not None:
            self._lock.close()

    def remove(self) -> None:
        """Delete the folder; there is nothing to resume any more."""
        # Without its plan, what may be left of the folder is nothing to resume.
        with contextlib.suppress(OSError):
            (self.path / PLAN).unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)

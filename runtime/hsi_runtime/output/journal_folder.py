"""The folder beside an output that holds what is not finished, and its lock.

Only files of ours are opened, truncated or deleted in it: a folder that is a symbolic
link, or holds a link or a file of another name, is refused.
"""

import contextlib
import fcntl
import os
import re
import stat
from pathlib import Path
from typing import IO

from hsi_runtime import files
from hsi_runtime.errors import DISK_FULL, OutputError
from hsi_runtime.model.plain_text import plain
from hsi_runtime.output.layers import LAYERS

PLAN, JOURNAL, PUBLISHING, LOCK = "plan.json", "journal.jsonl", "publishing", "lock"
ITEM = "item.stac.json"
SUFFIX = ".hsi-part"
# A name is locked again when another run has just removed its folder.
ATTEMPTS = 100
_FIXED = "|".join(map(re.escape, (PLAN, JOURNAL, PUBLISHING, LOCK, ITEM)))
# Layers have their raw file, what is made of it, and GDAL's own temporary files.
_LAYERS = "|".join(LAYERS)
_OWN = re.compile(
    rf"({_FIXED})(\.[0-9a-f]{{8}}\.part)?"
    rf"|({_LAYERS})\..+"
    # Overviews while a GeoTIFF is made: with the number of the process.
    rf"|({_LAYERS})_\d+_\d+\..*tmp"
)


def folder_of(output: Path, suffix: str = SUFFIX) -> Path:
    """Name the journal's folder of an output."""
    return output.with_name(output.name + suffix)


def was_publishing(output: Path) -> bool:
    """Return True if a run died after it began to give its files their names."""
    return os.path.isfile(folder_of(output) / PUBLISHING)


class JournalFolder:
    """A folder that one run at a time may use.

    Attributes:
        path: The folder.
    """

    def __init__(self, output: Path, suffix: str = SUFFIX) -> None:
        self.path = folder_of(output, suffix)
        self._lock: IO[bytes] | None = None

    def lock(self) -> None:
        """Create the folder and lock it.

        Raises:
            OutputError: Another run holds it, it holds what is not of a run, or it
                cannot be created.
            OSError: The disk is full.
        """
        for _ in range(ATTEMPTS):
            try:
                self.path.mkdir(exist_ok=True)
                refuse_foreign(self.path, _OWN)
                lock = files.open_own(self.path / LOCK, "a+b")
            except FileNotFoundError:
                continue  # another run has just removed the folder
            except OSError as error:
                if error.errno in DISK_FULL:
                    raise
                raise OutputError(
                    f"{self.path} cannot be created: {error.strerror}."
                ) from error
            self._lock = lock
            self._acquire(lock)
            if self._is_current(lock):
                break
            self.unlock()
        else:
            raise OutputError(f"{self.path} is created and removed by other runs.")
        with contextlib.suppress(OSError):  # only tells others who it is
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {os.uname().nodename}".encode())

    def unlock(self) -> None:
        """Let other runs use the folder."""
        if self._lock is not None:
            self._lock.close()

    def remove(self) -> None:
        """Delete the folder; there is nothing to resume any more."""
        # Without its plan, what may be left of the folder is nothing to resume. The
        # lock goes last: who finds it takes the folder to be in use.
        with contextlib.suppress(OSError):
            names = [n for n in os.listdir(self.path) if _OWN.fullmatch(n)]
            for name in sorted(names, key=lambda n: (n != PLAN, n == LOCK)):
                with contextlib.suppress(OSError):
                    (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()

    def _acquire(self, lock: IO[bytes]) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            owner = lock.read(200).decode(errors="replace") or "another process"
            self.unlock()
            raise OutputError(
                f"Another hsi-run is writing {self.path} ({plain(owner)}); wait for "
                "it, or choose another -o."
            ) from error
        except OSError as error:
            if error.errno not in files.UNSUPPORTED:
                self.unlock()
                raise OutputError(
                    f"{self.path} cannot be locked: {error.strerror}."
                ) from error

    def _is_current(self, lock: IO[bytes]) -> bool:
        """Return False if another run removed the lock before it was ours."""
        try:
            present = os.stat(self.path / LOCK, follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(present, os.fstat(lock.fileno()))


def refuse_foreign(folder: Path, own: re.Pattern[str]) -> None:
    """Refuse a folder that is not one of ours, before anything in it is opened.

    Args:
        folder: The folder.
        own: Names of the files that runs write there.

    Raises:
        OutputError: It is a link, or holds something else.
    """
    if folder.is_symlink():
        raise OutputError(
            f"{folder} is a symbolic link; remove it, or choose another -o."
        )
    with os.scandir(folder) as entries:
        foreign = [entry.name for entry in entries if not _is_own(entry, own)]
    if foreign:
        raise OutputError(
            f"{folder} holds {plain(min(foreign))}, which hsi-run did not write "
            "there. Move it away, or choose another -o."
        )


def _is_own(entry: "os.DirEntry[str]", own: re.Pattern[str]) -> bool:
    """Return True for a regular file of a run, without another name elsewhere."""
    if own.fullmatch(entry.name) is None:
        return False
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # another run has just removed it
        return True
    return stat.S_ISREG(status.st_mode) and status.st_nlink <= 1

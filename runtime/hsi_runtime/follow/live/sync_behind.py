"""Writes files to the disk behind a flight, which does not wait for it.

Where a camera writes tens of megabytes a second, a disk may take seconds to make even
one small file durable: file systems write out what else is new first.
"""

import os
import threading
from collections.abc import Iterable
from typing import IO


class SyncBehind:
    """Makes files durable in a thread, one round at a time."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def start(self, files: Iterable[IO[bytes]]) -> bool:
        """Begin to write what the files hold now, unless an earlier round still runs.

        Returns:
            False if it does.

        Raises:
            OSError: What an earlier round met.
        """
        if self._error is not None:
            raise self._error
        if self._thread is not None and self._thread.is_alive():
            return False
        # Copies: the files may be closed before the disk is done.
        copies = [os.dup(file.fileno()) for file in files]
        self._thread = threading.Thread(
            target=self._run, args=(copies,), daemon=True, name="sync"
        )
        self._thread.start()
        return True

    def _run(self, descriptors: list[int]) -> None:
        for descriptor in descriptors:
            try:
                os.fdatasync(descriptor)
            except OSError as error:
                self._error = error
            finally:
                os.close(descriptor)

"""Watches which files of a folder are opened, by whatever code."""

import ctypes
import os
import struct
from pathlib import Path

import pytest

IN_OPEN = 0x20
EVENT = struct.Struct("iIII")


class OpenedFiles:
    """The names that were opened in a folder since the start; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> "OpenedFiles":
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "inotify_init1"):
            pytest.skip("needs inotify")
        self._handle = libc.inotify_init1(os.O_NONBLOCK)
        watch = libc.inotify_add_watch(self._handle, os.fsencode(self._folder), IN_OPEN)
        assert watch > 0
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def names(self) -> set[str]:
        """Return what was opened; the folder itself is an empty name."""
        found: set[str] = set()
        try:
            data = os.read(self._handle, 2**16)
        except BlockingIOError:
            return found
        while data:
            length = EVENT.unpack_from(data)[3]
            name, data = (
                data[EVENT.size : EVENT.size + length],
                data[EVENT.size + length :],
            )
            found.add(os.fsdecode(name.rstrip(b"\0")))
        return found

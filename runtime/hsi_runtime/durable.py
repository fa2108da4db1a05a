"""Writes that survive a power cut."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Make a file, or the renames in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, data: bytes) -> None:
    """Write or replace a file; under its name it is complete, even after a power cut.

    Raises:
        OSError: The file cannot be written; what it replaces is as it was.
    """
    fresh = path.with_suffix(".new")
    fresh.write_bytes(data)
    sync(fresh)
    os.replace(fresh, path)
    sync(path.parent)

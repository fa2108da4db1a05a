"""Opens files of others safely, and writes files that are whole or absent."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hsi_runtime.errors import SceneError

PARTIAL = ".part"  # suffix of a file that is not finished


def local_file(path: str | os.PathLike[str]) -> Path:
    """Check that a path names a readable regular file on this machine.

    Raises:
        SceneError: It does not.
    """
    path = Path(path)
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        name = os.fsencode(path).decode("utf-8", "replace")
        raise SceneError(f"The name {name} is not UTF-8; rename the file.") from error
    if not os.path.exists(path):
        raise SceneError(f"There is no file {path}.")
    if path.is_dir():
        raise SceneError(f"{path} is a folder, not a scene; name the file in it.")
    if not path.is_file():
        raise SceneError(f"{path} is not a regular file.")
    return path


def open_binary(path: Path) -> Any:
    """Open a file for reading bytes.

    Raises:
        SceneError: It cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise SceneError(f"{path} cannot be read: {error.strerror}.") from error


def sync(path: Path) -> None:
    """Make a file, or the renames in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unfinished(path: Path) -> Path:
    """Name an unfinished file beside its place; no two runs get the same name."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a name to write to; the finished file then takes the place of ``path``.

    Under its own name the file is complete, even after a power cut. If writing fails,
    what was there before is untouched and the unfinished file is removed.
    """
    partial = unfinished(path)
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole, in place of one that is there.

    Raises:
        OSError: The file cannot be written; what it replaces is as it was.
    """
    with replaced(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write text as UTF-8, its line ends as they are."""
    write_bytes(path, content.encode())

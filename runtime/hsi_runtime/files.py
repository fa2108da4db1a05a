"""Opens files of others safely, and writes files that are whole or absent."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from hsi_runtime.errors import HsiError, SceneError

# Errors of file systems that know neither locks nor reserved space.
UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
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


def open_binary(path: Path, kind: type[HsiError] = SceneError) -> Any:
    """Open a regular file of others for reading bytes.

    Pipes and devices are refused: reading them may wait, or never end.

    Args:
        path: The file.
        kind: Error to raise.

    Raises:
        HsiError: Of that kind; it cannot be opened, or is not a regular file.
    """
    # The check is of what was opened, which a name alone does not promise.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            what = "a folder" if path.is_dir() else "not a regular file"
            raise kind(f"{path} is {what}; name a file that holds the data.")
        return os.fdopen(handle, "rb")
    except (OSError, ValueError) as error:
        if isinstance(error, HsiError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise kind(f"{path} cannot be read: {reason}.") from error


def read_whole(path: Path, most: int, kind: type[HsiError] = SceneError) -> bytes:
    """Read a regular file of others at once.

    Args:
        path: The file.
        most: Bytes that it may have.
        kind: Error to raise.

    Raises:
        HsiError: Of that kind; it cannot be read, or is longer.
    """
    with open_binary(path, kind) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise kind(f"{path} has {size} bytes; at most {most} are read.")
        try:
            content: bytes = file.read(most + 1)
        except OSError as error:
            raise kind(f"{path} cannot be read: {error.strerror}.") from error
    if len(content) > most:
        raise kind(f"{path} has more than {most} bytes, which are the most read.")
    return content


def read_at(file: IO[bytes], buffer: memoryview, offset: int) -> int:
    """Fill a buffer from a place in a file; return how many bytes the file had."""
    done = 0
    while done < len(buffer):
        count = os.preadv(file.fileno(), [buffer[done:]], offset + done)
        if not count:
            break
        done += count
    return done


def write_at(file: IO[bytes], data: bytes, offset: int) -> None:
    """Write all bytes: a nearly full disk takes a part of them without an error."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file.fileno(), view, offset)
        view, offset = view[written:], offset + written


def open_own(path: Path, mode: str) -> IO[bytes]:
    """Open a file of ours without a buffer; a symbolic link is not followed.

    Raises:
        OSError: It cannot be opened, or is a link.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)

    return cast("IO[bytes]", open(path, mode, buffering=0, opener=opener))


def reserve(file: IO[bytes], size: int) -> None:
    """Give an open file its size, and its place on the disk where that is possible.

    Raises:
        OSError: The disk is full.
    """
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        os.ftruncate(file.fileno(), size)


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

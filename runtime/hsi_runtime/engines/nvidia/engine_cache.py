"""Keeps built TensorRT engines, in a folder that nobody else can write to.

An engine is as good as a program: it is only ever loaded from here, and here only what
this program built itself is kept. A file holds one line of JSON that says what the
engine was built for, and its bytes.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from hsi_runtime.errors import DISK_FULL, EngineError, HsiError, ResourceError

log = logging.getLogger(__name__)

SUFFIX = ".engine"
HEADER_BYTES = 65536
# Words for the parts of a key that may change between two runs.
WORDS = {
    "tensorrt": "TensorRT",
    "gpu": "the GPU",
    "compute_capability": "its compute capability",
    "profile": "the range of windows",
    "precision": "the precision",
    "recipe": "the way hsi-edge builds",
}


@dataclass(frozen=True)
class Key:
    """Everything that an engine depends on.

    Attributes:
        model: Checksum of the model file.
        tensorrt: Name and version of the TensorRT module.
        gpu: Name of the GPU.
        compute_capability: Compute capability of the GPU.
        profile: Window shapes, as text.
        precision: Precision of the model.
        recipe: Number of the code that builds.
    """

    model: str
    tensorrt: str
    gpu: str
    compute_capability: str
    profile: str
    precision: str
    recipe: int

    @property
    def name(self) -> str:
        """Name of the engine's file: those of one model begin alike."""
        text = json.dumps(asdict(self), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"{self.model[:16]}-{digest[:16]}{SUFFIX}"


def folder() -> Path:
    """Return the folder of the engines: in the user's cache, by the XDG rules.

    Raises:
        EngineError: The user has no home.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base if os.path.isabs(base) else os.path.expanduser("~/.cache"))
    if not root.is_absolute():
        raise EngineError(
            "There is no home folder to keep engines in; set XDG_CACHE_HOME to a "
            "folder of your own."
        )
    return root / "hsi-edge" / "engines"


class EngineCache:
    """The folder, held open: what is checked is what is used.

    Args:
        path: The folder; made where it is missing.

    Raises:
        EngineError: It cannot be made, or others can write to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            self._fd = os.open(path, flags)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            _check_owner(os.fstat(self._fd), path)
        except EngineError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._fd)

    def load(self, key: Key) -> tuple[bytes | None, str]:
        """Look for an engine.

        Returns:
            Its bytes, or None; and why there is none.

        Raises:
            EngineError: The file is not ours alone.
        """
        try:
            with os.fdopen(self._open(key.name, os.O_RDONLY), "rb") as file:
                header, engine = _header(file), file.read()
        except FileNotFoundError:
            return None, self._why_missing(key)
        except OSError as error:
            raise _unusable(self.path, error) from error
        digest = hashlib.sha256(engine).hexdigest()
        if header != {"key": asdict(key), "sha256": digest}:
            return None, "the one that is there is damaged"
        return engine, ""

    def store(self, key: Key, engine: bytes) -> Path:
        """Keep an engine; a reader sees the old file or the new one, never a part.

        Raises:
            ResourceError: The disk is full.
            EngineError: The file cannot be written.
        """
        header = {"key": asdict(key), "sha256": hashlib.sha256(engine).hexdigest()}
        part = f".{key.name}.{secrets.token_hex(8)}"
        try:
            new = self._open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                with os.fdopen(new, "wb") as file:
                    file.write(json.dumps(header).encode() + b"\n" + engine)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, key.name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            except BaseException:
                os.unlink(part, dir_fd=self._fd)
                raise
        except OSError as error:
            raise _unusable(self.path, error) from error
        return self.path / key.name

    @contextlib.contextmanager
    def alone(self, key: Key) -> Iterator[None]:
        """Let one process at a time build an engine: others wait, and then find it."""
        try:
            lock = self._open(f".{key.name}.lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise _unusable(self.path, error) from error
        try:
            with contextlib.suppress(OSError):  # disks without locks: both build
                _wait_for(lock)
            yield
        finally:
            os.close(lock)  # a process that dies lets go, too

    def _open(self, name: str, flags: int) -> int:
        """Open a file of the folder that is ours alone."""
        fd = os.open(
            name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600, dir_fd=self._fd
        )
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise EngineError(f"{self.path / name} is not a file; remove it.")
            _check_owner(status, self.path / name)
        except EngineError:
            os.close(fd)
            raise
        return fd

    def _why_missing(self, key: Key) -> str:
        """Name what changed since an engine was built for the same model."""
        requested, changes = asdict(key), []
        for name in sorted(os.listdir(self._fd)):
            if not (name.startswith(f"{key.model[:16]}-") and name.endswith(SUFFIX)):
                continue
            with (
                contextlib.suppress(OSError, EngineError),
                os.fdopen(self._open(name, os.O_RDONLY), "rb") as file,
            ):
                had = _header(file).get("key", {})
                changed = [k for k in WORDS if had.get(k) != requested[k]]
                changes.append([(WORDS[k], had.get(k), requested[k]) for k in changed])
        nearest = min(filter(None, changes), key=len, default=None)
        if nearest is None:
            return "this model was not used on this machine before"
        return "; ".join(f"{word} was {old}, is {new}" for word, old, new in nearest)


def _wait_for(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("Another process builds this engine; waiting for it.")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _header(file: IO[bytes]) -> dict[str, Any]:
    """Read the line of JSON that a file begins with; empty where it is none."""
    try:
        header = json.loads(file.readline(HEADER_BYTES))
    except ValueError:
        return {}
    return header if isinstance(header, dict) else {}


def _unusable(path: Path, error: OSError) -> HsiError:
    kind = ResourceError if error.errno in DISK_FULL else EngineError
    return kind(
        f"The engine cache {path} cannot be used: {error.strerror}. Make room, or set "
        "XDG_CACHE_HOME to another folder of your own."
    )


def _check_owner(status: os.stat_result, path: Path) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise EngineError(
            f"{path} belongs to, or can be written by, someone else: an engine from it "
            "could be anybody's program. Remove it, or set XDG_CACHE_HOME to a folder "
            "of your own."
        )

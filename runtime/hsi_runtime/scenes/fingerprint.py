"""What a result depends on: resuming with anything else would mix two maps."""

import hashlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import msgspec

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.scene import SceneInfo

SAMPLES, SAMPLE_BYTES = 16, 65536
CHUNK_BYTES = 1024**2


def of_scene(info: SceneInfo) -> dict[str, Any]:
    """Identify the content of a scene, a header included, file by file.

    Raises:
        SceneError: A file is gone.
    """
    if info.driver == "stream":  # its lines cannot be read again
        return {}
    paths = info.all_files
    names = [path.name for path in paths]
    return {
        path.name if names.count(path.name) == 1 else str(path): _of_file(path)
        for path in paths
    }


def _of_file(path: Path) -> dict[str, Any]:
    """Identify a file by size, time and samples of its bytes."""
    try:
        status = path.stat()
        digest = hashlib.sha256()
        with path.open("rb") as file:
            for number in range(SAMPLES):
                last = max(status.st_size - SAMPLE_BYTES, 0)
                file.seek(number * last // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    except OSError as error:
        raise SceneError(
            f"{path} cannot be read any more: {error.strerror}."
        ) from error
    return {
        "path": str(path.resolve()),
        "bytes": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "samples_sha256": digest.hexdigest(),
    }


def content_sha256(
    info: SceneInfo,
    stop: Callable[[], bool] = lambda: False,
    known: Mapping[Path, str] = MappingProxyType({}),
) -> str:
    """Hash every byte of a scene; a copy elsewhere, or of another time, is the same.

    Args:
        info: Description of the scene.
        stop: Tells when nobody waits for the result any more.
        known: Hashes of files that need not be read again.

    Returns:
        SHA-256 of the file. Where there are several, that of what ``sha256sum`` prints
        of them, in the order of their names.

    Raises:
        SceneError: A file cannot be read.
    """
    paths = sorted(info.all_files, key=lambda path: path.name)
    digests = [known.get(path) or _sha256(path, stop) for path in paths]
    if len(digests) == 1:
        return digests[0]
    lines = [f"{d}  {path.name}\n" for d, path in zip(digests, paths, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sha256(path: Path, stop: Callable[[], bool]) -> str:
    digest, chunk = hashlib.sha256(), memoryview(bytearray(CHUNK_BYTES))
    try:
        with path.open("rb", buffering=0) as file:
            while (size := file.readinto(chunk)) and not stop():
                digest.update(chunk[:size])
    except OSError as error:
        raise SceneError(
            f"{path} cannot be read any more: {error.strerror}."
        ) from error
    return digest.hexdigest()


class ContentHash:
    """The hash of a scene's content, computed while something else is.

    A context manager; leaving it stops what is not finished. Entered again, it goes on.
    """

    def __init__(
        self, info: SceneInfo, known: Mapping[Path, str] = MappingProxyType({})
    ) -> None:
        self._info, self._known = info, known
        self._stop = threading.Event()
        self._outcome: str | Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="hash")

    def __enter__(self) -> Self:
        if self._thread.ident is None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def result(self) -> str:
        """Wait for the hash.

        Raises:
            SceneError: A file cannot be read.
        """
        self._thread.join()
        if isinstance(self._outcome, str):
            return self._outcome
        assert self._outcome is not None
        raise self._outcome

    def _run(self) -> None:
        try:
            self._outcome = content_sha256(self._info, self._stop.is_set, self._known)
        except Exception as error:
            self._outcome = error


def only_content_differs(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Return True if two plans differ in nothing but the content of the same files."""

    def with_paths_only(plan: dict[str, Any]) -> dict[str, Any]:
        files = msgspec.convert(plan.get("scene"), dict[str, dict[str, Any]])
        paths = {name: file.get("path") for name, file in files.items()}
        return {**plan, "scene": paths}

    try:
        return with_paths_only(old) == with_paths_only(new)
    except msgspec.ValidationError:  # not a plan that was written here
        return False


def check_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Compare the scene before and after a run.

    Raises:
        SceneError: It changed meanwhile.
    """
    changed = [name for name in before if before[name] != after.get(name)]
    if changed:
        raise SceneError(
            f"{before[changed[0]]['path']} changed while it was read; nothing was "
            "published. Repeat the run with --no-resume when the file is complete."
        )

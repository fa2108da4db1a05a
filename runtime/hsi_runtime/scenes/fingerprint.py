"""What a result depends on: resuming with anything else would mix two maps."""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.scene import SceneInfo

SAMPLES, SAMPLE_BYTES = 16, 65536


def of_scene(info: SceneInfo) -> dict[str, Any]:
    """Identify the content of a scene, a header included, file by file.

    Raises:
        SceneError: A file is gone.
    """
    return {path.name: _of_file(path) for path in info.files or (info.path,)}


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


def content_sha256(scene: dict[str, Any]) -> str:
    """Sum up what a scene holds; a copy elsewhere, or of another time, is the same.

    Args:
        scene: From `of_scene`.
    """
    held = {
        name: (file["bytes"], file["samples_sha256"]) for name, file in scene.items()
    }
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


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

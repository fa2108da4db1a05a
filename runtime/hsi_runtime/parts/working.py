"""What a worker of a cluster does: it holds one engine, and computes parts or scenes.

Only names, numbers and hashes travel. Scenes, models and results lie in a folder that
all machines share.
"""

import contextlib
import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

from hsi_runtime import batch, errors
from hsi_runtime.engines.backend import Backend, InTurns
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.errors import (
    ClusterError,
    DeviceLostError,
    EngineError,
    HsiError,
    ModelFileError,
    ResourceError,
    resource_error,
)
from hsi_runtime.model.model_file import ModelFile, read_model
from hsi_runtime.parts.agreement import strips_of
from hsi_runtime.parts.computing import compute_part
from hsi_runtime.planning import prepare
from hsi_runtime.request import Request

# Status of a task that failed: for good, or for now.
FAILED, AGAIN = "failed", "again"
# Kept by a process: workers that run for weeks serve many commands.
ENGINES = 2
_starting, _alone = Lock(), Lock()


@dataclass(frozen=True)
class EngineOrder:
    """The engine that every worker starts, and the model that it must hold.

    Attributes:
        model: Path of the model.
        sha256: Hash of the model that the user named.
        version: Version of hsi-edge that the user runs.
        device: One of `hsi_runtime.engines.backend.DEVICES`.
        threads: Threads of the engine, or None.
        tile: Side of the squares, px, or None.
        max_memory_bytes: Limit of a worker's process, or None.
    """

    model: str
    sha256: str
    version: str
    device: str
    threads: int | None = None
    tile: int | None = None
    max_memory_bytes: int | None = None


def version() -> str:
    """Return the version of hsi-edge that is installed here."""
    return importlib.metadata.version("hsi-edge")


@lru_cache(ENGINES)
def _model(order: EngineOrder) -> ModelFile:
    """Read the model.

    Raises:
        EngineError: The version of hsi-edge is another one than the user's.
        ModelFileError: The model is not the one that the user named.
    """
    if version() != order.version:
        raise EngineError(
            f"hsi-edge has version {version()} on {os.uname().nodename}, and "
            f"{order.version} here. Install the same version there."
        )
    model = read_model(Path(order.model))
    if model.sha256 != order.sha256:
        raise ModelFileError(
            f"{order.model} on {os.uname().nodename} is another model than the one "
            "of this command. Put the same file there."
        )
    return model


@lru_cache(ENGINES)
def _opened(order: EngineOrder) -> Backend:
    options = order.device, order.threads, order.tile, order.max_memory_bytes
    return InTurns(open_backend(_model(order), *options))


def _engine(order: EngineOrder) -> tuple[ModelFile, Backend]:
    """Return model and engine, which a process opens once."""
    with _starting:
        return _model(order), _opened(order)


def misfit(order: EngineOrder) -> dict[str, Any] | None:
    """Return why this machine cannot work for the user, as a result; None if it can."""
    try:
        with _starting:
            _model(order)
    except HsiError as error:
        return failure(error, AGAIN)
    return None


def _room(order: EngineOrder) -> contextlib.AbstractContextManager[Any]:
    """Return what keeps a process within its limit: one task at a time.

    Otherwise one reads and writes while another computes; the engine serves in turns.
    """
    limited = order.max_memory_bytes is not None
    return _alone if limited else contextlib.nullcontext()


def survey(order: EngineOrder, request: Request) -> dict[str, Any]:
    """Tell how many parts a scene has at most, which its walk says."""
    return _told(order, partial(_survey, order, request))


def _survey(order: EngineOrder, request: Request) -> dict[str, Any]:
    model, backend = _engine(order)
    with contextlib.closing(request.open_scene()) as scene:
        job = prepare(request, model, scene, lambda: backend)
    pixels = job.matched.region.rows * job.matched.region.cols
    return {"strips": len(strips_of(job.plan, (0, 1))), "pixels": pixels}


def part(order: EngineOrder, request: Request) -> dict[str, Any]:
    """Compute a part; see `compute_part`."""

    def work() -> dict[str, Any]:
        model, backend = _engine(order)
        with _room(order):
            return compute_part(request, model, lambda: backend)

    return _told(order, work)


def scene(order: EngineOrder, request: Request) -> dict[str, Any]:
    """Classify one of many scenes whole, if that was not done before."""

    def work() -> dict[str, Any]:
        model, backend = _engine(order)
        with _room(order):
            return batch.run_unless_finished(request, model, lambda: backend)

    return _told(order, work)


def _told(order: EngineOrder, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do the work; return an error as a result.

    It is `AGAIN` where another try, on another machine, may succeed.
    """
    try:
        return misfit(order) or work()
    except HsiError as error:
        again = isinstance(error, DeviceLostError | ResourceError)
        return failure(error, AGAIN if again else FAILED)
    except (MemoryError, OSError) as error:
        return failure(resource_error(error) or ClusterError(str(error)), AGAIN)


def failure(error: HsiError, status: str) -> dict[str, Any]:
    """Describe an error as the result of a task, with its kind and this machine."""
    return {
        "status": status,
        "error": str(error),
        "exit_code": error.exit_code,
        "kind": type(error).__name__,
        "host": os.uname().nodename,
    }


def received(result: dict[str, Any]) -> dict[str, Any]:
    """Add the machine to an error from another one, where other files may be."""
    host = result.pop("host", None)
    if host is not None and host != os.uname().nodename:
        result["error"] = f"On {host}: {result['error']}"
    return result


def error_of(result: dict[str, Any]) -> HsiError:
    """Return the error that a failure describes."""
    kind: type[HsiError] = getattr(errors, result["kind"])
    return kind(result["error"])

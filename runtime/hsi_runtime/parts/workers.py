"""A model on the workers of a scheduler, as Python names it."""

import contextlib
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hsi_runtime.errors import EngineError
from hsi_runtime.model.model_file import ModelFile, read_model
from hsi_runtime.parts.address import scheduler_of

if TYPE_CHECKING:
    from hsi_runtime.parts.cluster import Cluster


class Workers:
    """A model file on the workers of a dask.distributed scheduler.

    A context manager, which disconnects; workers on this machine end with it.

    Args:
        path: The ``.onnx`` file, which every worker must find under this path.
        scheduler: ``tls://HOST:PORT``, ``tcp://HOST:PORT``, or ``local:N`` for N
            workers on this machine.
        device: Device of each worker's engine; see `Model`.
        threads: Threads of it; on this machine of all workers together.
        insecure_cluster: Allow ``tcp://`` on another machine.

    Raises:
        ModelFileError: Missing, damaged, or not a model of ours; or not that of a
            worker.
        OptionError: The address is not safe, or its certificates are not there.
        EngineError: The workers lack hsi-edge, or this machine the extra ``dask``.
        ClusterError: The scheduler cannot be reached.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        scheduler: str,
        *,
        device: str = "auto",
        threads: int | None = None,
        insecure_cluster: bool = False,
    ) -> None:
        scheduler_of(scheduler, insecure_cluster)
        model = read_model(Path(path))
        self._stack = contextlib.ExitStack()
        self.cluster = self._stack.enter_context(
            connection(model, scheduler, insecure_cluster, device, threads)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def close(self) -> None:
        """Disconnect."""
        self._stack.close()


def connection(
    model: ModelFile,
    scheduler: str,
    insecure: bool,
    device: str,
    threads: int | None,
) -> "AbstractContextManager[Cluster]":
    """Connect to a scheduler; see `hsi_runtime.parts.connecting.connected`.

    Raises:
        EngineError: The extra ``dask`` is not installed.
        OptionError: The address is not safe.
    """
    scheduler_of(scheduler, insecure)  # before a package is missed
    try:
        from hsi_runtime.parts.connecting import connected
    except ModuleNotFoundError as error:
        if error.name not in ("dask", "distributed"):
            raise
        raise EngineError(
            f"A scheduler needs the package {error.name}; install it with: pip install "
            "'hsi-edge[dask]'"
        ) from error
    return connected(scheduler, insecure, model, device, threads)

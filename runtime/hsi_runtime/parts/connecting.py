"""Connects to a dask.distributed scheduler, and checks that its workers are alike."""

import contextlib
import importlib.metadata
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import dask
from distributed import Client, LocalCluster, Security, WorkerPlugin
from distributed.utils import silence_logging_cmgr

from hsi_runtime.errors import ClusterError, EngineError, HsiError, OptionError
from hsi_runtime.machine import engine_threads
from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.parts import working
from hsi_runtime.parts.address import Local, scheduler_of
from hsi_runtime.parts.cluster import LOST, Cluster, losing_explained, resources_of
from hsi_runtime.parts.working import EngineOrder

log = logging.getLogger(__name__)

CONNECT_S = 30
TASKS = 2  # of a worker here: one reads and writes while the other computes


class ModelPlugin(WorkerPlugin):  # type: ignore[misc]
    """Lets only workers begin that have the version and the model of this command."""

    def __init__(self, order: EngineOrder) -> None:
        self.name = f"hsi-edge-{order.sha256[:16]}"
        self._order = order
        self._version = _version()

    def setup(self, worker: Any) -> None:
        """Verify version and model of a worker."""
        if _version() != self._version:
            raise EngineError(
                f"{os.uname().nodename} has version {_version()} of hsi-edge, this "
                f"command {self._version}. Install the same version there."
            )
        self._order.verified()


def _version() -> str:
    return importlib.metadata.version("hsi-edge")


@contextlib.contextmanager
def connected(
    address: str,
    insecure: bool,
    model: ModelFile,
    device: str,
    threads: int | None,
) -> Iterator[Cluster]:
    """Connect to a scheduler, or start workers on this machine.

    Args:
        address: See `scheduler_of`.
        insecure: Whether a scheduler on another machine may do without TLS.
        model: A verified model.
        device: Device of each worker's engine.
        threads: Threads of it; on this machine of all workers together.

    Raises:
        ClusterError: There is no scheduler.
        EngineError: The workers have another version, or none.
        ModelFileError: A worker has another model.
        OptionError: The address is not safe, or its certificates are not there.
    """
    where = scheduler_of(address, insecure)
    order = EngineOrder(os.path.abspath(model.path), model.sha256, device, threads)
    with contextlib.ExitStack() as stack:
        # A lost connection is told by us, in a sentence.
        stack.enter_context(silence_logging_cmgr(logging.CRITICAL))
        if isinstance(where, Local):
            share = max(engine_threads(threads) // where.workers, 1)
            order = replace(order, threads=share)
            where = stack.enter_context(_local(where.workers, resources_of(order)))
        elif where.startswith("tls://"):
            _check_certificates()
        client = stack.enter_context(_client(where))
        plugin = ModelPlugin(order)
        with losing_explained():
            _check_machines(client, plugin, resources_of(order))
        stack.callback(_unregister, client, plugin)
        yield Cluster(client, model, order)


@contextlib.contextmanager
def _local(workers: int, resources: dict[str, int]) -> Iterator[LocalCluster]:
    # Each death is told, and counts as a try. The limit of a worker is --max-memory:
    # that of its nanny would kill it without a reason.
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=TASKS,
            memory_limit=0,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            resources=resources,
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):
        yield cluster


def _client(where: Any) -> Client:
    try:
        return Client(where, timeout=CONNECT_S)
    except LOST as error:
        raise ClusterError(
            f"The scheduler cannot be reached: {error or type(error).__name__}. Check "
            "its address, and the certificates of tls://; then repeat the command."
        ) from error


def _check_certificates() -> None:
    """Refuse ``tls://`` where dask's configuration names no usable certificates."""
    try:
        context = Security().get_connection_args("client").get("ssl_context")
    except (OSError, ValueError) as error:
        raise OptionError(
            f"The certificates of dask's configuration cannot be read: {error}.",
            "scheduler",
        ) from error
    if context is None:
        raise OptionError(
            "tls:// needs certificates. Name them for dask: distributed.comm.tls "
            "ca-file, client.cert and client.key.",
            "scheduler",
        )


def _check_machines(
    client: Client, plugin: ModelPlugin, resources: dict[str, int]
) -> None:
    """Check scheduler and workers, those that join later included.

    Raises:
        ClusterError: The scheduler is lost.
        EngineError: One of them has another version of hsi-edge, or none.
        ModelFileError: A worker has another model.
    """
    try:
        workers = client.run_on_scheduler(_workers_with, resources)
        answers = client.run(_problem_with, plugin)
        for answer in filter(None, answers.values()):
            raise working.error_of(working.received(answer))
        client.register_plugin(plugin)
    except (HsiError, *LOST):
        raise
    except Exception as error:  # of any kind: dask cannot send it as it was
        raise EngineError(
            f"The scheduler or a worker cannot do this work: {error!r}. Install the "
            "same version of hsi-edge there."
        ) from error
    if not workers:
        option = " with --resources GPU=1" if resources else ""
        log.warning(f"The scheduler has no worker{option} yet; waiting for one.")


def _problem_with(plugin: ModelPlugin) -> dict[str, Any] | None:
    """Return what a worker lacks, as a result; errors may not arrive as they are."""
    try:
        plugin.setup(None)
    except HsiError as error:
        return working.failure(error, working.FAILED)
    return None


def _unregister(client: Client, plugin: ModelPlugin) -> None:
    """Let workers of other commands begin without the model."""
    if client.status == "running":  # one that is lost would be waited for
        with contextlib.suppress(*LOST, ValueError):
            client.unregister_worker_plugin(plugin.name)


def _workers_with(resources: dict[str, int], dask_scheduler: Any) -> int:
    """Count the workers that have some resources; runs on the scheduler."""
    return sum(
        all(w.resources.get(name, 0) >= need for name, need in resources.items())
        for w in dask_scheduler.workers.values()
    )

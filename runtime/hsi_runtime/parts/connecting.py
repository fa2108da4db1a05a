"""Connects to a dask.distributed scheduler, and checks that its workers are alike."""

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import dask
from distributed import Client, LocalCluster, Security
from distributed.utils import silence_logging_cmgr

from hsi_runtime.errors import ClusterError, EngineError, OptionError
from hsi_runtime.machine import engine_threads
from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.parts import working
from hsi_runtime.parts.address import Local, scheduler_of
from hsi_runtime.parts.cluster import LOST, Cluster, losing_explained, resources_of
from hsi_runtime.parts.working import EngineOrder

log = logging.getLogger(__name__)

CONNECT_S = 30
LOCAL = {
    # Each death is told, and counts as a try.
    "distributed.scheduler.allowed-failures": 0,
    # A quarter of the time: malloc gives memory back at once, a profiler stops threads.
    "distributed.nanny.pre-spawn-environ": {},
    "distributed.worker.profile.enabled": False,
    # Event loops wake this often to see whether they are late: 20 ms is for servers.
    "distributed.admin.tick.interval": "1s",
}
TASKS = 2  # of a worker here: one reads and writes while the other computes


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
    path = os.path.abspath(model.path)
    order = EngineOrder(path, model.sha256, working.version(), device, threads)
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
        with losing_explained():
            _check_machines(client, order)
        yield Cluster(client, model, order)


@contextlib.contextmanager
def _local(workers: int, resources: dict[str, int]) -> Iterator[LocalCluster]:
    # The limit of a worker is --max-memory: that of its nanny would kill it without a
    # reason.
    with (
        dask.config.set(LOCAL),
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


def _check_machines(client: Client, order: EngineOrder) -> None:
    """Check scheduler and workers; those that come later are checked by their tasks.

    Nothing of it stays there: machines may serve others as well.

    Raises:
        ClusterError: The scheduler is lost.
        EngineError: One of them has another version of hsi-edge, or none.
        ModelFileError: A worker has another model.
    """
    resources = resources_of(order)
    try:
        workers = client.run_on_scheduler(_workers_with, resources)
    except LOST:
        raise
    except Exception as error:  # of any kind: dask cannot send it as it was
        raise _unfit("The scheduler", error) from error
    answers = client.run(working.misfit, order, on_error="return")
    for address, answer in answers.items():
        if isinstance(answer, LOST):
            log.warning(f"Worker {address} does not answer.")
        elif isinstance(answer, BaseException):
            raise _unfit(f"Worker {address}", answer)
        elif answer is not None:
            raise working.error_of(working.received(answer))
    if not workers:
        option = " with --resources GPU=1" if resources else ""
        log.warning(f"The scheduler has no worker{option} yet; waiting for one.")


def _unfit(who: str, error: BaseException) -> EngineError:
    return EngineError(
        f"{who} cannot do this work: {error!r}. Install the same version of hsi-edge "
        "there."
    )


def _workers_with(resources: dict[str, int], dask_scheduler: Any) -> int:
    """Count the workers that have some resources; runs on the scheduler."""
    return sum(
        all(w.resources.get(name, 0) >= need for name, need in resources.items())
        for w in dask_scheduler.workers.values()
    )

"""Sends parts, or scenes, to the workers of a dask.distributed scheduler."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dask
import distributed
from distributed import Client, LocalCluster, WorkerPlugin
from distributed.comm import CommClosedError
from distributed.scheduler import KilledWorker

from hsi_runtime.camera.references import References
from hsi_runtime.engines.backend import GPU_DEVICES
from hsi_runtime.errors import ClusterError, HsiError
from hsi_runtime.machine import engine_threads
from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.parts import working
from hsi_runtime.parts.address import Local, scheduler_of
from hsi_runtime.parts.joining import join_parts
from hsi_runtime.parts.working import EngineOrder
from hsi_runtime.pipeline import Progress
from hsi_runtime.request import Request

log = logging.getLogger(__name__)

TRIES = 11  # of a task: ten more after the first
CONNECT_S = 30
LOST = CommClosedError, TimeoutError, OSError


class ModelPlugin(WorkerPlugin):  # type: ignore[misc]
    """Lets only workers begin that have the model of this command."""

    def __init__(self, order: EngineOrder) -> None:
        self.name = f"hsi-edge-{order.sha256[:16]}"
        self._order = order

    def setup(self, worker: Any) -> None:
        """Verify the model of a worker."""
        self._order.verified()


@dataclass(frozen=True)
class Task:
    """Something for a worker to do.

    Attributes:
        name: What it is, for messages.
        work: A function of `working`, with its arguments.
    """

    name: str
    work: Callable[[], dict[str, Any]]


class Cluster:
    """A scheduler with its workers, for one model.

    Args:
        client: Connected to the scheduler.
        order: Engine of every worker.
    """

    def __init__(self, client: Client, order: EngineOrder) -> None:
        self._client, self._order = client, order
        gpu = order.device in GPU_DEVICES
        self._resources = {"GPU": 1} if gpu else None

    def classify(
        self, requests: Sequence[Request], model: ModelFile, progress: Progress
    ) -> list[dict[str, Any]]:
        """Classify one scene in parts, or many scenes each in one piece."""
        if len(requests) > 1:
            tasks = [
                Task(str(r.scene), partial(working.scene, self._order, _absolute(r)))
                for r in requests
            ]
            done = [0]

            def count(_: dict[str, Any]) -> None:
                done[0] += 1
                progress(done[0], len(tasks))

            results = self._run(tasks, count)
            return [
                {"scene": str(r.scene), "output": str(r.output), **result}
                for r, result in zip(requests, results, strict=True)
            ]
        return [self._in_parts(requests[0], model, progress)]

    def _in_parts(
        self, request: Request, model: ModelFile, progress: Progress
    ) -> dict[str, Any]:
        there = _absolute(request)
        survey = Task("the plan", partial(working.survey, self._order, there))
        (plan,) = self._run([survey])
        if "exit_code" in plan:
            raise _as_error(plan)
        count, done = plan["strips"], [0]
        tasks = [
            Task(
                f"part {index}/{count}",
                partial(working.part, self._order, replace(there, part=(index, count))),
            )
            for index in range(count)
        ]

        def add(result: dict[str, Any]) -> None:
            done[0] += result.get("pixels", 0) + result.get("resumed_pixels", 0)
            progress(done[0], plan["pixels"])

        for result in self._run(tasks, add):
            if "exit_code" in result:
                raise _as_error(result)
        return join_parts(replace(request, join=True), model)

    def _run(
        self,
        tasks: Sequence[Task],
        finished: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> list[dict[str, Any]]:
        """Do tasks; one whose worker dies is given to another.

        Raises:
            ClusterError: The scheduler is lost, or a task failed too often.
        """
        results: dict[int, dict[str, Any]] = {}
        with _losing_explained():
            futures = {self._submit(task): (n, 1) for n, task in enumerate(tasks)}
            waiting = distributed.as_completed(list(futures))
            for future in waiting:
                number, tries = futures.pop(future)
                if future.status == "finished":
                    results[number] = future.result()
                    finished(results[number])
                    continue
                error = future.exception() if future.status == "error" else None
                if error is None:
                    raise ClusterError(_lost("it has dropped the tasks"))
                if isinstance(error, KilledWorker):
                    why = "its workers died, as they do where memory runs out"
                elif isinstance(error, HsiError | OSError):
                    why = str(error)
                else:
                    raise error
                if tries == TRIES:
                    raise ClusterError(
                        f"{tasks[number].name} failed {TRIES} times: {why}. What is "
                        "finished is kept: the same command resumes."
                    )
                log.warning(f"{tasks[number].name} is tried again: {why}")
                again = self._submit(tasks[number])
                futures[again] = number, tries + 1
                waiting.add(again)
        return [results[number] for number in range(len(tasks))]

    def _submit(self, task: Task) -> Any:
        return self._client.submit(task.work, pure=False, resources=self._resources)


@contextlib.contextmanager
def connected(
    address: str, insecure: bool, model: ModelFile, engine: dict[str, Any]
) -> Iterator[Cluster]:
    """Connect to a scheduler, or start workers on this machine.

    Args:
        address: See `scheduler_of`.
        insecure: Whether a scheduler on another machine may do without TLS.
        model: A verified model.
        engine: Options of the engine: ``device``, ``threads``, ``tile`` and
            ``max_memory_bytes``.

    Raises:
        ClusterError: There is no scheduler.
        ModelFileError: A worker has another model.
        OptionError: The address is not safe.
    """
    where = scheduler_of(address, insecure)
    path = os.path.abspath(model.path)
    order = EngineOrder(model=path, sha256=model.sha256, **engine)
    with contextlib.ExitStack() as stack:
        if isinstance(where, Local):
            # A limit of a worker is --max-memory; the nanny's would kill it.
            dask.config.set({"distributed.scheduler.allowed-failures": TRIES})
            threads = max(engine_threads(order.threads) // where.workers, 1)
            order = replace(order, threads=threads)
            resources = {"GPU": 1} if order.device in GPU_DEVICES else {}
            where = stack.enter_context(
                LocalCluster(
                    n_workers=where.workers,
                    threads_per_worker=1,
                    memory_limit=0,
                    host="127.0.0.1",
                    dashboard_address=None,
                    resources=resources,
                    silence_logs=logging.CRITICAL,
                )
            )
        with _losing_explained():
            client = stack.enter_context(Client(where, timeout=CONNECT_S))
            client.register_plugin(ModelPlugin(order))
        yield Cluster(client, order)


@contextlib.contextmanager
def _losing_explained() -> Iterator[None]:
    """Tell of a scheduler that cannot be reached what to do about it."""
    try:
        yield
    except LOST as error:
        raise ClusterError(_lost(str(error) or type(error).__name__)) from error


def _lost(why: str) -> str:
    return (
        f"The scheduler cannot be reached any more: {why}. What is finished is kept: "
        "the same command resumes."
    )


def _absolute(request: Request) -> Request:
    """Name the files of a request for workers, which run in other folders."""
    names = "scene", "output", *References._fields
    paths = {name: getattr(request, name) for name in names}
    return replace(request, **{n: p and p.absolute() for n, p in paths.items()})


def _as_error(result: dict[str, Any]) -> HsiError:
    """Return the error that a worker has told, of its kind by the exit code."""
    error = HsiError(result["error"])
    error.exit_code = result["exit_code"]  # type: ignore[misc]
    return error

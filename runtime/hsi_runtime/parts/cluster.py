"""Sends parts, or scenes, to the workers of a dask.distributed scheduler."""

import contextlib
import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import distributed
from distributed import Client, Future
from distributed.comm import CommClosedError
from distributed.scheduler import KilledWorker

from hsi_runtime.camera.references import References
from hsi_runtime.engines.backend import GPU_DEVICES
from hsi_runtime.errors import ClusterError, DeviceLostError, EngineError
from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.parts import run_report, working
from hsi_runtime.parts.joining import EarlyHash, is_joined, join_parts
from hsi_runtime.parts.options import check
from hsi_runtime.parts.working import AGAIN, FAILED, EngineOrder
from hsi_runtime.pipeline import Progress
from hsi_runtime.request import Request

log = logging.getLogger(__name__)

TRIES = 11  # of a task: ten more after the first
LOST = CommClosedError, CancelledError, TimeoutError, OSError
RESTART_S = 60
Result = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """Something for a worker to do.

    Attributes:
        name: What it is, for messages.
        work: A function of `working`, with its arguments.
    """

    name: str
    work: Callable[[], Result]


class Cluster:
    """The workers of a scheduler, for one model.

    Args:
        client: Connected to the scheduler.
        model: The model.
        order: Engine of every worker.
    """

    def __init__(self, client: Client, model: ModelFile, order: EngineOrder) -> None:
        self.model = model
        self._client, self._order = client, order
        self._resources = resources_of(order)

    def classify_all(
        self,
        requests: Sequence[Request],
        progress: Progress = lambda *_: None,
        done: Callable[[Result], None] = lambda _: None,
    ) -> list[Result]:
        """Classify many scenes, each in one piece; a bad one does not stop the others.

        Args:
            requests: One request for each scene.
            progress: Called with finished and all scenes.
            done: Called with the result of each scene that was classified.

        Returns:
            The results as of `hsi_runtime.batch.run_all`, in the order of the scenes.

        Raises:
            ClusterError: The scheduler is lost.
            OptionError: A request is not that of a whole scene.
        """
        for request in requests:
            check(request, on_scheduler=True)
        tasks = [
            Task(str(r.scene), partial(working.scene, self._order_for(r), _absolute(r)))
            for r in requests
        ]
        results: dict[int, Result] = {}
        for number, result in self._run(tasks):
            request = requests[number]
            # As this machine names them; a worker was given absolute names.
            named = {"scene": str(request.scene), "output": str(request.output)}
            for key in ("kind", "worker"):
                result.pop(key, None)
            results[number] = {**named, **result, **named}
            if result["status"] == FAILED:
                log.error(f"{request.scene}: {result['error']}")
            elif result["status"] == "done":
                done(results[number])
            progress(len(results), len(tasks))
        return [results[number] for number in range(len(tasks))]

    def classify(
        self, request: Request, progress: Progress = lambda *_: None
    ) -> Result:
        """Classify a scene: each strip is a part, and all of them are joined.

        Raises:
            HsiError: Any of its kinds; what is finished is kept.
        """
        check(request, on_scheduler=True)
        joined = replace(request, join=True)
        if is_joined(request, self.model):
            return join_parts(joined, self.model)
        run_report.check(request, self.model)
        early = EarlyHash.of(request)
        with early.content:
            self._compute(request, progress)
            return join_parts(joined, self.model, early=early)

    def _compute(self, request: Request, progress: Progress) -> None:
        """Compute all parts of a scene.

        Raises:
            HsiError: Any of its kinds; what is finished is kept.
        """
        there, order = _absolute(request), self._order_for(request)
        survey = Task("the plan", partial(working.survey, order, there))
        ((_, plan),) = _successful(self._run([survey]))
        count, pixels = plan["strips"], 0
        tasks = [
            Task(
                f"part {index}/{count}",
                partial(working.part, order, replace(there, part=(index, count))),
            )
            for index in range(count)
        ]
        for _, result in _successful(self._run(tasks)):
            pixels += result["pixels"] + result["resumed_pixels"]
            progress(pixels, plan["pixels"])

    def _order_for(self, request: Request) -> EngineOrder:
        return replace(
            self._order,
            tile=request.tile,
            max_memory_bytes=request.max_memory_bytes,
        )

    def _run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        """Do tasks; one whose worker dies, or lacks something, is given to another.

        Yields:
            Number of a finished task, and its result; `FAILED` after `TRIES`.

        Raises:
            ClusterError: The scheduler is lost.
        """
        with losing_explained():
            futures = {self._submit(task): (n, 1) for n, task in enumerate(tasks)}
            waiting = distributed.as_completed(list(futures))
            for future in waiting:
                number, tries = futures.pop(future)
                result, name = _result_of(future), tasks[number].name
                if result.get("status") != AGAIN:
                    yield number, result
                elif tries < TRIES:
                    log.warning(f"{name} is tried again: {result['error']}")
                    again = self._submit(tasks[number], self._left(result))
                    futures[again] = number, tries + 1
                    waiting.add(again)
                else:
                    why = f"{name} failed {TRIES} times: {result['error']}"
                    text = f"{why} What is finished is kept: the same command resumes."
                    yield number, {**result, "status": FAILED, "error": text}

    def _submit(self, task: Task, workers: Sequence[str] = ()) -> Future:
        """Send a task to any worker, or to one of those named while there is one."""
        return self._client.submit(
            _done_here,
            task.work,
            pure=False,
            resources=self._resources,
            workers=list(workers) or None,
            allow_other_workers=bool(workers),
        )

    def _left(self, result: Result) -> list[str]:
        """Return the workers besides the one on which a task failed.

        That one fails soonest, so the scheduler would give it this task again. Where
        its device is lost, a new process may find it.
        """
        failed = result.get("worker")
        if failed and result["kind"] == DeviceLostError.__name__:
            with contextlib.suppress(ValueError, KeyError):  # without a nanny, or gone
                self._client.restart_workers(
                    [failed], timeout=RESTART_S, raise_for_error=False
                )
        return [worker for worker in self._client.nthreads() if worker != failed]


def resources_of(order: EngineOrder) -> dict[str, int]:
    """Return the resources of a worker that an engine takes."""
    return {"GPU": 1} if order.device in GPU_DEVICES else {}


def _done_here(work: Callable[[], Result]) -> Result:
    """Do the work of a task on a worker, which the result of a failure names.

    A bug travels as text: a client waits for ever for an exception without a pickle.
    """
    try:
        result = work()
    except Exception:
        return {"bug": traceback.format_exc()}
    if result.get("status") == AGAIN:
        result["worker"] = distributed.get_worker().address
    return result


def _result_of(future: Future) -> Result:
    """Return the result of a task, also where its workers died.

    Raises:
        ClusterError: The scheduler has lost it.
        EngineError: The scheduler cannot read it.
    """
    if future.status == "finished":
        result: Result = future.result()
        if "bug" in result:
            raise RuntimeError(f"A worker met a bug.\n{result['bug']}")
        return working.received(result)
    error = future.exception() if future.status == "error" else None
    if error is None:
        raise ClusterError(_lost("it has dropped the tasks"))
    if isinstance(error, KilledWorker):
        why = "Its workers died, as they do where memory runs out."
        return working.received(working.failure(ClusterError(why), AGAIN))
    if "deserializ" in str(error):
        raise EngineError(
            "The scheduler cannot read the tasks. Install the same version of hsi-edge "
            "where it runs."
        ) from error
    raise error


def _successful(
    results: Iterator[tuple[int, Result]],
) -> Iterator[tuple[int, Result]]:
    """Raise the error of the first task that failed, of the kind that it had."""
    for number, result in results:
        if result.get("status") == FAILED:
            raise working.error_of(result)
        yield number, result


@contextlib.contextmanager
def losing_explained() -> Iterator[None]:
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

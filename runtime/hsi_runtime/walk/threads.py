"""Runs reading ahead of, and writing behind, the thread that computes.

Both sides are bounded, so memory does not grow with the scene, and an error of either
side surfaces in the computing thread.
"""

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")

GRACE_S = 1.0  # how long a thread may take to notice that it should stop
POLL_S = 0.1


class _Done:
    """The end of a stream, with the error that ended it."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class ReadAhead(Generic[T]):
    """Iterates over a generator that runs in a thread of its own, `depth` items ahead.

    The generator is asked for an item when the one `depth` places before it is taken,
    so that `depth` + 1 of them exist at most: the last one taken, and those ahead.

    A context manager: leaving it stops the thread, whatever happened.
    """

    def __init__(self, items: Iterator[T], depth: int = 1) -> None:
        self._items = items
        self._queue: queue.SimpleQueue[T | _Done] = queue.SimpleQueue()
        self._wanted = threading.Semaphore(depth)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="reader")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._wanted.release()
        self._thread.join(_grace(error))

    def __iter__(self) -> Iterator[T]:
        while True:
            item = self._queue.get()
            if isinstance(item, _Done):
                if item.error is not None:
                    raise item.error
                return
            self._wanted.release()
            yield item

    def _run(self) -> None:
        end = _Done()
        try:
            while self._wanted.acquire() and not self._stopping.is_set():
                self._queue.put(next(self._items))
        except StopIteration:
            pass
        except BaseException as error:  # the computing thread must hear of it
            end = _Done(error)
        self._queue.put(end)


class WriteBehind:
    """Runs small jobs in order in a thread of its own.

    A context manager: leaving it without an error waits for all jobs; leaving it with
    one drops those that have not started.
    """

    def __init__(self, depth: int = 2) -> None:
        self._queue: queue.Queue[Callable[[], Any] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._dropping = False  # jobs that have not started
        self._thread = threading.Thread(target=self._run, daemon=True, name="writer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._dropping = True
            # The writer takes jobs, too: one that was there may be gone.
            with contextlib.suppress(queue.Empty):
                while True:
                    self._queue.get_nowait()
        self._queue.put(None)
        self._thread.join(_grace(error))
        if error is None:
            self._check()

    def do(self, job: Callable[[], Any]) -> None:
        """Queue a job; waits while the writer is behind.

        Raises:
            BaseException: What an earlier job raised.
        """
        self._check()
        self._queue.put(job)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            if self._error is None and not self._dropping:
                try:
                    job()
                except BaseException as error:
                    self._error = error


def _grace(error: BaseException | None) -> float | None:
    """Return how long to wait for a thread: its files are closed next.

    A user who stops the process is not kept waiting.
    """
    return GRACE_S if error and not isinstance(error, Exception) else None


def map_ahead(
    function: Callable[[T], R], items: Iterable[T], depth: int
) -> Iterator[tuple[T, R]]:
    """Apply a function to items, ``depth`` of them at once; results keep their order.

    One more item waits, so that no thread does while the caller uses a result.

    Yields:
        Each item and its result. With a depth of one all runs in the calling thread.
    """
    if depth == 1:
        for item in items:
            yield item, function(item)
        return
    at_work: deque[tuple[T, Future[R]]] = deque()
    pool = ThreadPoolExecutor(depth, thread_name_prefix="ahead")
    try:
        for item in items:
            if len(at_work) > depth:
                done, future = at_work.popleft()
                yield done, future.result()
            at_work.append((item, pool.submit(function, item)))
        for done, future in at_work:
            yield done, future.result()
    except BaseException as error:
        # A user who stops is not kept waiting for a call that may never end.
        pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
        raise
    pool.shutdown()


def in_background(job: Callable[[], T]) -> T:
    """Run a long call outside Python, and stay able to be interrupted meanwhile.

    Signals reach Python only between its own instructions; a main thread inside GDAL
    would not hear them for minutes.
    """
    outcome: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(job())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True, name="worker")
    thread.start()
    while thread.is_alive():
        thread.join(POLL_S)
    if errors:
        raise errors[0]
    return outcome[0]

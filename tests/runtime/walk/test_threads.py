import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from hsi_runtime.walk import threads
from hsi_runtime.walk.threads import ReadAhead, WriteBehind, in_background, map_ahead


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    # A thread of an earlier test may end meanwhile.
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does; a test that waits in vain ends by pytest."""
    while not condition():
        time.sleep(0.001)


def test_items_come_in_order() -> None:
    with ReadAhead(iter(range(500))) as ahead:
        assert list(ahead) == list(range(500))
    with ReadAhead(iter(())) as empty:
        assert list(empty) == []


@pytest.mark.parametrize("depth", [1, 3])
def test_reader_is_only_so_far_ahead(depth: int) -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number

    with ReadAhead(items(), depth) as ahead:
        for taken, _ in enumerate(ahead, start=1):
            ahead_of_us = min(taken + depth, 50)
            wait_until(lambda most=ahead_of_us: len(made) >= most)  # type: ignore[misc]
            assert len(made) == ahead_of_us


def test_error_of_the_reader_comes_after_its_items() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise KeyError("broken file")

    seen: list[int] = []

    def work() -> None:
        with ReadAhead(items()) as ahead:
            for item in ahead:
                seen.append(item)

    with pytest.raises(KeyError, match="broken file"):
        work()
    assert seen == [1, 2]


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_stopping_early_does_not_hang(taken: int) -> None:
    with ReadAhead(iter(range(10**9))) as ahead:
        for _ in zip(range(taken), ahead, strict=False):
            pass


def test_error_of_the_consumer_waits_for_the_read_at_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "GRACE_S", 0)
    reading, release = threading.Event(), threading.Event()
    order: list[str] = []

    def items() -> Iterator[int]:
        yield 1
        reading.set()
        release.wait()
        order.append("read")
        yield 2

    def work() -> None:
        with contextlib.suppress(ValueError), ReadAhead(items()) as ahead:
            next(iter(ahead))
            reading.wait()
            raise ValueError("engine")
        order.append("left")

    worker = threading.Thread(target=work)
    worker.start()
    reading.wait()
    worker.join(0.05)
    assert worker.is_alive()
    release.set()
    worker.join()
    assert order == ["read", "left"]  # so the file may be closed now


def test_user_who_stops_is_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "GRACE_S", 0.01)
    reading, release = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 1
        reading.set()
        release.wait()

    def work() -> None:
        with ReadAhead(items()) as ahead:
            next(iter(ahead))
            reading.wait()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    readers = [t for t in threading.enumerate() if t.name == "reader"]
    assert len(readers) == 1  # still reads
    release.set()
    readers[0].join()


def test_jobs_run_in_order_and_all_are_done_at_the_end() -> None:
    done: list[int] = []

    with WriteBehind() as behind:
        for number in range(100):
            behind.do(partial(done.append, number))
    assert done == list(range(100))


def test_writer_is_only_so_far_behind() -> None:
    release = threading.Event()
    given: list[int] = []

    def work() -> None:
        with WriteBehind(depth=2) as behind:
            for number in range(30):
                behind.do(release.wait)
                given.append(number)

    worker = threading.Thread(target=work)
    worker.start()
    wait_until(lambda: len(given) == 3)  # one at work, two waiting
    worker.join(0.05)
    assert len(given) == 3
    release.set()
    worker.join()
    assert len(given) == 30


@pytest.mark.parametrize("last", [True, False])
def test_error_of_a_job_surfaces_and_stops_the_others(last: bool) -> None:
    done: list[int] = []
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise OSError("disk")

    def work() -> None:
        with WriteBehind() as behind:
            behind.do(lambda: done.append(1))
            behind.do(fail)
            if not last:
                failed.wait()
                for number in itertools.count():  # until the writer has failed
                    behind.do(partial(done.append, number))

    with pytest.raises(OSError, match="disk"):
        work()
    assert done == [1]


def test_error_of_the_producer_drops_what_has_not_started() -> None:
    started = threading.Event()
    done: list[str] = []

    def work() -> None:
        with WriteBehind() as behind:

            def slow() -> None:
                started.set()
                wait_until(lambda: behind._dropping)
                done.append("slow")

            behind.do(slow)
            started.wait()
            behind.do(lambda: done.append("later"))
            raise ValueError("engine")

    with pytest.raises(ValueError, match="engine"):
        work()
    assert done == ["slow"]  # it was at work; its file is closed next


def test_writer_that_takes_the_last_job_meanwhile_does_not_hang_the_producer() -> None:
    working, looked, taken = (threading.Event() for _ in range(3))

    class Racing(queue.Queue[Any]):
        """Lets the writer take a job while the producer looks for what is left."""

        def empty(self) -> bool:
            empty = super().empty()
            self.let_the_writer_take()
            return empty

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            if not block:
                self.let_the_writer_take()
                return super().get(block, timeout)
            job = super().get(block, timeout)
            if job is other:
                taken.set()
            return job

        def let_the_writer_take(self) -> None:
            looked.set()
            taken.wait()

    def slow() -> None:
        working.set()
        looked.wait()

    def other() -> None:
        pass

    def work() -> None:
        behind = WriteBehind()
        behind._queue = Racing(2)
        with contextlib.suppress(ValueError), behind:
            behind.do(slow)
            working.wait()
            behind.do(other)
            raise ValueError("engine")

    producer = threading.Thread(target=work, daemon=True)
    producer.start()
    producer.join(20)
    assert not producer.is_alive()


def test_own_error_of_the_producer_is_the_one_to_tell() -> None:
    def fail() -> None:
        raise OSError("disk")

    def work() -> None:
        with WriteBehind() as behind:
            behind.do(fail)
            wait_until(lambda: behind._error is not None)
            raise ValueError("engine")

    with pytest.raises(ValueError, match="engine"):
        work()


def test_background_passes_results_and_errors() -> None:
    assert in_background(lambda: 7) == 7
    assert in_background(lambda: None) is None
    assert in_background(threading.current_thread) is not threading.main_thread()

    def fail() -> None:
        raise KeyError("in the thread")

    with pytest.raises(KeyError, match="in the thread"):
        in_background(fail)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_map_ahead_keeps_the_order_and_its_depth(depth: int) -> None:
    at_work, most, drawn = set[int](), [0], []
    guard, first = threading.Lock(), threading.Barrier(depth)

    def items() -> Iterator[int]:
        for item in range(12):
            drawn.append(item)
            yield item

    def square(item: int) -> int:
        with guard:
            at_work.add(item)
            most[0] = max(most[0], len(at_work))
        if item < depth:
            first.wait()  # until as many are at work
        with guard:
            at_work.remove(item)
        return item * item

    for number, (item, result) in enumerate(map_ahead(square, items(), depth)):
        assert (item, result) == (number, number * number)
        waiting = depth > 1
        assert len(drawn) <= number + depth + 1 + waiting  # memory is bounded
    assert number == 11
    assert most[0] == depth


def test_map_ahead_does_not_keep_a_user_waiting_who_stops() -> None:
    computing, release = threading.Event(), threading.Event()

    def endless(item: int) -> int:
        if item == 0:
            computing.wait()
            raise KeyboardInterrupt
        computing.set()
        release.wait(20)
        return item

    with pytest.raises(KeyboardInterrupt):
        list(map_ahead(endless, range(9), 2))
    assert not release.is_set()
    left = [t for t in threading.enumerate() if t.name.startswith("ahead")]
    assert len(left) >= 1  # it computes still, and is abandoned
    release.set()
    for thread in left:
        thread.join()


@pytest.mark.parametrize("depth", [1, 2])
def test_map_ahead_raises_in_the_calling_thread(depth: int) -> None:
    def fail(item: int) -> int:
        if item == 3:
            raise ValueError("third")
        return item

    answers = map_ahead(fail, range(9), depth)
    assert [next(answers) for _ in range(3)] == [(k, k) for k in range(3)]
    with pytest.raises(ValueError, match="third"):
        next(answers)

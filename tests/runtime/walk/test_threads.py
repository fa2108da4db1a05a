import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from hsi_runtime.walk.threads import ReadAhead, WriteBehind, in_background, map_ahead


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


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
            time.sleep(0.002)
            # Those waiting, and the one that the reader holds in its hand.
            assert len(made) <= taken + depth + 1


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
    started = time.monotonic()
    with ReadAhead(iter(range(10**9))) as ahead:
        for _ in zip(range(taken), ahead, strict=False):
            pass
    assert time.monotonic() - started < 0.5


def test_error_of_the_consumer_waits_for_the_read_at_work() -> None:
    finished = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        time.sleep(1.3)  # longer than a user who stops the run has to wait
        finished.set()
        yield 2

    def work() -> None:
        with ReadAhead(items()) as ahead:
            next(iter(ahead))
            raise ValueError("engine")

    with pytest.raises(ValueError, match="engine"):
        work()
    assert finished.is_set()  # so the file may be closed now


def test_user_who_stops_is_not_kept_waiting() -> None:
    release = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        release.wait(20)
        yield 2

    started = time.monotonic()

    def work() -> None:
        with ReadAhead(items()) as ahead:
            next(iter(ahead))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert time.monotonic() - started < 1.8
    release.set()
    readers = [t for t in threading.enumerate() if t.name == "reader"]
    for reader in readers:
        reader.join(5)


def test_jobs_run_in_order_and_all_are_done_at_the_end() -> None:
    done: list[int] = []

    def job(number: int) -> None:
        time.sleep(0.001)
        done.append(number)

    with WriteBehind() as behind:
        for number in range(100):
            behind.do(partial(job, number))
    assert done == list(range(100))


def test_writer_is_only_so_far_behind() -> None:
    done: list[int] = []

    def job(number: int) -> None:
        time.sleep(0.002)
        done.append(number)

    with WriteBehind(depth=2) as behind:
        for number in range(30):
            behind.do(partial(job, number))
            # Those waiting, the one at work, and the one just given.
            assert number + 1 - len(done) <= 2 + 1 + 1


@pytest.mark.parametrize("last", [True, False])
def test_error_of_a_job_surfaces_and_stops_the_others(last: bool) -> None:
    done: list[int] = []

    def fail() -> None:
        raise OSError("disk")

    def work() -> None:
        with WriteBehind() as behind:
            behind.do(lambda: done.append(1))
            behind.do(fail)
            if not last:
                for number in range(50):
                    time.sleep(0.001)
                    behind.do(partial(done.append, number))

    with pytest.raises(OSError, match="disk"):
        work()
    assert done == [1]


def test_error_of_the_producer_drops_what_has_not_started() -> None:
    release = threading.Event()
    done: list[str] = []

    def slow() -> None:
        release.wait(5)
        done.append("slow")

    started = threading.Timer(0.2, release.set)
    started.start()

    def work() -> None:
        with WriteBehind() as behind:
            behind.do(slow)
            time.sleep(0.05)
            behind.do(lambda: done.append("later"))
            raise ValueError("engine")

    with pytest.raises(ValueError, match="engine"):
        work()
    assert done == ["slow"]  # it was at work; its file is closed next
    started.join()


def test_own_error_of_the_producer_is_the_one_to_tell() -> None:
    def fail() -> None:
        raise OSError("disk")

    def work() -> None:
        with WriteBehind() as behind:
            behind.do(fail)
            time.sleep(0.05)
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
    guard = threading.Lock()

    def items() -> Iterator[int]:
        for item in range(12):
            drawn.append(item)
            yield item

    def slow(item: int) -> int:
        with guard:
            at_work.add(item)
            most[0] = max(most[0], len(at_work))
        time.sleep(0.02 if item % 2 else 0.001)
        with guard:
            at_work.remove(item)
        return item * item

    for number, (item, result) in enumerate(map_ahead(slow, items(), depth)):
        assert (item, result) == (number, number * number)
        waiting = depth > 1
        assert len(drawn) <= number + depth + 1 + waiting  # memory is bounded
    assert number == 11
    assert most[0] == depth


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

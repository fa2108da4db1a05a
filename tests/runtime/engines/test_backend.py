import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.engines.backend import InTurns
from hsi_runtime.model.model_file import PROBABILITIES


class Pairs:
    """An engine that computes two windows at once, and waits for the second."""

    device, precision, windows_at_once = "cpu", "fp32", 2

    def __init__(self) -> None:
        self.inside = threading.Semaphore(2)
        self.pair = threading.Barrier(2, timeout=60)

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        assert self.inside.acquire(blocking=False)
        self.pair.wait()
        self.inside.release()
        return {}


def test_engine_is_used_by_no_more_threads_than_it_computes_windows() -> None:
    shared = InTurns(Pairs())
    cube = np.zeros((1, 1, 5, 5), np.float32)
    with ThreadPoolExecutor(6) as pool:
        for answer in [pool.submit(shared.predict, cube) for _ in range(6)]:
            assert answer.result() == {}


def test_engine_that_is_shared_says_all_that_it_says_alone() -> None:
    alone = Pairs()
    alone.accelerator = "Some GPU"  # type: ignore[attr-defined]
    shared = InTurns(alone)
    assert shared.accelerator == "Some GPU"
    assert not hasattr(shared, "engine")

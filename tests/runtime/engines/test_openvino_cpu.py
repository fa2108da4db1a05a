"""Graphs of OpenVINO that are compiled for windows of one size."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hsi_runtime.engines import openvino_cpu
from hsi_runtime.engines.openvino_cpu import SIZE_BITS, OpenvinoCpu, fixed_side
from hsi_runtime.model.model_file import PROBABILITIES, ModelFile

HALO = 2


@given(st.integers(1, 100_000))
def test_a_side_is_rounded_up_to_one_of_few_sizes(pixels: int) -> None:
    side = fixed_side(pixels)
    assert pixels <= side < pixels * (1 + 2 ** (1 - SIZE_BITS))
    assert fixed_side(side) == side
    assert bin(side).rstrip("0").count("1") <= SIZE_BITS


def test_the_usual_squares_keep_their_size() -> None:
    assert [fixed_side(side) for side in (48, 64, 96, 128)] == [48, 64, 96, 128]
    assert len({fixed_side(side) for side in range(65, 129)}) == 4


@pytest.fixture
def engine(
    model: ModelFile, need_engine: Callable[[str], None]
) -> Callable[..., OpenvinoCpu]:
    need_engine("openvino")

    def start(**options: Any) -> OpenvinoCpu:
        return OpenvinoCpu(model, 1, **options)

    return start


def test_what_lies_beyond_a_window_does_not_count(
    engine: Callable[..., OpenvinoCpu], padded: NDArray[np.float32]
) -> None:
    expected = engine().predict(padded)[PROBABILITIES]
    rows, cols = expected.shape[2:]
    reused = engine()
    for trouble in (np.nan, np.inf, 3e38):
        # 23 and 31 px are computed in 24 and 32: the rest is of the window before.
        beyond = np.full((*padded.shape[:2], 24 + 2 * HALO, 32 + 2 * HALO), trouble)
        reused.predict(beyond.astype(np.float32))
        answer = reused.predict(padded)[PROBABILITIES]
        np.testing.assert_array_equal(answer, expected)
    for high, wide in ((1, 1), (9, 31), (17, 5)):
        part = padded[:, :, : high + 2 * HALO, : wide + 2 * HALO]
        answer = reused.predict(np.ascontiguousarray(part))[PROBABILITIES]
        assert answer.shape[2:] == (high, wide)
        np.testing.assert_allclose(answer, expected[:, :, :high, :wide], atol=1e-6)
    assert (rows, cols) == (23, 31)


class Noted:
    """An OpenVINO without OpenVINO: core, graph and request in one.

    Attributes:
        made: Requests that were made.
        touched: Those whose ``data`` was used, by the thread that came first.
    """

    def __init__(self) -> None:
        self.made: list[Noted] = []
        self.touched: dict[int, str] = {}

    def read_model(self, model: bytes) -> "Noted":
        return self

    def clone(self) -> "Noted":
        return self

    def reshape(self, shape: list[int]) -> None:
        self.shape = shape

    def compile_model(self, *_: Any) -> "Noted":
        return self

    def create_infer_request(self) -> "Noted":
        self.made.append(self)
        return self

    def get_tensor(self, name: str) -> "Noted":
        return self

    @property
    def data(self) -> NDArray[np.float32]:
        thread = threading.current_thread().name
        self.touched.setdefault(len(self.made), thread)
        return np.zeros(self.shape, np.float32)


def test_memory_is_prepared_by_the_thread_that_starts_the_engine(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OpenVINO 2026.4 prepares ``data`` for all threads at its first use, and lets go of
    # Python's lock meanwhile: two threads that come first wait for each other for ever.
    noted = Noted()
    monkeypatch.setattr(openvino_cpu, "_core", lambda: noted)
    OpenvinoCpu(model, 2, 2)
    assert len(noted.made) == 2
    assert noted.touched == dict.fromkeys((1, 2), threading.current_thread().name)


def test_only_the_graphs_used_last_are_kept(
    engine: Callable[..., OpenvinoCpu], padded: NDArray[np.float32]
) -> None:
    kept = engine(sizes=2)

    def compute(side: int) -> None:
        window = padded[:, :, : side + 2 * HALO, : side + 2 * HALO]
        kept.predict(np.ascontiguousarray(window))

    compute(8)
    first = next(reversed(kept._fixed.values()))
    compute(16)
    compute(8)
    assert first in kept._fixed.values()  # not compiled again
    compute(20)
    assert [shape[2] - 2 * HALO for shape in kept._fixed] == [8, 20]
    assert first in kept._fixed.values()


def test_threads_may_ask_for_windows_of_several_sizes_at_once(
    engine: Callable[..., OpenvinoCpu], padded: NDArray[np.float32]
) -> None:
    shared = engine(windows_at_once=2)
    expected = engine().predict(padded)[PROBABILITIES]
    sides = [5, 23, 9, 14] * 5

    def compute(side: int) -> NDArray[np.float32]:
        window = padded[:, :, : side + 2 * HALO, : side + 2 * HALO]
        return shared.predict(np.ascontiguousarray(window))[PROBABILITIES]

    with ThreadPoolExecutor(4) as pool:
        for side, answer in zip(sides, pool.map(compute, sides), strict=True):
            assert answer.shape[2:] == (side, side)
            np.testing.assert_allclose(answer, expected[..., :side, :side], atol=1e-6)
    assert len(shared._fixed) == 1

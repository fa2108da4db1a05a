"""However the lines arrive, the blocks give what a whole scene gives."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from camera import tall_cube
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hsi_runtime.follow.blocks import Blocks
from hsi_runtime.follow.pace import Pace
from hsi_runtime.scenes.array_scene import ArrayScene

BANDS = np.arange(4)


class Scripted(ArrayScene):
    """A source whose lines arrive by a script, a step at every look."""

    durable, dropped, lines_per_second, end_byte = True, 0, None, 0
    header_fields: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, cube: NDArray[Any], steps: list[int]) -> None:
        super().__init__(cube)
        self.path = self.info.path
        self._whole, self._steps = self.info, list(steps)
        self.complete, self.ended = 0, False

    def look(self) -> None:
        import dataclasses

        if self._steps:
            self.complete = min(self.complete + self._steps.pop(0), self._whole.rows)
        else:
            self.complete, self.ended = self._whole.rows, True
        self.info = dataclasses.replace(self._whole, rows=max(self.complete, 1))

    def finish(self) -> None:
        self.ended = True

    def begin(self, row: int) -> None:
        pass

    def rows_before(self, byte: int) -> int:
        return 0

    def arrived(self, line: int) -> float:
        return 0.0

    def check_lines(self) -> None:
        pass


@given(
    rows=st.integers(1, 60),
    halo=st.integers(0, 9),
    steps=st.lists(st.integers(0, 25), max_size=12),
    most=st.integers(1, 40),
    latest=st.booleans(),
    done=st.integers(0, 20),
)
@settings(max_examples=60)
def test_blocks_are_the_windows_of_the_whole_scene(
    rows: int, halo: int, steps: list[int], most: int, latest: bool, done: int
) -> None:
    cube = tall_cube(rows, cols=11)
    done = min(done, rows)
    source = Scripted(cube, steps)
    pace = Pace(halo=halo, cols=11, tile=16, at_once=2, most=most)
    blocks = Blocks(source, source, BANDS, pace, threading.Event(), latest=latest)
    edge = ((0, 0), (halo, halo), (halo, halo))
    padded = np.pad(cube, edge, mode="reflect")
    for block in blocks.after(done):
        assert block.rows[0] == done < block.rows[1] <= rows
        assert block.rows[1] - block.rows[0] <= pace.most or block.strip is None
        done = block.rows[1]
        if block.strip is None:
            assert latest
            continue
        assert block.closed in (None, rows)
        values, _ = block.strip.cut(block.rows, (0, 11))
        window = padded[:, block.rows[0] : block.rows[1] + 2 * halo]
        assert (values == window).all()
        if block.closed is None:
            assert block.rows[1] + halo <= rows
    assert done == rows


def test_stop_ends_the_source() -> None:
    source = Scripted(tall_cube(40), [30] + [0] * 1000)
    stop = threading.Event()
    pace = Pace(halo=2, cols=31, tile=16, at_once=1, most=100)
    blocks = Blocks(source, source, BANDS, pace, stop).after(0)
    assert next(blocks).rows == (0, 16)
    stop.set()
    assert [block.rows for block in blocks] == [(16, 30)]


def test_an_engine_that_is_behind_skips_lines_to_stay_live() -> None:
    source = Scripted(tall_cube(100), [90] + [0] * 1000)
    stop = threading.Event()
    pace = Pace(halo=2, cols=31, tile=16, at_once=1, most=16)
    blocks = Blocks(source, source, BANDS, pace, stop, latest=True).after(0)
    first, second = next(blocks), next(blocks)
    assert first.strip is None
    assert second.strip is not None
    assert first.rows[1] == second.rows[0]
    assert second.rows[1] == 88  # the newest line that has its context


def test_what_watches_may_end_the_flight() -> None:
    def refuse() -> None:
        raise ValueError("rewritten")

    source: Callable[..., Any] = Scripted
    lines = source(tall_cube(9), [1])
    pace = Pace(halo=2, cols=31, tile=16, at_once=1, most=16)
    blocks = Blocks(lines, lines, BANDS, pace, threading.Event(), watch=refuse)
    with pytest.raises(ValueError, match="rewritten"):
        next(blocks.after(0))

import dataclasses
from collections import deque
from typing import Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hsi_runtime.scenes.array_scene import ArrayScene
from hsi_runtime.scenes.scene import FILE_AXES, Cube
from hsi_runtime.walk import windows
from hsi_runtime.walk.strips import BUFFERS, Strip, read_strips
from hsi_runtime.walk.windows import Plan, Window, tiles

BANDS = np.array([3, 0, 2, 1])


class MemoryScene(ArrayScene):
    """A scene that notes what is read of it."""

    def __init__(
        self, cube: Cube, block: tuple[int, int], interleave: str = "bsq"
    ) -> None:
        super().__init__(cube, nodata=0)
        self.cube = cube
        self.reads: list[tuple[tuple[int, int], tuple[int, int]]] = []
        self.info = dataclasses.replace(self.info, block=block, interleave=interleave)

    def read(
        self,
        rows: tuple[int, int],
        cols: tuple[int, int],
        bands: NDArray[np.intp],
        out: Cube | None = None,
    ) -> Cube:
        assert 0 <= rows[0] < rows[1] <= self.info.rows
        assert 0 <= cols[0] < cols[1] <= self.info.cols
        self.reads.append((rows, cols))
        assert out is not None
        return super().read(rows, cols, bands, out)


@st.composite
def regions(draw: Any, shape: tuple[int, int]) -> Window:
    """Draw a part of a scene, the whole of it now and then."""
    if draw(st.booleans()):
        return Window(0, 0, *shape)
    row, col = (draw(st.integers(0, size - 1)) for size in shape)
    rows = draw(st.integers(1, shape[0] - row))
    return Window(row, col, rows, draw(st.integers(1, shape[1] - col)))


@st.composite
def walks(draw: Any) -> tuple[MemoryScene, Plan, Window, int]:
    shape = draw(st.tuples(st.integers(1, 45), st.integers(1, 45)))
    block = draw(st.tuples(st.integers(1, 50), st.integers(1, 50)))
    halo, tile = draw(st.integers(0, 7)), draw(st.integers(1, 24))
    region = draw(regions(shape))
    plan = windows.plan(
        shape, region, 8, block, halo, tile, draw(st.integers(1, 60_000))
    )
    random = np.random.default_rng(draw(st.integers(0, 99)))
    cube = random.integers(1, 30_000, (6, *shape)).astype(np.int16)
    cube[random.random(cube.shape) < 0.05] = 0  # nodata
    interleave = draw(st.sampled_from(sorted(FILE_AXES)))
    return MemoryScene(cube, block, interleave), plan, region, halo


class Checked:
    """Compares every square of every piece with the padded scene."""

    def __init__(self, scene: MemoryScene, plan: Plan, halo: int) -> None:
        self.scene, self.plan, self.halo = scene, plan, halo
        self.padded = np.pad(
            scene.cube[BANDS], ((0, 0), (halo, halo), (halo, halo)), mode="reflect"
        )
        self.times = np.zeros(scene.cube.shape[1:], dtype=int)
        self.numbers: list[int] = []

    def take(self, strip: Strip) -> None:
        halo = self.halo
        self.numbers.append(strip.number)
        for rows in tiles(strip.rows, self.plan.tile):
            for cols in tiles(strip.cols, self.plan.tile):
                found, known = strip.cut(rows, cols)
                place = np.s_[
                    :, rows[0] : rows[1] + 2 * halo, cols[0] : cols[1] + 2 * halo
                ]
                np.testing.assert_array_equal(found, self.padded[place])
                expected = (self.padded[place] != 0).all(axis=0)
                np.testing.assert_array_equal(known, expected)
                self.times[slice(*rows), slice(*cols)] += 1

    def walk(self, finished: set[int]) -> None:
        strips = read_strips(self.scene, BANDS, self.plan, self.halo, finished)
        alive = deque[tuple[Cube, Cube]](maxlen=BUFFERS - 1)
        for strip in strips:
            # One may still be computed while the next ones are read.
            for cube, copy in alive:
                np.testing.assert_array_equal(cube, copy)
            alive.append((strip.cube, strip.cube.copy()))
            assert strip.cube.nbytes <= max(self.plan.strip_bytes, 1)
            in_file = strip.cube.transpose(FILE_AXES[self.scene.info.interleave])
            assert in_file.flags.c_contiguous
            self.take(strip)


@given(walks())
@example(
    (
        MemoryScene(np.arange(54, dtype=np.int16).reshape(6, 3, 3), (2, 1)),
        windows.plan((3, 3), Window(0, 0, 3, 3), 8, (2, 1), 2, 1, 1),
        Window(0, 0, 3, 3),
        2,
    )
)  # panels that begin with rows that are but context
def test_every_square_of_a_region_is_read_with_its_context(
    walk: tuple[MemoryScene, Plan, Window, int],
) -> None:
    scene, plan, region, halo = walk
    checked = Checked(scene, plan, halo)
    checked.walk(set())
    expected = np.zeros_like(checked.times)
    expected[region.row : region.row_end, region.col : region.col_end] = 1
    np.testing.assert_array_equal(checked.times, expected)
    # Every pixel that is needed is read once, but for context at the left of a pass.
    rows, cols = windows.needed_of(scene.cube.shape[1:], region, halo)
    needed, read = (np.zeros(scene.cube.shape[1:], dtype=int) for _ in range(2))
    needed[slice(*rows), slice(*cols)] = 1
    for first, _ in plan.passes[1:]:
        panel = plan.panels[first]
        left = panel.read[1] - windows.held(panel, halo)
        needed[slice(*rows), left : panel.read[0]] += 1
    for tall, wide in scene.reads:
        read[slice(*tall), slice(*wide)] += 1
    np.testing.assert_array_equal(read, needed)


@given(walks(), st.data())
@example(
    (
        MemoryScene(np.ones((6, 9, 9), np.int16), (1, 9)),
        windows.plan((9, 9), Window(0, 0, 9, 9), 8, (1, 9), 2, 2, 1),
        Window(0, 0, 9, 9),
        2,
    ),
    None,
)
def test_two_passes_over_any_pieces_make_one_whole(
    walk: tuple[MemoryScene, Plan, Window, int], data: st.DataObject | None
) -> None:
    scene, plan, _, halo = walk
    whole = Checked(scene, plan, halo)
    whole.walk(set())
    numbers = sorted(whole.numbers)
    chosen = st.sets(st.sampled_from(numbers))
    finished = set(numbers[::2]) if data is None else data.draw(chosen)
    checked = Checked(scene, plan, halo)
    checked.walk(finished)
    assert set(checked.numbers) == set(numbers) - finished
    checked.walk(set(numbers) - finished)
    assert sorted(checked.numbers) == numbers
    np.testing.assert_array_equal(checked.times, whole.times)
    assert plan.count_windows(numbers) == plan.count_windows()
    rest = set(numbers) - finished
    assert (
        plan.count_windows(finished) + plan.count_windows(rest) == plan.count_windows()
    )


def test_nothing_is_read_where_all_is_finished() -> None:
    scene = MemoryScene(np.ones((6, 40, 30), np.int16), (8, 30))
    plan = windows.plan((40, 30), Window(0, 0, 40, 30), 8, (8, 30), 0, 4, 4000)
    numbers = {s.number for s in read_strips(scene, BANDS, plan, 0)}
    assert len(numbers) > 2
    scene.reads.clear()
    assert list(read_strips(scene, BANDS, plan, 0, numbers)) == []
    assert scene.reads == []


def test_memory_is_reused_and_strips_that_wait_are_left_alone() -> None:
    cube = np.random.default_rng(0).integers(0, 99, (6, 64, 30)).astype(np.int16)
    scene = MemoryScene(cube, (8, 30), "bip")
    plan = windows.plan((64, 30), Window(0, 0, 64, 30), 8, (8, 30), 2, 8, 4000)
    alive: list[tuple[Strip, NDArray[Any]]] = []
    places = set()
    for strip in read_strips(scene, BANDS, plan, 2):
        alive = [*alive[1 - BUFFERS :], (strip, strip.cube.copy())]
        for waiting, content in alive:
            np.testing.assert_array_equal(waiting.cube, content)
        places.add(strip.cube.__array_interface__["data"][0])
    assert len(plan.strips) > 5
    assert len(places) <= 3  # two, and the first of them that was too small

import math

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from hsi_runtime.walk import windows
from hsi_runtime.walk.windows import (
    Plan,
    Window,
    even_parts,
    mirror,
    mirrored_extent,
    plan,
    tiles,
)

SIZES = st.integers(1, 60)


@given(SIZES, st.integers(0, 200), st.integers(0, 200))
@example(1, 5, 5)
@example(2, 7, 9)  # reflected several times
def test_mirror_is_numpys_reflect_padding(size: int, before: int, after: int) -> None:
    expected = np.pad(np.arange(size), (before, after), mode="reflect")
    np.testing.assert_array_equal(mirror(-before, size + after, size), expected)


@given(SIZES, st.integers(-150, 150), st.integers(1, 150))
def test_mirror_of_a_part_is_part_of_the_mirror(
    size: int, start: int, length: int
) -> None:
    whole = mirror(-200, 400, size)
    part = mirror(start, start + length, size)
    np.testing.assert_array_equal(part, whole[start + 200 : start + 200 + length])
    low, high = mirrored_extent(start, start + length, size)
    assert (low, high) == (part.min(), part.max() + 1)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 60))
def test_tiles_cover_an_interval_once(first: int, length: int, side: int) -> None:
    found = list(tiles((first, first + length), side))
    covered = [i for a, b in found for i in range(a, b)]
    assert covered == list(range(first, first + length))
    assert all(0 < b - a <= side for a, b in found)


def check(walk: Plan, rows: int, cols: int, halo: int, region: Window) -> None:
    """Check what holds for every plan."""
    axes = (
        (walk.strips, (region.row, region.row_end), rows),
        (walk.panels, (region.col, region.col_end), cols),
    )
    for spans, (first, end), size in axes:
        outputs = [n for s in spans for n in range(*s.outputs)]
        assert outputs == list(range(first, end))
        reads = [n for s in spans for n in range(*s.read)]
        assert reads == list(range(*mirrored_extent(first - halo, end + halo, size)))
        for span in spans:
            if span.outputs[1] > span.outputs[0]:
                context = mirror(span.outputs[0] - halo, span.outputs[1] + halo, size)
                assert context.max() < span.read[1]
                assert span.read[1] - windows.held(span, halo) <= context.min()
    numbers = [n for p in walk.passes for n in range(*p)]
    assert numbers == list(range(len(walk.panels)))


def whole(rows: int, cols: int) -> Window:
    return Window(0, 0, rows, cols)


@given(
    rows=st.integers(1, 400),
    cols=st.integers(1, 400),
    part=st.none() | st.tuples(*[st.floats(0, 1, exclude_max=True)] * 4),
    pixel_bytes=st.integers(1, 2000),
    block=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    halo=st.integers(0, 30),
    tile=st.integers(1, 200),
    budget=st.integers(1, 2_000_000),
    squares=st.integers(1, 40),
)
def test_every_plan_covers_its_region_once_with_its_context(
    rows: int,
    cols: int,
    part: tuple[float, float, float, float] | None,
    pixel_bytes: int,
    block: tuple[int, int],
    halo: int,
    tile: int,
    budget: int,
    squares: int,
) -> None:
    region = whole(rows, cols)
    if part is not None:
        row, col = int(part[0] * rows), int(part[1] * cols)
        tall, wide = 1 + int(part[2] * (rows - row)), 1 + int(part[3] * (cols - col))
        region = Window(row, col, min(tall, rows - row), min(wide, cols - col))
    walk = plan((rows, cols), region, pixel_bytes, block, halo, tile, budget, squares)
    check(walk, rows, cols, halo, region)
    tall, wide = (
        max(s.read[1] - s.read[0] for s in spans)
        for spans in (walk.strips, walk.panels)
    )
    # Reads keep to the file's blocks wherever a piece is at least one block.
    for spans, side, most in (
        (walk.strips, min(block[0], rows), tall),
        (walk.panels, min(block[1], cols), wide),
    ):
        if most >= side:
            assert all(s.read[0] % side == 0 for s in spans[1:])
    # What is held at once keeps to the budget, unless one tile is too much.
    held = (
        max(windows.held(s, halo) for s in spans)
        for spans in (walk.strips, walk.panels)
    )
    assert math.prod(held) * pixel_bytes == walk.strip_bytes
    if walk.strip_bytes > budget:
        assert wide <= tile
    for first, stop in walk.passes if walk.strips[1:] else ():
        kept = walk.panels[stop - 1].read[1] - walk.panels[first].read[0]
        kept_bytes = kept * 2 * halo * pixel_bytes
        assert stop - first == 1 or kept_bytes <= 2 * max(budget, walk.strip_bytes)
    squares_of = [
        len(list(even_parts(s.outputs, tile))) * len(list(even_parts(p.outputs, tile)))
        for s, p in walk.pieces()
    ]
    assert walk.count_windows() == sum(squares_of)
    odd, even = range(1, len(squares_of), 2), range(0, len(squares_of), 2)
    assert walk.count_windows(odd) == sum(squares_of[1::2])
    assert walk.count_windows(even) == sum(squares_of[::2])


def test_parts_are_even() -> None:
    assert list(even_parts((10, 157), 64)) == [(10, 59), (59, 108), (108, 157)]
    assert list(even_parts((0, 64), 64)) == [(0, 64)]
    assert list(even_parts((5, 5), 64)) == []


@given(st.integers(0, 50), st.integers(0, 300), st.integers(1, 60))
def test_even_parts_are_as_few_as_tiles(first: int, length: int, side: int) -> None:
    parts = list(even_parts((first, first + length), side))
    assert [n for a, b in parts for n in range(a, b)] == list(
        range(first, first + length)
    )
    assert len(parts) == len(list(tiles((first, first + length), side)))
    sizes = {b - a for a, b in parts}
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert max(sizes, default=0) <= side


def test_strips_hold_the_squares_wanted_within_the_budget() -> None:
    for cols, squares, height in ((700, 1, 64), (700, 32, 192), (6400, 32, 64)):
        size, block = (1000, cols), (64, 64)
        walk = plan(size, whole(*size), 4, block, 6, 64, squares=squares)
        assert walk.strips[1].read[1] - walk.strips[1].read[0] == height
    size = 1000, 700
    walk = plan(size, whole(*size), 400, (64, 64), 6, 64, 40_000_000, 32)
    assert [p.outputs for p in walk.panels] == [(0, 700)]
    assert walk.strips[1].read[1] - walk.strips[1].read[0] == 128


def test_scene_equal_to_one_less_and_one_more_than_the_window() -> None:
    for rows in (127, 128, 129):
        for cols in (127, 128, 129):
            walk = plan((rows, cols), whole(rows, cols), 400, (128, 128), 6, 128)
            check(walk, rows, cols, 6, whole(rows, cols))


def test_strips_of_a_usual_scene_are_whole_rows_of_blocks() -> None:
    walk = plan((1000, 900), whole(1000, 900), 400, (128, 128), 6, 128)
    assert [p.outputs for p in walk.panels] == [(0, 900)]
    assert {s.read[0] % 128 for s in walk.strips} == {0}
    assert walk.strip_bytes <= windows.STRIP_BYTES


def test_wide_scene_is_walked_in_panels_within_the_budget() -> None:
    budget = 64 * 1024**2
    walk = plan((2000, 40_000), whole(2000, 40_000), 448, (256, 256), 6, 128, budget)
    check(walk, 2000, 40_000, 6, whole(2000, 40_000))
    assert len(walk.panels) > 1
    assert all(p.read[0] % 256 == 0 for p in walk.panels)
    assert walk.strip_bytes <= budget


def test_budget_includes_the_rows_kept_as_context() -> None:
    row_bytes = 1000 * 400
    walk = plan((5000, 1000), whole(5000, 1000), 400, (1, 1000), 20, 64, 70 * row_bytes)
    check(walk, 5000, 1000, 20, whole(5000, 1000))
    assert walk.strip_bytes <= 70 * row_bytes

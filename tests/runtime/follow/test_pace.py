import pytest

from hsi_runtime.follow.pace import Pace


def pace_of(**changed: float | None) -> Pace:
    given = {"halo": 5, "cols": 640, "tile": 48, "at_once": 2, "most": 1000}
    return Pace(**given | changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("halo", [0, 2, 5, 9, 30])
@pytest.mark.parametrize("tile", [48, 128])
@pytest.mark.parametrize("cols", [31, 640, 1600])
def test_blocks_are_the_smallest_efficient_ones(
    halo: int, tile: int, cols: int
) -> None:
    pace = pace_of(halo=halo, tile=tile, cols=cols)

    def useful(rows: int) -> float:
        width = min(tile * tile / rows, cols)
        return rows * width / ((rows + 2 * halo) * (width + 2 * halo))

    rows = pace.rows(None)
    assert rows == tile or useful(rows) >= 0.9 * useful(tile)
    assert rows == 8 or useful(rows - 8) < 0.9 * useful(tile)


def test_latency_decides_when_speeds_are_known() -> None:
    pace = pace_of(latency_s=0.1)
    assert pace.rows(250.0) == pace.rows(None)  # the engine is not measured yet
    pace.measured(20, 0.02)
    rows = pace.rows(250.0)
    # The first line waits for the block and its context, then for the engine.
    assert (rows + 5) / 250 + rows * 0.001 <= 0.1
    assert (rows + 6) / 250 + (rows + 1) * 0.001 > 0.1


@pytest.mark.parametrize("engine_ms", [0.5, 1.5, 2.5, 3.9, 4.0, 9.0])
def test_blocks_leave_time_to_spare(engine_ms: float) -> None:
    """Two blocks and half the context are the time that a line may take."""
    pace = pace_of()
    pace.measured(24, 24 * engine_ms / 1000)
    rows = pace.rows(250.0)
    assert pace.rows(None) <= rows <= pace.most

    def spare_s(rows: int) -> float:
        allowed = (pace.halo / 2 + 2 * rows) / 250
        return allowed - (rows + pace.halo) / 250 - rows * engine_ms / 1000

    assert rows == pace.most or spare_s(rows) >= 0.1 - 1e-9
    assert rows == pace.rows(None) or spare_s(rows - 1) < 0.1


def test_blocks_that_were_asked_for_stay() -> None:
    pace = pace_of(asked=7)
    pace.measured(7, 0.02)
    assert pace.rows(250.0) == 7


def test_a_latency_that_is_too_short_gives_single_lines() -> None:
    pace = pace_of(latency_s=0.001)
    pace.measured(10, 0.1)
    assert pace.rows(100.0) == 1
    assert pace.shortest_s(100.0) == pytest.approx(0.07)


def test_memory_limits_a_block() -> None:
    assert pace_of(most=5).rows(None) == 5


@pytest.mark.parametrize("rows", [1, 8, 24, 48, 100])
@pytest.mark.parametrize("at_once", [1, 2, 3, 8])
def test_threads_share_the_windows_evenly(rows: int, at_once: int) -> None:
    pace = pace_of(at_once=at_once)
    side = pace.side(rows)
    assert side >= rows
    assert side == rows or -(-640 // side) % at_once == 0 or 640 // side < at_once

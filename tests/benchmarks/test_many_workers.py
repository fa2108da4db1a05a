import pytest
from many_workers import CASES, Size, compared, markdown

SIZE = Size(rows=4000, scenes=1000, threads=2, method="mf2cnet")


def row(case: str, kind: str, work: float, maps: str = "a") -> dict[str, object]:
    times = {"work_seconds": work, "start_up_seconds": 3.0, "seconds": work + 3}
    return {"case": case, "kind": kind, "maps_sha256": maps, **times}


def test_medians_of_both_kinds_are_compared() -> None:
    rows = [row(CASES[0], "plain", w) for w in (10.0, 90.0, 11.0)]
    rows += [row(CASES[0], "workers", w) for w in (12.0, 12.1, 1.0)]
    rows += [row(CASES[1], "plain", 5.0, "b")]
    figures = compared(rows, CASES[0])
    assert figures["plain_work_seconds"] == 11
    assert figures["work_seconds_ratio"] == pytest.approx(12 / 11)
    assert figures["seconds_ratio"] == pytest.approx(15 / 14)
    text = markdown({CASES[0]: figures}, SIZE)
    assert "| 4,000 x 1,000 px, 120 bands, in parts | 11.0 | 12.0 | 1.09 |" in text


def test_maps_that_differ_are_no_result() -> None:
    rows = [row(CASES[0], "plain", 1.0), row(CASES[0], "workers", 1.0, "other")]
    with pytest.raises(SystemExit, match="the maps differ"):
        compared(rows, CASES[0])

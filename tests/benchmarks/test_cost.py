"""That every case runs in turns and the answers follow from the rates."""

import json
import os
from pathlib import Path
from typing import Any

import common
import cost
import cost_table
import numpy as np
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

CONTEXT = 2


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Spare the tracing of methods, and most of the arithmetic."""

    def traced(method: str, bands: int, classes: int) -> tuple[bytes, int]:
        weights = np.ones((classes, bands, CONTEXT + 1, CONTEXT + 1), np.float32)
        cube: list[str | int] = [1, bands, "height", "width"]
        outputs: list[str | int] = [1, classes, "rows", "cols"]
        graph = helper.make_graph(
            [helper.make_node("Conv", ["cube", "weights"], ["probabilities"])],
            method,
            [helper.make_tensor_value_info("cube", 1, cube)],
            [helper.make_tensor_value_info("probabilities", 1, outputs)],
            [numpy_helper.from_array(weights, "weights")],
        )
        opset = [helper.make_opsetid("", 20)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=10)
        return model.SerializeToString(deterministic=True), CONTEXT

    few = {"tile": (8, 128), "bands": (1, 2), "classes": (2, 3)}
    monkeypatch.setattr(common, "tile_of", lambda *_: 128)
    monkeypatch.setattr(cost, "traced", traced)
    monkeypatch.setattr(cost, "QUESTIONS", few)
    monkeypatch.setattr(cost, "QUICK", few)
    monkeypatch.setattr(cost, "BASE", cost.BASE | {"bands": 2, "classes": 2})
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    return tmp_path


def start(folder: Path, *arguments: str) -> str:
    given = ["--method", "mf2cnet", "--rounds", "1", "--folder", str(folder)]
    done = CliRunner().invoke(cost.main, [*given, *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_cases_vary_one_thing(small: Path) -> None:
    cases = cost.cases_of("tile", "mf2cnet", (8, 128))
    assert [c.name for c in cases] == [
        *("8 tile 1 threads", "8 tile 2 threads", "8 tile 2 windows"),
        *("128 tile 1 threads", "128 tile 2 threads", "128 tile 2 windows"),
    ]
    assert [c.side for c in cases] == [10, 10, 10, 130, 130, 130]
    assert [c.threads for c in cases] == [1, 2, 1, 1, 2, 1]
    assert [c.windows for c in cases] == [1, 1, 2, 1, 1, 2]
    (few, many) = cost.cases_of("bands", "mf2cnet", (1, 2))
    assert (few.bands, many.bands) == (1, 2)
    assert (few.tile, few.threads) == (128, 1)
    assert few.model != many.model


def test_two_windows_count_twice(small: Path) -> None:
    one, *_, two = cost.cases_of("tile", "mf2cnet", (128,))
    pixels = [cost.call_of(c, common.session(c.model))[1] for c in (one, two)]
    assert pixels == [128**2, 2 * 128**2]


def test_a_part_is_measured_once(small: Path) -> None:
    cases = cost.cases_of("bands", "mf2cnet", (1, 2))
    place = small / "parts" / "bands.json"
    found = cost.part(cases, 1, place)
    assert list(found) == ["1 bands", "2 bands"]
    for row in found.values():
        assert row["pixels_per_second"] > 0
        assert len(row["seconds_per_pixel"]) == 1
    written = place.stat().st_mtime_ns
    assert cost.part(cases, 1, place) == found
    assert place.stat().st_mtime_ns == written
    assert list(cost.part(cases[:1], 1, place)) == ["1 bands"]  # other cases


def test_results_are_written_but_for_a_quick_look(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "part", lambda cases, n, _: cost.measure(cases, n))
    output = start(small, "--quick")
    assert "Pixels/s by side of the tile" in output
    assert not list(small.iterdir())
    start(small)
    figures = json.loads((small / "cost.json").read_text())["methods"]["mf2cnet"]
    assert list(figures["bands"]) == ["1", "2"]
    assert set(figures["tile"]["1 threads"]["pixels_per_second"]) == {"8", "128"}
    assert "| mf2cnet | 1 threads |" in (small / "cost.md").read_text()


def rates(*each: float) -> dict[str, Any]:
    return {"pixels_per_second": round(1 / min(each)), "seconds_per_pixel": each}


def test_the_plan_is_compared_with_the_fastest_tile() -> None:
    found = {
        "64 tile 2 windows": rates(1e-5, 1.1e-5),
        "128 tile 2 windows": rates(1.2e-5, 1.1e-5),
        "128 tile 1 threads": rates(9e-6, 9e-6),
    }
    answer = cost_table.best_tile(found, "2 windows", 128)
    assert answer["fastest_tile"] == 64
    assert answer["plan_slower_by"] == 0.1
    assert answer["plan_slower_by_rounds"] == [0.0, 0.2]
    assert not answer["plan_good_enough"]
    assert cost_table.best_tile(found, "1 threads", 128)["plan_good_enough"]


def test_another_process_does_the_work_and_its_errors_rise() -> None:
    assert common.apart(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        common.apart(divmod, 1, 0)

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import accuracy_by_cost
import pytest
from click.testing import CliRunner


@pytest.fixture
def results(tmp_path: Path) -> Path:
    def cell(data: str, row: str, share: float, train: int = 60) -> dict[str, Any]:
        counts = {"train": train, "test": 9}
        return {"data": data, "row": row, "overall_accuracy": share, "counts": counts}

    cells = [
        cell("salinas_a", "svm", 0.9),
        cell("salinas_a", "svm", 0.8),
        {"data": "salinas_a", "row": "svm", "error": "out of memory"},
        cell("salinas_a", "linear_svm", 0.7),
        cell("salinas_a", "s2former_scratch", 0.95),
        cell("salinas_a", "mf2cnet", 0.96),
        cell("salinas_a_disjoint", "svm", 0.6, train=30),
        cell("enmap_potsdam", "svm", 0.5),
        cell("enmap_potsdam", "mf2cnet", 0.75),
        cell("salinas_a_5", "mf2cnet", 0.4),
    ]
    (tmp_path / "accuracy").mkdir()
    lines = "\n".join(map(json.dumps, cells))
    (tmp_path / "accuracy" / "cells.jsonl").write_text(lines)
    rates = {"SVM, RBF": 9000, "mf2cnet": 2000, "mf2cnet by patches": 20}
    measured = {k: {"pixels_per_second": v} for k, v in rates.items()}
    scenes = {"salinas_a": {"train": 60, "rivals": measured}}
    (tmp_path / "rivals.json").write_text(json.dumps({"scenes": scenes}))
    for method, rate in (("mf2cnet", 3000), ("s2former", 1000)):
        speed = json.dumps({"dense_pixels_per_second": rate})
        (tmp_path / f"dense_speed_{method}.json").write_text(speed)
    return tmp_path


def test_rates_are_of_the_same_scene_or_of_none(results: Path) -> None:
    points = accuracy_by_cost.points_of("salinas_a", results)
    found = {p.row: (p.rate, p.source) for p in points}
    assert found == {
        "svm": (9000, "rivals"),
        "mf2cnet": (2000, "rivals"),
        "s2former_scratch": (1000, "dense_speed"),
        "linear_svm": (None, ""),
    }
    assert points[0].row == "svm"  # the fastest first
    assert points[0].accuracy == pytest.approx(85)
    assert points[0].spread == pytest.approx(5)
    assert points[0].seeds == 2
    (fewer,) = accuracy_by_cost.points_of("salinas_a_disjoint", results)
    assert fewer.rate is None  # of another number of training pixels
    elsewhere = accuracy_by_cost.points_of("enmap_potsdam", results)
    assert {p.row: p.rate for p in elsewhere} == {"mf2cnet": 3000, "svm": None}


def test_rivals_need_not_have_been_measured(results: Path) -> None:
    (results / "rivals.json").unlink()
    found = {p.row: p.rate for p in accuracy_by_cost.points_of("salinas_a", results)}
    assert (found["mf2cnet"], found["svm"]) == (3000, None)


def test_table_and_plot_show_what_was_measured(results: Path) -> None:
    given = ["--results", str(results)]
    done = CliRunner().invoke(accuracy_by_cost.main, given, catch_exceptions=False)
    assert done.exit_code == 0
    table = (results / "accuracy_by_cost.md").read_text()
    row = "| SalinasA, 10 pixels a class | svm | 85.0 ± 5.0 | 2 | 9,000 | rivals |"
    assert row in table
    assert "| linear_svm | 70.0 ± 0.0 | 1 | not measured |  |" in table
    text = (results / "accuracy_by_cost.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "EnMAP Potsdam" in text
    assert "s2amsnet" not in text

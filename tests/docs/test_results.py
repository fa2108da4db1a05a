import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import results
import source

MACHINE = {
    "cpu": "Z80",
    "cores": 1,
    "memory_bytes": 65536000000,
    "python": "3.11",
    "load": 0.5,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository; return the folder of its results."""
    found = tmp_path / "benchmarks" / "results"
    (found / "accuracy").mkdir(parents=True)
    methods = tmp_path / "methods"
    methods.mkdir()
    for name in ("one", "two", "two_plus"):
        (methods / f"{name}.py").touch()
    for module in (results, source):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(results, "FOLDER", found)
    monkeypatch.setattr(results, "METHODS", methods)
    (found / "stale.toml").touch()
    monkeypatch.setattr(results, "PAGES", tmp_path)
    return found


def script(folder: Path, name: str) -> None:
    text = f'"""Is {name} fast?\n\n    python benchmarks/{name}.py\n"""\n'
    (folder.parent / f"{name}.py").write_text(text)


def write(folder: Path, name: str, **figures: Any) -> None:
    content = {"benchmark": name, "machine": MACHINE, **figures}
    (folder / f"{name}.json").write_text(json.dumps(content))


RIVALS = [
    {"name": "lda", "overall_accuracy": 0.6},
    {"name": "lda-sum", "overall_accuracy": 0.9},
    {"name": "rbf-svm", "overall_accuracy": 0.8},
]


def test_comparison_sets_accuracy_beside_speed(folder: Path) -> None:
    cells = [
        {
            "data": "salinas_a",
            "row": "svm",
            "overall_accuracy": 0.9,
            "rivals": RIVALS[:2],
        },
        {"data": "salinas_a", "row": "one_bare", "overall_accuracy": 0.8},
        {"data": "salinas_a", "row": "one_bare", "overall_accuracy": 0.9},
        {"data": "salinas_a", "row": "one_bare", "error": "it failed"},
        {"data": "neon_mlbs", "row": "two", "overall_accuracy": 0.7, "rivals": RIVALS},
    ]
    lines = "\n".join(map(json.dumps, cells))
    (folder / "accuracy" / "cells.jsonl").write_text(lines)
    write(
        folder,
        "dense_speed_one",
        dense_pixels_per_second=12345,
        ratio_median=40.5,
        macs_per_pixel=250_000,
    )
    rows = [line.split(" | ") for line in results.comparison().splitlines()[2:]]
    assert [row[0] for row in rows] == [
        "| svm",
        "| `one`, bare",
        "| `two`",
        "| best rival",
        "| `two_plus`",
    ]
    assert rows[0][1:3] == ["90.0 (1)", "not run"]
    assert rows[1][1] == "85.0 ± 5.0 (2)"
    assert rows[1][3:] == ["12,345", "0.25", "40.5 |"]
    assert rows[2][1:3] == ["not run", "70.0 (1)"]
    # Not the one that is method lda, and not that of a run with the cheap ones only.
    assert rows[3][1:3] == ["not run", "80.0 (1)"]
    assert rows[4][1] == "not run"


def test_cases_of_a_benchmark_are_rows(folder: Path) -> None:
    script(folder, "speed")
    for case, rate in (("a", 1000), ("b", 2000.5)):
        write(folder, f"speed_{case}", bands=7, rate={"mean": rate})
    found = results.benchmark("speed")
    assert found.startswith("## Is speed fast?\n\npython benchmarks/speed.py")
    assert "| a | 1,000 |" in found
    assert "| b | 2,000 |" in found
    assert "bands: 7." in found  # the same in every row
    assert "Machine: Z80, 1 cores, 66 GB, Python 3.11; load 0.5 at the end." in found


def test_parts_that_are_alike_are_rows(folder: Path) -> None:
    script(folder, "reading")
    write(folder, "reading", rows=5, bsq={"range": [1, 2]}, bip={"range": [3, 4]})
    found = results.benchmark("reading")
    assert "| bsq | 1 to 2 |" in found
    assert "rows: 5." in found


def test_cases_of_unlike_figures_are_columns(folder: Path) -> None:
    script(folder, "speed")
    write(folder, "speed", a={"rate": 1, "size": 2}, b={"rate": 3, "best": 4})
    lines = results.benchmark("speed").splitlines()
    assert lines[4:9] == [
        "|  | a | b |",
        "| --- | --- | --- |",
        "| rate | 1 | 3 |",
        "| size | 2 |  |",
        "| best |  | 4 |",
    ]


def test_a_table_of_the_benchmark_itself_comes_first(folder: Path) -> None:
    script(folder, "reading")
    write(folder, "reading", rows=5)
    (folder / "reading.md").write_text("# Mine\n\n| a |\n")
    found = results.benchmark("reading")
    assert "## Mine" in found
    assert "rows" not in found


def test_results_of_earlier_code_say_so(folder: Path) -> None:
    script(folder, "speed")
    write(folder, "speed", a=1)
    assert "earlier version" not in results.benchmark("speed")
    (folder / "stale.toml").write_text('"speed.json" = "before the tile grew"\n')
    note = "*Measured with an earlier version of the code: before the tile grew.*"
    assert results.benchmark("speed").endswith(f"\n\n{note}")


def test_results_without_a_page_are_shown_all_the_same(folder: Path) -> None:
    for name in ("named", "new", "new_one", "silent"):
        script(folder, name)
    write(folder, "named", a=1)
    write(folder, "new_one", a=1)
    (folder.parents[1] / "speed.md").write_text("<!-- generated: benchmark named -->\n")
    found = results.other_benchmarks()
    assert "Is new_one fast?" in found
    assert not any(f"Is {name} fast?" in found for name in ("named", "new", "silent"))


def test_benchmark_without_results_stops_the_build(folder: Path) -> None:
    script(folder, "speed")
    with pytest.raises(LookupError, match="no results"):
        results.benchmark("speed")


def test_figures_in_the_prose_are_those_of_the_results() -> None:
    """README and choosing.md quote averages over classes on EnMAP."""
    cells = results.lines_of(results.FOLDER / "accuracy" / "cells.jsonl")
    pages = (results.ROOT / "README.md", results.PAGES / "choosing.md")
    for row in ("mf2cnet", "linear_svm", "s2amsnet"):
        shares = [
            100 * cell["average_accuracy"]
            for cell in cells
            if (cell["row"], cell["data"]) == (row, "enmap_potsdam")
        ]
        for page in pages:
            text = page.read_text(encoding="utf-8")
            assert f"{fmean(shares):.1f} %" in text, f"{page.name}: {row}"

import json
from pathlib import Path
from typing import Any

import pytest
import results
import source

from hsi_train.methods import names

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
    for module in (results, source):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(results, "FOLDER", found)
    (found / "stale.toml").touch()
    monkeypatch.setattr(results, "PAGES", tmp_path)
    return found


def script(folder: Path, name: str) -> None:
    text = f'"""Is {name} fast?\n\n    python benchmarks/{name}.py\n"""\n'
    (folder.parent / f"{name}.py").write_text(text)


def write(folder: Path, name: str, **figures: Any) -> None:
    content = {"benchmark": name, "machine": MACHINE, **figures}
    (folder / f"{name}.json").write_text(json.dumps(content))


def share(name: str, overall: float, average: float) -> dict[str, Any]:
    return {
        "name": name,
        "overall_accuracy": overall,
        "average_accuracy": average,
    }


RIVALS = [share("lda", 0.6, 0.5), share("lda-sum", 0.9, 0.9), share("rbf", 0.8, 0.4)]


def cell(data: str, row: str, overall: float, **more: Any) -> dict[str, Any]:
    return {"data": data, "row": row, "seed": 0, **share("", overall, 0.5), **more}


@pytest.fixture
def measured(folder: Path) -> None:
    cells = [
        cell("enmap_potsdam", "lda", 0.75, rivals=RIVALS),
        cell("enmap_potsdam", "s2vnet", 0.8, rivals=RIVALS[:2]),
        cell("enmap_potsdam", "s2vnet", 0.9),
        {"data": "enmap_potsdam", "row": "s2vnet", "error": "it failed"},
        cell("enmap_potsdam", "s2vnet_alone", 0.95),
        cell("salinas_a", "mf2cnet", 0.7, rivals=RIVALS[:2]),
    ]
    lines = "\n".join(map(json.dumps, cells))
    (folder / "accuracy" / "cells.jsonl").write_text(lines)
    write(
        folder,
        "dense_speed_s2vnet",
        dense_pixels_per_second=12345,
        ratio_median=40.5,
        macs_per_pixel=250_000,
    )


def rows_of(text: str) -> dict[str, list[str]]:
    """Return the cells of all rows of tables by the first."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line]
    return {first: rest for first, *rest in rows}


@pytest.mark.usefixtures("measured")
def test_comparison_has_scenes_in_rows_and_the_cost_below() -> None:
    text = results.comparison()
    rows = rows_of(text)
    methods = " | ".join(f"`{name}`" for name in results.USES)
    assert text.startswith(f"|  | {methods} | best rival |")
    # The best rival is not the one that is method lda, and variants are elsewhere.
    assert rows["EnMAP Potsdam, given blocks"] == [
        "75.0 / 50.0 (1)",
        "not run",
        "**85.0 ± 5.0 / 50.0 (2)**",
        "not run",
        "not run",
        "80.0 / 40.0 (1)",
    ]
    # Runs that fitted the cheap rivals only do not tell which is best.
    assert rows["SalinasA, 10 pixels a class"][1::4] == [
        "**70.0 / 50.0 (1)**",
        "not run",
    ]
    assert "NEON MLBS, tree crowns" not in rows
    assert rows["`s2vnet`"] == ["12,345", "0.25", "40.5"]


@pytest.mark.usefixtures("measured")
def test_summary_has_all_methods_and_the_best_rival() -> None:
    rows = rows_of(results.summary())
    assert {*rows} >= {*(f"`{name}`" for name in names()), "best rival"}
    assert rows["`s2vnet`"][1:] == ["85.0 ± 5.0 / 50.0 (2)", "12,345"]
    assert rows["best rival"][1] == "80.0 / 40.0 (1)"


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

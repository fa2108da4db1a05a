import accuracy_table
import pytest
from accuracy_table import Result


def cell(row: str, seed: int, share: float, data: str = "one") -> Result:
    return {
        "data": data,
        "row": row,
        "seed": seed,
        "overall_accuracy": share,
        "average_accuracy": share / 2,
        "kappa": share / 4,
        "seconds": 10.0 * seed,
        "cpu_seconds": 4.0,
        "recalls": {"soil": share, "water": share if data == "one" else None},
    }


CELLS = [
    cell("svm", 0, 0.9),
    cell("svm", 1, 0.8),
    cell("svm", 2, 0.4),
    cell("forest", 0, 0.5),
    {"data": "one", "row": "forest", "seed": 1, "error": "out of memory"},
    {"data": "two", "row": "forest", "seed": 0, "error": "no such file"},
]


def test_mean_and_population_deviation() -> None:
    found = accuracy_table.table(CELLS)["one"]["svm"]
    assert found["seeds"] == [0, 1, 2]
    assert found["failed"] == {}
    assert found["overall_accuracy"]["mean"] == pytest.approx(0.7)
    # sqrt((0.2^2 + 0.1^2 + 0.3^2) / 3)
    assert found["overall_accuracy"]["std"] == pytest.approx(0.2160246899)
    assert found["overall_accuracy"]["each"] == [0.9, 0.8, 0.4]
    assert found["average_accuracy"]["mean"] == pytest.approx(0.35)
    assert found["kappa"]["mean"] == pytest.approx(0.175)
    assert found["seconds"]["mean"] == pytest.approx(10)
    assert found["cpu_seconds"]["mean"] == 4


def test_failures_are_kept_apart_from_the_figures() -> None:
    found = accuracy_table.table(CELLS)
    assert found["one"]["forest"]["seeds"] == [0]
    assert found["one"]["forest"]["failed"] == {"1": "out of memory"}
    assert found["one"]["forest"]["overall_accuracy"]["mean"] == 0.5
    assert found["two"]["forest"] == {"seeds": [], "failed": {"0": "no such file"}}


def test_a_class_without_test_pixels_is_told() -> None:
    table = accuracy_table.table([*CELLS, cell("svm", 0, 0.9, data="three")])
    text = accuracy_table.markdown(table, "")
    told = "## three\n\nNo test pixel of water: not in the averages.\n\n|"
    assert told in text
    assert text.count("No test pixel") == 1


def test_markdown() -> None:
    table = accuracy_table.table(CELLS)
    text = accuracy_table.markdown(table, "python benchmarks/accuracy.py --seeds 3")
    lines = text.splitlines()
    assert "    python benchmarks/accuracy.py --seeds 3" in lines
    assert [line for line in lines if line.startswith("## ")] == ["## one", "## two"]
    svm = "| svm | 70.00 ± 21.60 | 35.00 ± 10.80 | 17.50 ± 5.40 | 10 (4) | 3 |"
    partly = (
        "| forest | 50.00 ± 0.00 | 25.00 ± 0.00 | 12.50 ± 0.00 | 0 (4) | 1; failed: 1 |"
    )
    assert [line for line in lines if line.startswith(("| svm", "| forest"))] == [
        svm,
        partly,
        "| forest | failed | - | - | - | 0; failed: 0 |",
    ]

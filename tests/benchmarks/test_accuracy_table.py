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
    svm = "| svm | 70.00 ± 21.60 | 35.00 ± 10.80 | 17.50 ± 5.40 |  | 10 (4) | 3 |"
    partly = "| forest | 50.00 | 25.00 | 12.50 |  | 0 (4) | 1; failed: 1 |"
    assert [line for line in lines if line.startswith(("| svm", "| forest"))] == [
        svm,
        partly,
        "| forest | failed | - | - | - | - | 0; failed: 0 |",
    ]


PIXELS = [10] * 8


def rival(name: str, share: float) -> Result:
    return {
        "name": name,
        "variant": f"as {name} sees",
        "overall_accuracy": share,
        "average_accuracy": share,
        "right": [round(10 * share)] * 8,
    }


def run(row: str, seed: int, right: list[int], split: str, rivals: Result) -> Result:
    names = ("lda", "lda-sum") if row != "lda" else tuple(rivals)
    return cell(row, seed, sum(right) / 80) | {
        "split": split,
        "test_blocks": {"pixels": PIXELS, "right": right},
        "rivals": [rival(name, rivals.get(name, 0.99)) for name in names],
    }


def test_the_best_rival_is_none_of_ours_and_named() -> None:
    shares = [
        {"lda": 0.6, "lda-sum": 1.0, "rbf-svm": 0.8, "random-forest": 0.5},
        {"lda": 0.6, "lda-sum": 1.0, "rbf-svm": 0.6, "random-forest": 0.7},
    ]
    cells = [run("lda", k, [9] * 8, f"split {k}", shares[k]) for k in (0, 1)]
    cells += [run("mf2cnet", k, [9] * 8, f"split {k}", {}) for k in (0, 1)]
    best = accuracy_table.table(cells)["one"]["best rival"]
    assert best["name"] == "rbf-svm"
    assert best["overall_accuracy"]["each"] == [0.8, 0.6]
    text = accuracy_table.markdown(accuracy_table.table(cells), "")
    assert (
        "| best rival: rbf-svm | 70.00 ± 10.00 | 70.00 ± 10.00 |  |  |  | 2 |" in text
    )
    assert "rbf-svm sees: as rbf-svm sees." in text


def test_differences_of_drawn_splits_are_paired_by_draw() -> None:
    rivals = [0.5, 0.6, 0.7]
    cells = [
        run("lda", k, [9] * 8, f"{k}", {"lda": 0.1, "lda-sum": 1, "svm": share})
        for k, share in enumerate(rivals)
    ]
    ours = [[6] * 8, [8] * 8, [8] * 8]  # 0.1, 0.2 and 0.1 better
    cells += [run("s2vnet", k, right, f"{k}", {}) for k, right in enumerate(ours)]
    found = accuracy_table.table(cells)["one"]["s2vnet"]["difference"]
    assert found["mean"] == pytest.approx(0.4 / 3)
    low, high = found["interval"]
    # t of 2 degrees of freedom is 4.303, the standard error 0.1 / 3.
    assert (low, high) == pytest.approx(
        (0.4 / 3 - 0.14342, 0.4 / 3 + 0.14342), abs=1e-4
    )


def test_differences_on_one_given_split_are_over_its_blocks() -> None:
    """Seeds repeat the pixels, so that they tell nothing of other ground."""
    shares = {"lda": 0.1, "lda-sum": 1.0, "svm": 0.5}
    cells = [run("lda", 0, [9] * 8, "given", shares)]
    cells += [run("s2vnet", k, [6 + k] * 4 + [5] * 4, "given", {}) for k in (0, 2)]
    found = accuracy_table.table(cells)["one"]["s2vnet"]["difference"]
    assert found["mean"] == pytest.approx(0.1)
    low, high = found["interval"]
    assert 0 <= low < 0.1 < high <= 0.2


def test_confidence_is_told_of_runs_that_have_it() -> None:
    def sure(seed: int, before: float, after: float, coverage: float) -> Result:
        errors = {accuracy_table.BEFORE: before, accuracy_table.AFTER: after}
        sets = [
            {"level": 0.8, "coverage": 0.5, "mean_size": 1.0},
            {"level": 0.9, "coverage": coverage, "mean_size": 1.5 + seed},
        ]
        return cell("lda", seed, 0.9) | errors | {"sets": sets}

    cells = [*CELLS, sure(0, 0.1, 0.04, 0.95), sure(1, 0.05, 0.06, 0.89)]
    lines = accuracy_table.confidence(cells)
    expected = "| one | lda | 2 | 7.5 | 5.0 | +1.0 | 92.0 | 89.0 | 2.00 |"
    assert lines[-1] == expected
    assert len([line for line in lines if line.startswith("| one")]) == 1
    assert accuracy_table.confidence(CELLS) == []

import json
from pathlib import Path
from typing import Any

import code_digest
import common
import domain_shift
import numpy as np
import pytest
from click.testing import CliRunner


def scores(share: float) -> dict[str, float]:
    return {
        "overall_accuracy": share,
        "average_accuracy": share / 2,
        "kappa": share / 4,
        "largest_class_share": 0.3,
    }


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Replace training and evaluation; returns what was asked for."""
    calls: list[tuple[str, int]] = []

    def measure(
        scene: str, variant: str, seed: int, epochs: int | None, shifts: dict[str, Any]
    ) -> dict[str, Any]:
        calls.append((variant, seed))
        share = 0.8 if variant == "plain" else 0.9
        return {
            "updates": 60,
            "seconds": 1.0,
            "unshifted": scores(share),
            "shifted": [
                {"draw": d, "strength": s, **scores(share - 0.1 * s - 0.01 * d)}
                for d in shifts["draws"]
                for s in shifts["strengths"]
            ],
            "families": {"noise": scores(share), "blur": scores(share - 0.2)},
        }

    monkeypatch.setattr(domain_shift, "measure", measure)
    return calls


def run(*arguments: str) -> str:
    done = CliRunner().invoke(domain_shift.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_finished_runs_are_kept(
    measured: list[tuple[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "r.jsonl")
    run("--variant", "plain", "--seeds", "0,1", "-o", path)
    assert measured == [("plain", 0), ("plain", 1)]
    variants = ("--variant", "plain", "--variant", "generators")
    table = run(*variants, "--seeds", "0,1,2", "-o", path)
    assert measured[2:] == [("generators", 0), ("generators", 1), ("plain", 2),
                            ("generators", 2)]  # fmt: skip
    assert len(Path(path).read_text().splitlines()) == 6
    assert "salinas_a, plain (3, 60)" in table
    run(*variants, "--seeds", "0", "--epochs", "3", "-o", path)
    assert len(measured) == 8  # other epochs are other runs
    run(*variants, "--seeds", "0", "--first-draw", "100", "-o", path)
    assert len(measured) == 10
    monkeypatch.setattr(code_digest, "of_training", lambda _: {"sha256": "another"})
    table = run("--variant", "plain", "--seeds", "0", "-o", path)
    assert len(measured) == 11  # runs of other code do not count
    assert "salinas_a, plain (1, 60)" in table


def test_table_averages_over_draws_and_seeds(
    measured: list[tuple[str, int]], tmp_path: Path
) -> None:
    table = run("--variant", "plain", "--seeds", "0,1", "-o", str(tmp_path / "r"))
    (line,) = [x for x in table.splitlines() if x.startswith("| salinas_a, plain")]
    cells = [c.strip() for c in line.strip("|").split("|")]
    # Draws 0..4 lose 0.02 on average.
    assert cells[1:] == [
        "80.0 40.0 20.0", "68.0 34.0 17.0", "58.0 29.0 14.5", "48.0 24.0 12.0",
        "58.0 29.0 14.5", "70.0 35.0 17.5", "",
    ]  # fmt: skip
    assert "| salinas_a, largest class everywhere | 30.0 |" in table


def test_table_compares_variants_with_the_method_seed_by_seed() -> None:
    def case(variant: str, seed: int, accuracy: float) -> dict[str, Any]:
        shares = dict.fromkeys((*common.SHARES, "largest_class_share"), accuracy)
        row = {"scene": "salinas_a", "variant": variant, "seed": seed, "updates": 9}
        shifted = [shares | {"strength": 1}] * 2
        return row | {"unshifted": shares, "shifted": shifted, "families": {}}

    runs = [case("s2amsnet", 0, 0.8), case("s2amsnet", 1, 0.7), case("plain", 1, 0.4)]
    assert not any("±" in line for line in domain_shift.mean_lines(runs))
    runs.append(case("plain", 0, 0.6))  # gaps of 20 and of 30
    (line,) = [x for x in domain_shift.mean_lines(runs) if "±" in x]
    assert line.startswith("| salinas_a, plain (2, 9) ")
    assert line.endswith("| 25.0 ± 5.0 |")


def test_quick_is_one_seed(measured: list[tuple[str, int]], tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    run("--quick", "-o", str(path))
    assert [seed for _, seed in measured] == [0] * len(domain_shift.VARIANTS)
    first = json.loads(path.read_text().splitlines()[0])
    assert first["epochs"] == 2
    assert len(first["shifted"]) == 2


def test_fitted_moments_have_rows_of_their_own() -> None:
    shares = dict.fromkeys((*common.SHARES, "largest_class_share"), 0.4)
    better = dict.fromkeys((*common.SHARES, "largest_class_share"), 0.9)
    row = {"scene": "salinas_a", "variant": "plain", "seed": 0, "updates": 9}
    results = {"unshifted": shares, "shifted": [], "families": {"noise": shares}}
    adapted = {"unshifted": better, "shifted": [], "families": {"noise": better}}
    lines = list(domain_shift.mean_lines([row | results | {"adapted": adapted}]))
    (line,) = [x for x in lines if "plain, moments fitted" in x]
    assert "| 90.0 90.0 90.0 |" in line


def test_fitting_moments_takes_back_gain_and_offset() -> None:
    source = np.random.default_rng(0).uniform(1, 9, (3, 20, 20)).astype(np.float32)
    valid = np.ones((20, 20), dtype=bool)
    valid[:3] = False
    fitted = domain_shift.fitted(2 * source + 5, source, valid)
    assert fitted == pytest.approx(source, abs=1e-4)

import json
from pathlib import Path

import common
import pytest
import tomli_w
import training_time
from click.testing import CliRunner

from hsi_train import methods, recipe

ROUNDS = [[3.0, 0.6], [2.0, 0.8], [2.0, 0.7]]


def test_every_method_has_a_recipe_for_both_scenes() -> None:
    for name in training_time.RECIPES:
        method = name.partition("-")[2]
        assert recipe.parse(recipe.load(name)).method == method
    assert len(training_time.RECIPES) == 2 * len(methods.names())


@pytest.mark.parametrize(
    ("accuracy", "seconds"), [(0.5, 3), (0.7, 5), (0.8, 5), (0.9, None)]
)
def test_rounds_count_until_an_accuracy_is_reached(
    accuracy: float, seconds: float | None
) -> None:
    assert training_time.seconds_until(ROUNDS, accuracy) == seconds


def test_the_best_of_before_is_what_must_be_reached() -> None:
    now = {"seconds": 9.0, "rounds": [[1.0, 0.7], [1.0, 0.85]]}
    before = {"seconds": 8.0, "rounds": ROUNDS}
    assert training_time.compared(now, before) == {
        "seconds": 9.0,
        "before: seconds": 8.0,
        "reached: validation accuracy": 0.8,
        "reached: seconds": 2.0,
        "reached: seconds before": 5.0,
    }
    slower = training_time.compared({"rounds": [[1.0, 0.7]]}, before)
    assert slower["reached: seconds"] == "never"
    assert training_time.compared(now, None) == {"seconds": 9.0}
    without = training_time.compared({"rounds": []}, before)
    assert "reached: seconds" not in without


def test_a_training_is_timed_once(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = recipe.load(str(scene)) | {
        "split": {"mode": "per-class", "samples_per_class": 5},
        "fit": {"epochs": 1},
    }
    tiny = tmp_path / "tiny.toml"
    tiny.write_text(tomli_w.dumps(content))
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    command = ["--recipe", str(tiny), "--folder", str(tmp_path / "runs")]
    command += ["--old", str(training_time.ROOT)]
    for _ in range(2):
        done = CliRunner().invoke(training_time.main, command, catch_exceptions=False)
        assert done.exit_code == 0
    assert not done.output.startswith("{'recipe'")
    written = json.loads((tmp_path / "results" / "training_time.json").read_text())
    figures = written[str(tiny)]
    assert figures["seconds"] > 0
    assert figures["processor_seconds"] > 0
    assert figures["overall_accuracy"] == figures["before: overall_accuracy"]

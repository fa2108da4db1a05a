import json
from pathlib import Path

import common
import pytest
import tomli_w
import training_time
from click.testing import CliRunner

from hsi_train import methods, recipe


def test_every_method_has_a_recipe_for_both_scenes() -> None:
    for name in training_time.RECIPES:
        method = name.partition("-")[2]
        assert recipe.parse(recipe.load(name)).method == method
    assert len(training_time.RECIPES) == 2 * len(methods.names())


def test_a_training_is_timed(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = recipe.load(str(scene)) | {
        "split": {"mode": "per-class", "samples_per_class": 5},
        "fit": {"epochs": 1},
    }
    tiny = tmp_path / "tiny.toml"
    tiny.write_text(tomli_w.dumps(content))
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    done = CliRunner().invoke(
        training_time.main, ["--recipe", str(tiny)], catch_exceptions=False
    )
    assert done.exit_code == 0
    written = json.loads((tmp_path / "results" / "training_time.json").read_text())
    found = written[str(tiny)]
    assert found["seconds"] > 0
    assert found["processor_seconds"] > 0
    assert 0 <= found["overall_accuracy"] <= 1

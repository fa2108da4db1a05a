"""A training on several processes is that on one, up to the order of sums."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trainings
from trainings import Training

from hsi_runtime.errors import RecipeError
from hsi_train import recipe
from hsi_train.several.dispatch import train
from hsi_train.several.seeds import train_seeds

SMALL = {"mf2cnet": {"features": 4, "hidden": 4}}
STEPS_OF_EPOCH = 13
METHODS = pytest.mark.parametrize(
    "method",
    [
        "mf2cnet",
        *(
            pytest.param(name, marks=pytest.mark.soak)
            for name in ("s2amsnet", "s2former", "s2vnet")
        ),
    ],
)


def recipe_of(example: Any, method: str, **changes: Any) -> dict[str, Any]:
    """Return a recipe of steps of 5 windows: 2 and 3 of them."""
    return {
        "method": method,
        "seed": 3,
        "data": {"scenes": [str(example.scene)], "labels": [str(example.labels)]},
        "split": {"mode": "per-class", "samples_per_class": 21},
        "fit": {"epochs": 4, "batch": 5, "outputs": 1},
        "options": SMALL.get(method, {}),
        "rivals": "none",
    } | changes


def cases(example: Any, folder: Path, epochs: int) -> dict[str, Training]:
    """Return trainings of all methods, and of what they have beside their defaults.

    In single precision the networks with batch norms leave each other within ten steps:
    AdamW enlarges the rounding of gradients that are zero.
    """
    fit = {"epochs": epochs, "batch": 5, "outputs": 1}
    unlabelled = {"scenes": [str(example.scene)], "steps": 12, "batch": 3, "outputs": 6}
    recipes = {
        "mf2cnet": recipe_of(example, "mf2cnet", fit=fit),
        "s2vnet": recipe_of(example, "s2vnet", fit=fit),
        "s2former": recipe_of(example, "s2former", fit=fit),
        "s2amsnet": recipe_of(
            example, "s2amsnet", options={"spectral_randomisation": True}, fit=fit
        ),
        "game": recipe_of(example, "s2amsnet", options={"generators": True}, fit=fit),
        "distilled": recipe_of(
            example, "s2former", options={"daft": True}, fit=fit, pretrain=unlabelled
        ),
    }
    return {
        name: Training(content, str(folder / name), content["method"] != "s2former")
        for name, content in recipes.items()
    }


def losses_of(training: Training) -> list[float]:
    losses: list[float] = json.loads(Path(training.run + ".json").read_text())[0]
    return losses


@pytest.mark.parametrize("epochs", [1, pytest.param(4, marks=pytest.mark.soak)])
def test_losses_are_those_of_one_process(
    epochs: int, example: Any, tmp_path: Path, torchrun: Any
) -> None:
    alone = cases(example, tmp_path / "alone", epochs)
    dealt = cases(example, tmp_path / "dealt", epochs)
    for folder in ("alone", "dealt"):
        (tmp_path / folder).mkdir()
    trainings.run(list(alone.values()))
    done = torchrun(2, list(dealt.values()))
    assert done.returncode == 0, done.stderr
    for name in alone:
        expected, found = losses_of(alone[name]), losses_of(dealt[name])
        assert len(expected) >= STEPS_OF_EPOCH * epochs
        assert found == pytest.approx(expected, abs=1e-5), name


@METHODS
def test_a_repetition_is_equal_to_the_last_bit(
    method: str, example: Any, tmp_path: Path, torchrun: Any
) -> None:
    content = recipe_of(example, method)
    runs = [Training(content, str(tmp_path / name)) for name in ("first", "again")]
    done = torchrun(2, runs)
    assert done.returncode == 0, done.stderr
    first, again = (Path(r.run, "checkpoint.safetensors").read_bytes() for r in runs)
    assert first == again


@METHODS
def test_a_killed_process_ends_all_and_any_number_goes_on(
    method: str, example: Any, tmp_path: Path, torchrun: Any
) -> None:
    content = recipe_of(example, method)
    killed = Training(content, str(tmp_path / "run"), die_at=30)
    done = torchrun(2, [killed])
    assert done.returncode != 0
    assert "Signal 9 (SIGKILL)" in done.stderr
    before = history(killed)
    assert 1 <= len(before) < 4
    for processes in (3, 2, 1):
        run = tmp_path / f"by_{processes}"
        shutil.copytree(killed.run, run)
        resumed = Training(content, str(run), resume=True)
        if processes == 1:
            trainings.run([resumed])
        else:
            done = torchrun(processes, [resumed])
            assert done.returncode == 0, done.stderr
        after = history(resumed)
        assert len(after) == 4
        assert after[: len(before)] == before
        assert (run / "metrics.json").is_file()


def history(training: Training) -> list[dict[str, str]]:
    with Path(training.run, "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_mistake_ends_all_and_is_told_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "hsi_train", "mf2cnet"]
    command += ["--scene", "absent.tif", "--labels", "absent.tif", "-o", "run"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=100
    )
    assert done.returncode != 0
    assert done.stderr.count("Error: There is no file absent.tif") == 1, done.stderr
    assert "exitcode  : 3" in done.stderr
    assert not (tmp_path / "run").exists()


def test_several_runs_are_no_job_for_several_processes(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    settings = recipe.parse(recipe_of(example, "mf2cnet"))
    with pytest.raises(RecipeError, match=r"2 processes .* --seeds makes several"):
        train_seeds(settings, tmp_path / "seeds", 2, "cpu")
    members = recipe.parse(recipe_of(example, "mf2cnet", members=2))
    with pytest.raises(RecipeError, match="--members makes several"):
        train(members, tmp_path / "members", "cpu")

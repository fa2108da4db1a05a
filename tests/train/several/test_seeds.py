import json
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hsi_runtime.errors import OutputError, RecipeError, ResourceError
from hsi_train import recipe, training
from hsi_train.fitting.progress import Watch
from hsi_train.recipe import Recipe
from hsi_train.run_folder import checkpoint
from hsi_train.several import seeds

Cli = Callable[..., Any]


def asked(example: Any, **changes: Any) -> Recipe:
    content: dict[str, Any] = {
        "method": "mf2cnet",
        "seed": 3,
        "data": {"scenes": [str(example.scene)], "labels": [str(example.labels)]},
        "split": {"mode": "per-class", "samples_per_class": 6},
        "fit": {"epochs": 1, "batch": 12},
        "options": {"features": 4, "hidden": 4},
    }
    return recipe.parse(content | changes)


def metrics_of(run: Path, seed: int) -> dict[str, Any]:
    text = (run / f"seed-{seed}" / "metrics.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.fixture(scope="module")
def finished(
    example: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    run = tmp_path_factory.mktemp("seeds") / "runs"
    return run, seeds.train_seeds(asked(example), run, 3, "cpu")


def test_each_seed_is_an_ordinary_run(finished: tuple[Path, Any], example: Any) -> None:
    run, found = finished
    assert found["seeds"] == [3, 4, 5]
    names = {"recipe.toml", "seeds.json", "report.html", "seed-3", "seed-4", "seed-5"}
    assert {p.name for p in run.iterdir()} == names
    assert [metrics_of(run, k)["seed"] for k in found["seeds"]] == [3, 4, 5]
    assert checkpoint.load(run / "seed-4").description.provenance.seed == 4


def test_summary_is_mean_and_spread(finished: tuple[Path, Any]) -> None:
    run, found = finished
    assert json.loads((run / "seeds.json").read_text()) == found
    for key in seeds.FIGURES:
        values = [metrics_of(run, k)[key] for k in (3, 4, 5)]
        assert len(set(values)) == 3
        assert found[key]["values"] == values
        assert found[key]["mean"] == pytest.approx(np.mean(values))
        assert found[key]["std"] == pytest.approx(np.std(values, ddof=1))
    first = metrics_of(run, 3)["per_class"][1]
    assert found["per_class"]["2"]["name"] == first["name"]
    assert found["per_class"]["2"]["values"][0] == first["recall"]


def test_classes_that_a_split_does_not_test() -> None:
    def result(recall: float | None) -> dict[str, Any]:
        per_class = [{"code": 7, "name": "reed", "recall": recall}]
        return dict.fromkeys(seeds.FIGURES, 0.5) | {"per_class": per_class}

    found = seeds.summary([0, 1, 2], [result(0.4), result(None), result(0.6)])
    reed = found["per_class"]["7"]
    assert (reed["mean"], reed["values"]) == (0.5, [0.4, None, 0.6])
    none = seeds.summary([0, 1], [result(None), result(None)])["per_class"]["7"]
    assert (none["mean"], none["std"]) == (None, None)
    lines = seeds.table(found).splitlines()
    assert "recall of reed    0.5000 0.1414  0.4000 - 0.6000" in lines
    assert "kappa             0.5000 0.0000  0.5000 0.5000 0.5000" in lines


def test_resume_trains_only_what_is_missing(
    finished: tuple[Path, Any],
    example: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "runs"
    stopped: list[int] = []

    def stop(*_: Any) -> None:
        stopped.append(1)
        if len(stopped) == 3:  # two steps a seed: in the second
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seeds.train_seeds(asked(example), run, 3, "cpu", watch=Watch(step=stop))
    with pytest.raises(OutputError, match="--resume goes on"):
        seeds.train_seeds(asked(example), run, 3, "cpu")
    other = asked(example, fit={"epochs": 2})
    with pytest.raises(RecipeError, match=r"recipe\.toml differs"):
        seeds.train_seeds(other, run, 3, "cpu", resume=True)
    trained: list[tuple[int, bool]] = []
    train = training.train

    def watched(wanted: Recipe, folder: Path, *rest: Any) -> dict[str, Any]:
        trained.append((wanted.seed, rest[1]))
        return train(wanted, folder, *rest)

    monkeypatch.setattr(training, "train", watched)
    found = seeds.train_seeds(asked(example), run, 3, "cpu", resume=True)
    assert trained == [(4, True), (5, False)]
    assert found["kappa"] == finished[1]["kappa"]


def test_overwrite_replaces_runs_and_nothing_else(example: Any, tmp_path: Path) -> None:
    run = tmp_path / "runs"
    with pytest.raises(OutputError, match="no runs of --seeds to resume"):
        seeds.train_seeds(asked(example), run, 2, "cpu", resume=True)
    seeds.train_seeds(asked(example), run, 2, "cpu")
    (run / "seed-3" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt, which --overwrite"):
        seeds.train_seeds(asked(example), run, 2, "cpu", overwrite=True)
    (run / "seed-3" / "notes.txt").rename(run / "notes.txt")
    with pytest.raises(OutputError, match=r"notes\.txt, which --overwrite"):
        seeds.train_seeds(asked(example), run, 2, "cpu", overwrite=True)
    with pytest.raises(OutputError, match="which --overwrite would delete"):
        training.train(asked(example), run, "cpu", overwrite=True)
    (run / "notes.txt").unlink()
    again = seeds.train_seeds(asked(example, seed=9), run, 2, "cpu", overwrite=True)
    assert again["seeds"] == [9, 10]
    assert not (run / "seed-3").exists()
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OutputError, match="is a file"):
        seeds.train_seeds(asked(example), file, 2, "cpu")


def test_command(cli: Cli, example: Any, tmp_path: Path) -> None:
    run = tmp_path / "runs"
    arguments = (
        *("mf2cnet", "--scene", example.scene, "--labels", example.labels, "-o", run),
        *("--samples-per-class", "6", "--epochs", "1", "--device", "cpu"),
        *("--set", "options.features=4", "--set", "options.hidden=4"),
    )
    done = cli(*arguments, "--seeds", "2")
    assert (done.code, done.out) == (0, f"{run}\n"), done.err
    assert "2 seeds: mean, standard deviation, values" in done.err
    again = cli(*arguments, "--seeds", "2", "--resume", "--json")
    assert json.loads(again.out) == json.loads((run / "seeds.json").read_text())
    refused = cli(*arguments, "--seeds", "1")
    assert (refused.code, refused.out) == (2, "")


def test_workers_train_the_same_runs_at_once(
    finished: tuple[Path, Any], cli: Cli, example: Any, tmp_path: Path
) -> None:
    run = tmp_path / "runs"
    result = seeds.train_seeds(asked(example), run, 3, "cpu", workers=2)
    assert result == finished[1]
    for name in ("seed-3", "seed-5"):
        file = f"{name}/checkpoint.safetensors"
        assert (run / file).read_bytes() == (finished[0] / file).read_bytes()


@pytest.mark.parametrize("quiet", [True, False])
def test_workers_say_as_much_as_the_command(
    quiet: bool, cli: Cli, example: Any, tmp_path: Path
) -> None:
    arguments = ["--scene", example.scene, "--labels", example.labels]
    arguments += ["--samples-per-class", 6, "-o", tmp_path / "runs"]
    done = cli("lda", *arguments, "--seeds", 2, "--workers", 2, *["-q"] * quiet)
    assert done.code == 0
    assert ("warning: " in done.err) is not quiet


def test_a_killed_worker_is_told(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(Future, "result", killed)
    with pytest.raises(ResourceError, match="A worker was killed"):
        seeds.train_seeds(asked(example), tmp_path / "runs", 2, "cpu", workers=2)


def test_workers_are_refused_for_one_run(
    cli: Cli, example: Any, tmp_path: Path
) -> None:
    arguments = ("--scene", example.scene, "--labels", example.labels)
    done = cli("mf2cnet", *arguments, "--workers", 2, "-o", tmp_path / "run")
    assert done.code == 2
    assert "workers: several runs are trained at once, and this is one" in done.err
    assert not (tmp_path / "run").exists()

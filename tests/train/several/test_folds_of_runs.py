import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from hsi_runtime.errors import ModelFileError, OutputError, RecipeError
from hsi_train import recipe, training
from hsi_train.data.roles import Role
from hsi_train.fitting.progress import Watch
from hsi_train.recipe import Recipe
from hsi_train.run_folder import checkpoint
from hsi_train.several import dispatch, folds

Cli = Callable[..., Any]
FOLDS = 3


def asked(example: Any, **changes: Any) -> Recipe:
    content: dict[str, Any] = {
        "method": "mf2cnet",
        "data": {"scenes": [str(example.scene)], "labels": [str(example.labels)]},
        "split": {"mode": "folds", "folds": FOLDS},
        "fit": {"epochs": 1},
        "options": {"features": 4, "hidden": 4},
    }
    return recipe.parse(content | changes)


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def finished(
    example: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    run = tmp_path_factory.mktemp("folds") / "runs"
    return run, dispatch.train(asked(example), run, "cpu")


def test_folds_are_runs_and_the_model_is_trained_on_all(
    finished: tuple[Path, Any],
) -> None:
    run, told = finished
    names = {"recipe.toml", "folds.json", "report.html", "model"}
    assert {p.name for p in run.iterdir()} == names | {"fold-1", "fold-2", "fold-3"}
    assert read(run / "folds.json") == told
    taken = {"rounds", "gate", "unjudged", "balance", "temperature"}
    assert {*told["model"]} == taken
    tested = []
    for number in range(1, FOLDS + 1):
        with rasterio.open(run / f"fold-{number}" / "split.tif") as file:
            tested.append(file.read(1) == Role.TEST)
    assert (np.sum(np.stack(tested), axis=0) == 1).all()
    with rasterio.open(run / "model" / "split.tif") as file:
        assert (file.read(1) == Role.TRAIN).all()
    assert checkpoint.load(run).description.provenance.counts["train"] == 1600


def test_the_model_s_accuracy_is_that_of_the_folds(finished: tuple[Path, Any]) -> None:
    run, told = finished
    model = read(run / "model" / "metrics.json")
    each = [read(run / f"fold-{k}" / "metrics.json") for k in range(1, FOLDS + 1)]
    pooled = np.sum([one["confusion"] for one in each], axis=0)
    assert model["confusion"] == pooled.tolist()
    assert model["overall_accuracy"] == np.trace(pooled) / pooled.sum()
    assert model["counts"]["test"] == 0
    assert any("The accuracy is that of 3 folds" in w for w in model["warnings"])
    assert not any("flattered" in w for w in model["warnings"])
    values = [one["overall_accuracy"] for one in each]
    assert told["overall_accuracy"]["values"] == values
    low, high = told["overall_accuracy"]["interval"]
    mean = told["overall_accuracy"]["mean"]
    assert mean == pytest.approx(np.mean(values))
    assert low < mean < high
    rival = told["rivals"][0]
    gains = [one["rivals"][0]["difference"] for one in each]
    assert (rival["name"], rival["difference"]["values"]) == ("lda", gains)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert 'href="fold-2/report.html"' in page
    assert "mean of 3 folds" in page
    assert "lda: gain of the network" in folds.table(told)


def test_an_interval_ends_where_shares_do() -> None:
    found = folds.mean_and_interval([0.1, 0.9, 1.0], 0.0)
    assert found["interval"] == [0.0, 1.0]
    low, high = folds.mean_and_interval([0.1, 0.2, 0.0])["interval"]
    assert low == pytest.approx(0.2 - high)
    assert low < 0, "a difference may be negative where no fold's is"


def test_what_the_folds_found_is_their_median() -> None:
    def result(
        rounds: int, gate: float, stop: str = "learned", unjudged: Any = ()
    ) -> dict[str, Any]:
        training = {"rounds": rounds, "gate": gate, "stop_reason": stop}
        return {
            "training": training | {"balance": gate / 2, "unjudged": unjudged},
            "calibration": {"temperature": gate + 1} if gate else None,
            "confusion": [[1, 0], [0, 1]],
        }

    some: dict[str, Any] = {"unjudged": [2, 4]}
    three = [result(5, 0.0, **some), result(9, 1.0, **some), result(8, 0.5)]
    three[2]["training"]["unjudged"] = [4, 1]
    found = folds.evidence(three, {})
    assert (found.rounds, found.gate, found.temperature) == (8, 0.5, 1.5)
    assert found.balance == 0.25
    assert found.unjudged == (2, 4)
    assert found.matrix.tolist() == [[3, 0], [0, 3]]
    late = [result(5, 1.0, "budget"), result(5, 1.0, "budget"), result(5, 1.0)]
    assert folds.evidence(late, {}).rounds is None
    quick = [result(1, 1.0, "quick")] * 2
    assert folds.evidence(quick, {}).rounds is None


def test_resume_trains_only_what_is_missing(
    finished: tuple[Path, Any], example: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run = tmp_path / "runs"
    begun: list[str] = []

    def stop(_: Any) -> None:
        begun.append("round")
        if len(begun) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dispatch.train(asked(example), run, "cpu", watch=Watch(epoch=stop))
    with pytest.raises(OutputError, match="--resume goes on"):
        dispatch.train(asked(example), run, "cpu")
    other = asked(example, split={"mode": "folds", "folds": 2})
    with pytest.raises(RecipeError, match=r"recipe\.toml differs"):
        dispatch.train(other, run, "cpu", resume=True)
    trained: list[str] = []
    train = training.train

    def watched(wanted: Recipe, folder: Path, *rest: Any) -> dict[str, Any]:
        trained.append(folder.name)
        return train(wanted, folder, *rest)

    monkeypatch.setattr(training, "train", watched)
    told = dispatch.train(asked(example), run, "cpu", resume=True)
    assert trained == ["fold-2", "fold-3", "model"]
    assert told == finished[1]


def test_what_is_several_runs_is_no_single_one(example: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"several runs already.*--seeds"):
        training.train(asked(example), tmp_path / "a", "cpu")
    alone = asked(example, split={"mode": "all"})
    with pytest.raises(RecipeError, match=r"'all' leaves no test pixel"):
        training.train(alone, tmp_path / "b", "cpu")
    with pytest.raises(RecipeError, match="fold is 4 of 3 folds"):
        asked(example, split={"mode": "folds", "folds": 3, "fold": 4})
    with pytest.raises(ModelFileError, match="There is no checkpoint"):
        checkpoint.load(tmp_path)


def test_command(cli: Cli, example: Any, tmp_path: Path) -> None:
    run = tmp_path / "runs"
    arguments = (
        *("lda", "--scene", example.scene, "--labels", example.labels, "-o", run),
        *("--folds", "2", "--device", "cpu"),
    )
    done = cli(*arguments)
    assert (done.code, done.out) == (0, f"{run}\n"), done.err
    assert "2 folds: mean, 95 % interval, values" in done.err
    again = cli(*arguments, "--resume", "--json")
    assert json.loads(again.out) == read(run / "folds.json")
    for more in (("--seeds", "2"), ("--members", "2"), ("--train-fraction", "0.5")):
        refused = cli(*arguments, *more, "--overwrite")
        assert (refused.code, refused.out) == (2, "")
        assert "exclude each other" in refused.err.replace("\n", " ")

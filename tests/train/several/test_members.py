import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hsi_runtime.model.model_file import PROBABILITIES
from hsi_train import recipe, training
from hsi_train.fitting.progress import Watch
from hsi_train.recipe import Recipe, training_seed
from hsi_train.run_folder import checkpoint
from hsi_train.run_folder.ensemble import Ensemble
from hsi_train.several import dispatch, members

Cli = Callable[..., Any]


def asked(example: Any, **changes: Any) -> Recipe:
    content: dict[str, Any] = {
        "method": "mf2cnet",
        "members": 2,
        "data": {"scenes": [str(example.scene)], "labels": [str(example.labels)]},
        "split": {"mode": "per-class", "samples_per_class": 6},
        "fit": {"epochs": 1, "batch": 12, "linear_path": False},
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
    run = tmp_path_factory.mktemp("members") / "runs"
    return run, dispatch.train(asked(example), run, "cpu")


def test_members_share_the_split_and_nothing_else(finished: tuple[Path, Any]) -> None:
    run, told = finished
    names = {"recipe.toml", "members.json", "model", "member-1", "member-2"}
    assert {p.name for p in run.iterdir()} == names
    splits = [(run / n / "split.tif").read_bytes() for n in ("member-1", "member-2")]
    assert splits[0] == splits[1] == (run / "model" / "split.tif").read_bytes()
    one, other = (
        checkpoint.load(run / n).method.state_dict() for n in ("member-1", "member-2")
    )
    assert any(not torch.equal(one[k], other[k]) for k in one)
    assert told["model"]["kappa"] == read(run / "model" / "metrics.json")["kappa"]
    assert len(told["overall_accuracy"]["values"]) == 2
    assert "2 members as one model" in members.table(told)


def test_the_model_averages_probabilities(finished: tuple[Path, Any]) -> None:
    run, _ = finished
    joined = checkpoint.load(run)
    assert isinstance(joined.method, Ensemble)
    assert joined.description.members == 2
    cube = torch.from_numpy(joined.sample.astype(np.float32))[None]
    index = joined.method.outputs.index(PROBABILITIES)
    with torch.inference_mode():
        each = [
            checkpoint.load(run / name).method.inference_graph()(cube)[index]
            for name in ("member-1", "member-2")
        ]
        for graph in (joined.method.inference_graph(), joined.method.folded_graph()):
            mean = graph.eval()(cube)[index]
            torch.testing.assert_close(mean, (each[0] + each[1]) / 2)
    model = read(run / "model" / "metrics.json")
    one = read(run / "member-1" / "metrics.json")
    assert model["parameters"] == 2 * one["parameters"]
    assert model["training"]["steps"] == 2 * one["training"]["steps"]


def test_first_member_is_the_run_without_members(
    finished: tuple[Path, Any], example: Any, tmp_path: Path
) -> None:
    training.train(asked(example, members=1), tmp_path / "run", "cpu")
    alone = checkpoint.load(tmp_path / "run").method.state_dict()
    member = checkpoint.load(finished[0] / "member-1").method.state_dict()
    assert all(torch.equal(alone[k], member[k]) for k in alone)
    seeds = {training_seed(asked(example, members=1, member=k)) for k in range(1, 9)}
    assert len(seeds) == 8


def test_resume_trains_only_what_is_missing(
    finished: tuple[Path, Any], example: Any, tmp_path: Path
) -> None:
    run = tmp_path / "runs"
    rounds: list[int] = []

    def stop(_: Any) -> None:
        rounds.append(1)
        if len(rounds) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dispatch.train(asked(example), run, "cpu", watch=Watch(epoch=stop))
    assert dispatch.train(asked(example), run, "cpu", resume=True) == finished[1]


def test_command(cli: Cli, example: Any, tmp_path: Path) -> None:
    run = tmp_path / "runs"
    arguments = (
        *("lda", "--scene", example.scene, "--labels", example.labels, "-o", run),
        *("--members", "2", "--device", "cpu"),
    )
    done = cli(*arguments)
    assert (done.code, done.out) == (0, f"{run}\n"), done.err
    assert "2 members as one model, and each of them" in done.err
    again = cli(*arguments, "--overwrite", "--json")
    assert json.loads(again.out) == read(run / "members.json")

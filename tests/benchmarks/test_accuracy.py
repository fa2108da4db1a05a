import subprocess
import sys
from pathlib import Path
from typing import Any

import accuracy
import accuracy_data
import baselines
import common
import numpy as np
import pytest
import rasterio
from accuracy import Cell, Result
from accuracy_data import DataSet, Division

from hsi_runtime.errors import RecipeError
from hsi_train import recipe
from hsi_train.methods import names
from hsi_train.training import train

pytestmark = pytest.mark.filterwarnings(
    "ignore::rasterio.errors.NotGeoreferencedWarning"
)

DIVISION = Division({"scenes": ["a"], "labels": ["b"]}, {"mode": "disjoint"}, "1234")


@pytest.fixture(autouse=True)
def tiny(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = DataSet(str(scene), accuracy_data.per_class(5))
    monkeypatch.setitem(accuracy_data.DATA_SETS, "tiny", small)
    alone = DataSet(str(scene), accuracy_data.per_class(1))
    monkeypatch.setitem(accuracy_data.DATA_SETS, "alone", alone)


def result_of(accuracy: float) -> Result:
    return {
        "overall_accuracy": accuracy,
        "average_accuracy": accuracy,
        "kappa": accuracy,
        "seconds": 2.0,
        "cpu_seconds": 1.0,
        "counts": {"train": 3, "test": 4},
        "per_class": [{"name": "grass", "recall": accuracy}],
    }


class Trainer:
    """Stands for the training: counts what it is asked for."""

    def __init__(self, stop_at: int | None = None, fail: tuple[int, ...] = ()) -> None:
        self.asked: list[tuple[str, int]] = []
        self._stop_at, self._fail = stop_at, fail

    def __call__(self, cell: Cell) -> Result:
        if len(self.asked) == self._stop_at:
            raise KeyboardInterrupt
        self.asked.append((cell.row, cell.seed))
        if cell.seed in self._fail:
            raise RuntimeError("no memory")
        return result_of(0.5 + cell.seed / 10)


def cells(*rows: str, seeds: int = 3) -> list[Cell]:
    return [
        accuracy.make_cell("tiny", row, seed, DIVISION)
        for row in rows
        for seed in range(seeds)
    ]


def test_an_interrupted_table_goes_on_without_repeating(tmp_path: Path) -> None:
    path, wanted = tmp_path / "cells.jsonl", cells("svm", "mf2cnet")
    first = Trainer(stop_at=4)
    with pytest.raises(KeyboardInterrupt):
        accuracy.run_cells(wanted, path, first)
    second = Trainer()
    results = accuracy.run_cells(wanted, path, second)
    assert first.asked + second.asked == [(c.row, c.seed) for c in wanted]
    assert [(r["row"], r["seed"]) for r in results] == first.asked + second.asked
    third = Trainer()
    assert accuracy.run_cells(wanted, path, third) == results
    assert third.asked == []


def test_a_cell_of_other_code_runs_again_and_takes_its_place(tmp_path: Path) -> None:
    path, wanted = tmp_path / "cells.jsonl", cells("svm")
    accuracy.run_cells(wanted, path, Trainer())
    changed = wanted[1]._replace(key="of other code")
    again = Trainer()
    (result,) = accuracy.run_cells([changed], path, again)
    assert again.asked == [("svm", 1)]
    first, last, new = common.read_lines(path)
    assert (first["key"], last["key"]) == (wanted[0].key, wanted[2].key)
    assert new == result


def test_a_failed_cell_is_told_and_tried_again(tmp_path: Path) -> None:
    path, wanted = tmp_path / "cells.jsonl", cells("svm")
    results = accuracy.run_cells(wanted, path, Trainer(fail=(1,)))
    assert [r.get("error") for r in results] == [None, "no memory", None]
    again = Trainer()
    results = accuracy.run_cells(wanted, path, again)
    assert again.asked == [("svm", 1)]
    assert not any("error" in r for r in results)


def key(row: str = "mf2cnet", seed: int = 0, division: Division = DIVISION) -> str:
    return accuracy.make_cell("tiny", row, seed, division).key


def test_whatever_decides_the_result_changes_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = {key()}
    found.add(key("svm"))
    found.add(key("mf2cnet_stride_2"))
    found.add(key(seed=1))
    found.add(key(division=DIVISION._replace(digest="5678")))
    found.add(key(division=DIVISION._replace(data={"scenes": ["c"], "labels": ["b"]})))
    table = {"mf2cnet_stride_2": {"method": "mf2cnet", "fit": {"epochs": 3}}}
    monkeypatch.setattr(accuracy, "variants", lambda: table)
    found.add(key("mf2cnet_stride_2"))
    monkeypatch.setattr(accuracy, "code_of", lambda name: {"sha256": "other code"})
    found.add(key())
    assert len(found) == 8


def test_where_the_split_raster_lies_does_not_change_the_key() -> None:
    moved = DIVISION._replace(split={"mode": "file", "files": ["elsewhere.tif"]})
    assert key(division=moved) == key()


def test_methods_variants_and_baselines_are_rows() -> None:
    for name in names():
        assert accuracy.settings_of(name, "tiny")["method"] == name
    assert accuracy.settings_of("forest", "tiny") == {"method": "forest"}
    found = accuracy.settings_of("mf2cnet_stride_2", "salinas_a_5")
    assert found["options"] == {"spectral_stride": 2}
    assert "without" not in found


def test_every_variant_of_a_method_that_is_here_is_valid() -> None:
    for name, variant in accuracy.variants().items():
        if variant["method"] in names():
            for data in accuracy_data.DATA_SETS:
                accuracy.make_cell(data, name, 0, DIVISION)


def test_a_variant_may_leave_out_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = {"method": "mf2cnet", "fit": {"epochs": 9, "batch": 7}, "options": {}}
    monkeypatch.setattr(recipe, "shipped", lambda: ["salinas_a-mf2cnet"])
    monkeypatch.setattr(recipe, "load", lambda name: dict(shipped))
    table: dict[str, Any] = {
        "shorter": {"method": "mf2cnet", "fit": {"epochs": 2}},
        "plain": {"method": "mf2cnet", "without": ["fit"]},
    }
    monkeypatch.setattr(accuracy, "variants", lambda: table)
    own = accuracy.settings_of("mf2cnet", "salinas_a")
    assert own["fit"] == {"epochs": 9, "batch": 7}
    shorter = accuracy.settings_of("shorter", "salinas_a")
    assert shorter["fit"] == {"epochs": 2, "batch": 7}
    assert "fit" not in accuracy.settings_of("plain", "salinas_a")


def test_unknown_rows_list_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"mine": {"method": "nonesuch"}, "usable": {"method": "mf2cnet"}}
    monkeypatch.setattr(accuracy, "variants", lambda: table)
    for row, named in (("nothing", "nothing"), ("mine", "mine of method nonesuch")):
        with pytest.raises(RecipeError) as caught:
            accuracy.settings_of(row, "tiny")
        said = str(caught.value)
        assert f"baseline {named};" in said
        assert "methods: lda, mf2cnet" in said
        assert "variants: usable;" in said
        assert "baselines: svm, linear_svm, forest" in said


def test_unknown_data_sets_and_numbers_of_seeds() -> None:
    assert accuracy.seeds_of("tiny", 4) == ("tiny", range(4))
    assert accuracy.seeds_of("tiny:2", 4) == ("tiny", range(2))
    with pytest.raises(RecipeError, match=r"No data set 'mars'; there are salinas_a"):
        accuracy.seeds_of("mars", 4)
    with pytest.raises(RecipeError, match="expected NAME or NAME:SEEDS"):
        accuracy.seeds_of("tiny:all", 4)


def test_a_method_and_the_baselines_see_the_same_pixels(tmp_path: Path) -> None:
    division = accuracy_data.divisions("tiny", range(1), tmp_path / "splits")[0]
    cell = accuracy.make_cell("tiny", "mf2cnet", 0, division)
    small = {"options": {"spectral_stride": 16, "features": 4}, "fit": {"epochs": 1}}
    found = train(recipe.parse(cell.recipe | small), tmp_path / "run", "cpu")
    baseline = accuracy.make_cell("tiny", "forest", 0, division)
    said = baselines.classify(recipe.parse(baseline.recipe))
    with (
        rasterio.open(division.split["files"][0]) as ours,
        rasterio.open(tmp_path / "run/split.tif") as theirs,
    ):
        np.testing.assert_array_equal(ours.read(1), theirs.read(1))
    for role in ("train", "test"):
        assert found["counts"][role] == said["counts"][role]
    supports = [[c["support"] for c in r["per_class"]] for r in (found, said)]
    assert supports[0] == supports[1]
    assert baseline.recipe["split"] == cell.recipe["split"]


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> None:
    where = ["--output", str(folder / "out"), "--work", str(folder / "work")]
    monkeypatch.setattr(sys, "argv", ["accuracy.py", *arguments, *where])
    accuracy.main()


def test_the_whole_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    arguments = ("--methods", "forest", "svm", "--data", "alone:1")
    call(monkeypatch, tmp_path, *arguments)
    (cell,) = common.read_lines(tmp_path / "out/cells.jsonl")
    assert cell["row"] == "forest"
    assert cell["overall_accuracy"] > 0.5
    assert 0.1 < cell["cpu_seconds"] < 60
    assert cell["code"] == accuracy.code_of("forest")
    assert "| forest | " in (tmp_path / "out/accuracy.md").read_text()
    # One pixel of each class cannot be cross-validated.
    said = capfd.readouterr()
    assert "two training pixels" in said.err
    assert "| svm | failed | - | - | - | 0; failed: 0 |" in said.out

    asked: list[tuple[str, str]] = []

    def fail(cell: Cell, work: Path, threads: int) -> Result:
        asked.append((cell.data, cell.row))
        raise RuntimeError("again")

    monkeypatch.setattr(accuracy, "train", fail)
    call(monkeypatch, tmp_path, *arguments)
    assert asked == [("alone", "svm")]


def test_a_misspelt_name_stops_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"Error: There is no method.*mf3cnet"):
        call(monkeypatch, tmp_path, "--methods", "svm", "mf3cnet", "--data", "tiny")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Record the commands of children instead of running them."""
    commands: list[list[str]] = []

    def run(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        commands.append([*command, settings["env"]["OMP_NUM_THREADS"]])
        return subprocess.CompletedProcess(command, 0, "{}", "")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


@pytest.mark.parametrize(
    ("left", "option"), [("resume.pt", "--resume"), ("recipe.toml", "--overwrite")]
)
def test_an_interrupted_training_goes_on(
    left: str, option: str, tmp_path: Path, spied: list[list[str]]
) -> None:
    cell = cells("mf2cnet", seeds=1)[0]
    accuracy.train(cell, tmp_path, 1)
    run = tmp_path / "runs" / cell.name
    run.mkdir(parents=True)
    (run / left).touch()
    accuracy.train(cell, tmp_path, 2)
    fresh, repeated = spied
    assert fresh[-1] == "1"
    assert repeated == [*fresh[:-1], option, "2"]
    assert recipe.load(fresh[1]) == cell.recipe

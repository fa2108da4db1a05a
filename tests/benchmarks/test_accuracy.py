import subprocess
import sys
from pathlib import Path
from typing import Any

import accuracy
import accuracy_data
import code_digest
import common
import pytest
from accuracy import Cell, Result
from accuracy_data import DataSet, Division

from hsi_runtime.errors import RecipeError
from hsi_train import recipe
from hsi_train.methods import names

pytestmark = pytest.mark.filterwarnings(
    "ignore::rasterio.errors.NotGeoreferencedWarning"
)

DIVISION = Division({"scenes": ["a"], "labels": ["b"]}, {"mode": "disjoint"}, "1234")


@pytest.fixture(autouse=True)
def tiny(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HSI_DATA", str(scene))
    small = DataSet(str(scene), accuracy_data.per_class(5))
    monkeypatch.setitem(accuracy_data.DATA_SETS, "tiny", small)
    absent = small._replace(needs="HSI_NOWHERE")
    monkeypatch.setitem(accuracy_data.DATA_SETS, "absent", absent)


def result_of(accuracy: float) -> Result:
    return {
        "overall_accuracy": accuracy,
        "average_accuracy": accuracy,
        "kappa": accuracy,
        "seconds": 2.0,
        "cpu_seconds": 1.0,
        "counts": {"train": 3, "test": 4},
        "rivals": [],
        "test_blocks": {"pixels": [4], "right": [2]},
        "sets": [],
        "calibration": None,
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
    path, wanted = tmp_path / "cells.jsonl", cells("lda", "mf2cnet")
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
    path, wanted = tmp_path / "cells.jsonl", cells("lda")
    accuracy.run_cells(wanted, path, Trainer())
    changed = wanted[1]._replace(key="of other code")
    again = Trainer()
    (result,) = accuracy.run_cells([changed], path, again)
    assert again.asked == [("lda", 1)]
    first, last, new = common.read_lines(path)
    assert (first["key"], last["key"]) == (wanted[0].key, wanted[2].key)
    assert new == result


def test_a_failed_cell_is_told_and_tried_again(tmp_path: Path) -> None:
    path, wanted = tmp_path / "cells.jsonl", cells("lda")
    results = accuracy.run_cells(wanted, path, Trainer(fail=(1,)))
    assert [r.get("error") for r in results] == [None, "no memory", None]
    again = Trainer()
    results = accuracy.run_cells(wanted, path, again)
    assert again.asked == [("lda", 1)]
    assert not any("error" in r for r in results)


def key(row: str = "mf2cnet", seed: int = 0, division: Division = DIVISION) -> str:
    return accuracy.make_cell("tiny", row, seed, division).key


def test_whatever_decides_the_result_changes_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = {key()}
    found.add(key("lda"))
    found.add(key("mf2cnet_stride_2"))
    found.add(key(seed=1))
    found.add(key(division=DIVISION._replace(digest="5678")))
    found.add(key(division=DIVISION._replace(data={"scenes": ["c"], "labels": ["b"]})))
    table = {"mf2cnet_stride_2": {"method": "mf2cnet", "fit": {"epochs": 3}}}
    monkeypatch.setattr(accuracy, "variants", lambda: table)
    found.add(key("mf2cnet_stride_2"))
    other = {"sha256": "other code"}
    monkeypatch.setattr(code_digest, "of_training", lambda name: other)
    found.add(key())
    assert len(found) == 8


def test_where_files_lie_does_not_change_the_key() -> None:
    moved = DIVISION._replace(split={"mode": "file", "files": ["elsewhere.tif"]})
    assert key(division=moved) == key()
    data = {"scenes": ["elsewhere/a"], "labels": ["elsewhere/b"]}
    assert key(division=DIVISION._replace(data=data)) == key()


def test_methods_and_variants_are_rows_that_set_nothing_else() -> None:
    for name in names():
        rivals = "all" if name == "lda" else "cheap"
        assert accuracy.settings_of(name) == {"method": name, "rivals": rivals}
    found = accuracy.settings_of("mf2cnet_stride_2")
    assert found["options"] == {"spectral_stride": 2}


def test_every_variant_of_a_method_that_is_here_is_valid() -> None:
    for name, variant in accuracy.variants().items():
        if variant["method"] in names():
            for data in accuracy_data.DATA_SETS:
                accuracy.make_cell(data, name, 0, DIVISION)


def test_unknown_rows_list_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"mine": {"method": "nonesuch"}, "usable": {"method": "mf2cnet"}}
    monkeypatch.setattr(accuracy, "variants", lambda: table)
    for row, named in (("nothing", "nothing"), ("mine", "mine of method nonesuch")):
        with pytest.raises(RecipeError) as caught:
            accuracy.settings_of(row)
        said = str(caught.value)
        assert f"variant {named};" in said
        assert "methods: lda, mf2cnet" in said
        assert "variants: usable." in said


def test_unknown_data_sets_and_numbers_of_seeds() -> None:
    assert accuracy.seeds_of("tiny") == ("tiny", range(5))
    assert accuracy.seeds_of("salinas_a") == ("salinas_a", range(10))
    assert accuracy.seeds_of("tiny:2") == ("tiny", range(2))
    with pytest.raises(RecipeError, match=r"No data set 'mars'; there are indian_"):
        accuracy.seeds_of("mars")
    with pytest.raises(RecipeError, match="expected NAME or NAME:SEEDS"):
        accuracy.seeds_of("tiny:all")


def test_all_rivals_are_fitted_once_where_one_split_is_given(tmp_path: Path) -> None:
    drawn = accuracy.cells_of("tiny", range(3), ["lda", "mf2cnet"], tmp_path)
    assert [(c.row, c.seed) for c in drawn] == [
        (row, seed) for row in ("lda", "mf2cnet") for seed in range(3)
    ]
    assert len({c.split for c in drawn}) == 3
    given = Path(drawn[0].recipe["split"]["files"][0])
    fixed = accuracy_data.DATA_SETS["tiny"]._replace(
        split={"mode": "file", "files": [str(given)]}
    )
    accuracy_data.DATA_SETS["tiny"] = fixed
    cells = accuracy.cells_of("tiny", range(3), ["lda", "mf2cnet"], tmp_path / "again")
    assert [(c.row, c.seed) for c in cells] == [
        ("lda", 0),
        ("mf2cnet", 0),
        ("mf2cnet", 1),
        ("mf2cnet", 2),
    ]


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> None:
    where = ["--output", str(folder / "out"), "--work", str(folder / "work")]
    monkeypatch.setattr(sys, "argv", ["accuracy.py", *arguments, *where])
    accuracy.main()


def test_a_command_without_any_data_set_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="no data set is here"):
        call(monkeypatch, tmp_path, "--methods", "lda", "--data", "absent:1")
    assert "absent is left out: $HSI_NOWHERE is not set." in capfd.readouterr().err
    assert not (tmp_path / "out/accuracy.md").exists()


def test_the_whole_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    arguments = ("--methods", "lda", "--data", "tiny:1", "absent:1")
    call(monkeypatch, tmp_path, *arguments)
    (cell,) = common.read_lines(tmp_path / "out/cells.jsonl")
    assert cell["row"] == "lda"
    assert cell["overall_accuracy"] > 0.5
    assert cell["cpu_seconds"] > 0.1
    assert cell["code"] == code_digest.of_training("lda")
    names = [rival["name"] for rival in cell["rivals"]]
    assert names == ["lda", "lda-sum", "linear-svm", "rbf-svm", "random-forest"]
    assert sum(cell["test_blocks"]["pixels"]) == cell["counts"]["test"]
    told = capfd.readouterr()
    assert "absent is left out: $HSI_NOWHERE is not set." in told.err
    assert "| lda | " in told.out
    assert "| best rival: " in told.out

    asked: list[tuple[str, str]] = []

    def fail(cell: Cell, work: Path, threads: int) -> Result:
        asked.append((cell.data, cell.row))
        raise RuntimeError("again")

    monkeypatch.setattr(accuracy, "train", fail)
    call(monkeypatch, tmp_path, "--methods", "lda", "mf2cnet", "--data", "tiny:1")
    assert asked == [("tiny", "mf2cnet")]
    told = capfd.readouterr()
    assert "| mf2cnet | failed | - | - | - | - | 0; failed: 0 |" in told.out
    assert "| lda | " in told.out


def test_a_misspelt_name_stops_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"Error: There is no method.*mf3cnet"):
        call(monkeypatch, tmp_path, "--methods", "lda", "mf3cnet", "--data", "tiny")
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


@pytest.mark.usefixtures("spied")
def test_members_are_measured_as_the_model_that_they_make(tmp_path: Path) -> None:
    cell = cells("mf2cnet", seeds=1)[0]
    model = tmp_path / "runs" / cell.name / "model"
    model.mkdir(parents=True)
    (model / "metrics.json").write_text('{"overall_accuracy": 0.75}')
    assert accuracy.train(cell, tmp_path, 1)["overall_accuracy"] == 0.75


def test_an_encoder_is_pretrained_once_for_a_seed(
    tmp_path: Path, spied: list[list[str]]
) -> None:
    first, second, other = (
        cells("s2former_pretrained", seeds=2)[0],
        *cells("s2former_pretrained", "s2former_untrained", seeds=1),
    )
    second = second._replace(key="of another data set")
    for cell in (first, second, other):
        run = tmp_path / "runs" / cell.name
        run.mkdir(parents=True)
        (run / "encoder.safetensors").write_text(cell.row)
        accuracy.train(cell, tmp_path, 1)
    tables = [recipe.load(command[1])["pretrain"] for command in spied]
    assert tables[0] == first.recipe["pretrain"]
    assert Path(tables[1]["init"]).read_text() == first.row
    assert tables[2] == other.recipe["pretrain"]

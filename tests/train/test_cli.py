import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hsi_train import methods, recipe
from hsi_train.cli import _summary

Cli = Callable[..., Any]

TINY = (
    *("--set", "options.features=4", "--set", "options.hidden=4"),
    *("--samples-per-class", "6", "--epochs", "1", "--device", "cpu"),
)


def test_import_loads_no_torch_and_no_engine() -> None:
    code = (
        "import sys, hsi_train.cli; "
        "print([m for m in ('torch', 'scipy', 'matplotlib', 'rasterio', 'onnxruntime',"
        " 'h5py', 'pyogrio') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_list_names_methods_and_recipes(cli: Cli) -> None:
    done = cli("--list")
    assert done.code == 0
    for name in (*methods.names(), *recipe.shipped()):
        assert f"  {name}\n" in done.out
    assert json.loads(cli("--list", "--json").out) == {
        "methods": methods.names(),
        "recipes": recipe.shipped(),
    }


def test_help_and_version(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0
    for option in (
        *("--scene", "--labels", "--label-field", "--classes", "--split", "--json"),
        *("--samples-per-class", "--train-fraction", "--output", "--set", "--seed"),
        *(
            "--probability-sample",
            "--epochs",
            "--device",
            "--resume",
            "--overwrite",
            "--list",
            "--quiet",
        ),
    ):
        assert option in done.out
    version = cli("--version")
    assert (version.code, version.err) == (0, "")


def test_json_alone_on_stdout(cli: Cli, example: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = cli(
        "mf2cnet", "--scene", example.scene, "--labels", example.labels, "-o", run,
        "--json", *TINY,
    )  # fmt: skip
    assert done.code == 0, done.err
    printed = json.loads(done.out)
    assert printed == json.loads((run / "metrics.json").read_text())
    assert "warning: " in done.err
    assert "overall accuracy" not in done.out


def test_without_json_stdout_is_the_run_folder(
    cli: Cli, example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("mf2cnet", "--scene", example.scene, "--labels", example.labels, *TINY)
    done = cli(*arguments)
    assert done.code == 0, done.err
    assert done.out == "runs/mf2cnet\n"
    assert "overall accuracy" in done.err
    assert (tmp_path / "runs/mf2cnet/checkpoint.safetensors").is_file()
    quiet = cli(*arguments, "-q", "-o", "other")
    assert (quiet.code, quiet.out, quiet.err) == (0, "other\n", "")


def test_summary_tells_what_was_measured() -> None:
    figures: dict[str, Any] = {
        "overall_accuracy": 0.9,
        "average_accuracy": 0.8,
        "kappa": 0.7,
    }
    errors = {
        "expected_calibration_error": 0.04,
        "expected_calibration_error_uncalibrated": 0.1234,
        "note": "not fitted: why",
    }
    training: dict[str, Any] = {
        "steps": 1400, "stop_reason": "learned",
        "phases": {"held_out": 0, "warm_up": 30, "steady": 950, "decay": 420},
    }  # fmt: skip
    least = figures | {"seconds": 3.2, "calibration": None, "area_adjusted": None}
    least |= {"training": training}
    lasted = (
        "Training: 1,400 steps (30 warm-up, 950 steady, 420 decay); it ended because "
        "validation had stopped improving."
    )
    first = "Test pixels: overall accuracy 90.00%, average accuracy 80.00%, kappa 0.700"
    assert _summary(least) == f"{first}; 3 s\n{lasted}"
    more = least | {
        "training": training | {"balance": 0.25},
        "calibration": errors,
        "area_adjusted": {"overall_accuracy": [0.85, 0.8, 0.9]},
        "target": figures | {"kappa": 0.2},
    }
    assert _summary(more).splitlines()[2:] == [
        "Rare classes count for more (balance 0.25): more held-out pixels are right "
        "averaged over classes, and in no place fewer.",
        "Confidence: expected calibration error 4.0%, 12.3% before calibration; "
        "temperature not fitted: why",
        "Whole map: overall accuracy 85.00%, 80.00% to 90.00% (95 % interval)",
        "Target: overall accuracy 90.00%, average accuracy 80.00%, kappa 0.200",
    ]


def test_recipe_file_and_options_over_it(
    cli: Cli, example: Any, tmp_path: Path
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        f"""
        method = "mf2cnet"
        seed = 4
        [data]
        scenes = ["{example.scene.as_posix()}"]
        labels = ["{example.labels.as_posix()}"]
        [split]
        mode = "fraction"
        train_fraction = 0.5
        [options]
        features = 4
        """
    )
    run = tmp_path / "run"
    done = cli(path, "-o", run, "-q", "--seed", "9", *TINY)
    assert done.code == 0, done.err
    resolved = recipe.parse(recipe.load(str(run / "recipe.toml")))
    assert resolved.seed == 9
    assert resolved.split == recipe.Split(mode="per-class", samples_per_class=6)
    assert resolved.fit.epochs == 1
    assert resolved.options["hidden"] == 4


def test_stopped_by_the_user(
    cli: Cli, example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    arguments = (
        "mf2cnet", "--scene", example.scene, "--labels", example.labels, "-o", run, "-q"
    )  # fmt: skip

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hsi_train.fitting.trainer.Trainer._average", stop)
        done = cli(*arguments, *TINY)
    assert done.code == 130
    assert "--resume goes on with the run" in done.err
    done = cli(*arguments, *TINY, "--resume")
    assert done.code == 0, done.err


def trained(cli: Cli, example: Any, run: Path, *more: object) -> Any:
    done = cli(
        "mf2cnet", "--scene", example.scene, "--labels", example.labels, "-o", run,
        "--set", "options.features=4", "--set", "options.hidden=4", *more,
    )  # fmt: skip
    assert done.code == 0, done.err
    return json.loads((run / "metrics.json").read_text())["training"]


@pytest.mark.parametrize("length", [["--quick"], ["--budget", "60s"]])
def test_what_is_fitted_in_closed_form_takes_no_steps(
    length: list[str], cli: Cli, example: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ("--scene", example.scene, "--labels", example.labels, "-o", run)
    done = cli("lda", *arguments, *length, "--samples-per-class", "60", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["training"]
    assert (found["steps"], found["stop_reason"]) == (0, "fitted")


def test_a_first_look_takes_few_steps(cli: Cli, example: Any, tmp_path: Path) -> None:
    found = trained(
        cli, example, tmp_path / "run", "--quick", "--samples-per-class", "60"
    )
    assert (found["steps"], found["stop_reason"]) == (100, "quick")
    assert found["phases"] == {"held_out": 0, "warm_up": 30, "steady": 40, "decay": 30}
    assert found["gate"] == 1
    assert recipe.load(str(tmp_path / "run" / "recipe.toml"))["fit"]["quick"] is True


def test_a_budget_that_is_over_at_once_still_gives_a_model(
    cli: Cli, example: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    # Many labels: of few, nothing could be held out, and nothing be trained.
    half = ("--train-fraction", "0.5", "--set", "fit.linear_path=false")
    found = trained(cli, example, run, "--budget", "0.1s", *half)
    assert (found["steps"], found["stop_reason"]) == (1, "budget")
    assert found["phases"]["held_out"] == 1
    assert found["budget"]["seconds"] == 0.1
    assert found["budget"]["verdict"] == "still improving when the time was up"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "The budget ended the training while it was still improving" in page
    assert "another run gives another model" in page


@pytest.mark.parametrize("budget", ["0s", "10", "m", "ten minutes", "-3m", "1e9h", ""])
def test_a_budget_that_is_no_time(
    cli: Cli, example: Any, tmp_path: Path, budget: str
) -> None:
    done = cli(
        "mf2cnet", "--scene", example.scene, "--labels", example.labels,
        "-o", tmp_path / "run", "--budget", budget,
    )  # fmt: skip
    assert (done.code, done.out) == (2, "")
    assert f"{budget!r} is not a time such as 30s, 10m or 1h." in done.err
    assert not (tmp_path / "run").exists()


def test_one_length_at_a_time(cli: Cli, example: Any, tmp_path: Path) -> None:
    done = cli(
        "mf2cnet", "--scene", example.scene, "--labels", example.labels,
        "-o", tmp_path / "run", "--budget", "10m", "--quick",
    )  # fmt: skip
    assert done.code == 2
    assert "--epochs, --quick and --budget exclude each other." in done.err

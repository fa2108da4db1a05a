"""A training that is killed goes on where its last finished epoch ended."""

import csv
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from restarts import go_on

from hsi_train import recipe
from hsi_train.run_folder import folder
from hsi_train.training import train

EPOCHS = 12


def history(run: Path) -> list[dict[str, str]]:
    path = run / "history.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        # The last line may be half written.
        return [r for r in csv.DictReader(file) if r["seconds"]]


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_a_killed_training_loses_at_most_one_epoch(
    cli: Callable[..., Any], example: Any, tmp_path: Path
) -> None:
    run, whole = tmp_path / "killed", tmp_path / "whole"
    arguments = (
        *("mf2cnet", "--scene", example.scene, "--labels", example.labels),
        *("--samples-per-class", "40", "--epochs", EPOCHS, "--device", "cpu", "-q"),
        *("--set", "options.features=4", "--set", "options.hidden=4"),
    )
    code = "import torch; torch.set_num_threads(1); from hsi_train.cli import main; "
    code += "main()"
    command = [sys.executable, "-c", code, *map(str, arguments), "-o", str(run)]
    with subprocess.Popen(command) as process:
        while len(history(run)) < 3 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was done before it was killed"
    before = history(run)
    assert 3 <= len(before) < EPOCHS
    done = cli(*arguments, "-o", run, "--resume")
    assert done.code == 0, done.err
    after = history(run)
    assert len(after) == EPOCHS
    # Their times are those of the killed process: these epochs were not repeated.
    assert after[: len(before)] == before
    assert cli(*arguments, "-o", whole).code == 0
    name = "checkpoint.safetensors"
    assert (run / name).read_bytes() == (whole / name).read_bytes()


# The map of the report ends in a call that no signal interrupts.
HANGING = """
import hashlib, sys
from hsi_train.report import page
def hang(*_):
    print("drawing", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
page.maps = hang
from hsi_train.cli import main
main()
"""


def test_a_report_at_work_answers_a_signal(
    cli: Callable[..., Any], example: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = (
        *("mf2cnet", "--scene", example.scene, "--labels", example.labels),
        *("--samples-per-class", "8", "--epochs", "1", "--device", "cpu", "-q"),
        *("--set", "options.features=4", "--set", "options.hidden=4", "-o", run),
    )
    command = [sys.executable, "-c", HANGING, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "drawing\n"
        process.terminate()  # without an answer this would wait for an hour
    assert process.returncode == 143
    assert not list(run.glob("*.part*"))
    assert not (run / "report.html").exists()
    assert cli(*arguments, "--resume").code == 0
    assert (run / "report.html").stat().st_size > 10_000


KILLS = 40


def settings_of(kind: str, example: Any) -> recipe.Recipe:
    content: dict[str, Any] = {
        "method": "mf2cnet",
        "data": {"scenes": [str(example.scene)], "labels": [str(example.labels)]},
        "split": {"mode": "per-class", "samples_per_class": 20},
        "fit": {"epochs": 8, "batch": 12},
        "options": {"features": 4, "hidden": 4},
    }
    if kind == "pretrained":
        content |= {"method": "s2former", "options": {}, "fit": {"epochs": 2}}
        content["pretrain"] = {
            "scenes": [str(example.scene)],
            "steps": 55,  # its state is saved every 50
            "batch": 2,
            "outputs": 4,
        }
    return recipe.parse(content)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
@pytest.mark.parametrize("kind", ["plain", "pretrained"])
def test_killed_at_random_moments_it_ends_in_the_same_checkpoint(
    example: Any, tmp_path: Path, kind: str
) -> None:
    rng, settings = random.Random(kind), settings_of(kind, example)
    started = time.monotonic()
    train(settings, tmp_path / "whole", "cpu")
    whole = time.monotonic() - started
    expected = (tmp_path / "whole" / "checkpoint.safetensors").read_bytes()
    server = multiprocessing.get_context("forkserver")  # pytest itself is not forked
    server.set_forkserver_preload(["restarts"])
    kills, number = 0, 0
    while kills < KILLS // 2:
        run = tmp_path / f"run-{number}"
        process = server.Process(target=go_on, args=(settings, run))
        process.start()
        process.join(rng.uniform(0, whole))
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
            continue
        assert process.exitcode == 0
        assert (run / "checkpoint.safetensors").read_bytes() == expected
        assert not folder.interrupted(run)
        number += 1
    if not (run / folder.METRICS).is_file() or folder.interrupted(run):
        go_on(settings, run)
    assert (run / "checkpoint.safetensors").read_bytes() == expected

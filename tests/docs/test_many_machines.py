"""The manifests of the page are well formed, and run commands that exist."""

import json
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from numpy.typing import NDArray

from hsi_runtime.cli import command
from hsi_runtime.errors import (
    DeviceLostError,
    ModelFileError,
    OptionError,
    OutputError,
    SceneError,
)

PAGE = Path(__file__).parents[2] / ".docs" / "pages" / "many-machines.md"
FINAL = {kind.exit_code for kind in (OptionError, SceneError, ModelFileError)}
FINAL |= {OutputError.exit_code}
AGAIN = DeviceLostError.exit_code
PARTS = 16


def block(title: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    (found,) = re.findall(rf'^```\w+ title="{title}"\n(.*?)^```$', text, re.M | re.S)
    return str(found)


def chosen(arguments: list[str]) -> dict[str, Any]:
    """Parse arguments as hsi-run does."""
    assert arguments[0] == "hsi-run"
    parsed: dict[str, Any] = command.make_context("hsi-run", arguments[1:]).params
    return parsed


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith("SLURM") or name.endswith("_INDEX"):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def shims(tmp_path: Path, index: pytest.MonkeyPatch) -> Path:
    """Put commands that only note how they are called before all others."""
    log = tmp_path / "log"
    for name in ("hsi-run", "scontrol", "sbatch", "parallel"):
        shim = tmp_path / name
        shim.write_text(
            f'#!/bin/bash\nprintf "%q " {name} "$@" >> {log}; echo >> {log}\n'
            f"[ {name} = sbatch ] && echo 7\n"
            f"[ {name} = hsi-run ] && exit ${{CODE:-0}}\nexit 0\n"
        )
        shim.chmod(0o755)
    index.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return log


def calls(log: Path) -> list[list[str]]:
    return [shlex.split(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (3, False), (75, True)])
def test_slurm(
    code: int, requeued: bool, shims: Path, index: pytest.MonkeyPatch
) -> None:
    script = block("parts.sbatch")
    assert f"--array=0-{PARTS - 1}\n" in script
    index.setenv("SLURM_ARRAY_TASK_ID", "5")
    index.setenv("SLURM_JOB_ID", "41")
    index.setenv("SLURM_CPUS_PER_TASK", "8")
    done = subprocess.run(["bash", "-c", script], env={**os.environ, "CODE": str(code)})
    assert done.returncode == code
    said = calls(shims)
    assert chosen(said[0])["part"] == (5, PARTS)
    assert chosen(said[0])["threads"] == 8
    assert said[1:] == ([["scontrol", "requeue", "41"]] if requeued else [])


def test_slurm_joins_after_all_parts(shims: Path) -> None:
    script = block("the join, once all parts are done")
    subprocess.run(["bash", "-ec", script], check=True)
    _, (_, after, _, joined) = calls(shims)
    assert after == "--dependency=afterok:7"
    assert chosen(shlex.split(joined))["join"] is True


def test_kubernetes(index: pytest.MonkeyPatch) -> None:
    job = yaml.safe_load(block("parts.yaml"))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert (spec["completions"], spec["completionMode"]) == (PARTS, "Indexed")
    assert spec["backoffLimitPerIndex"] >= 10
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # a failure policy asks for it
    (container,) = pod["containers"]
    index.setenv("JOB_COMPLETION_INDEX", "9")
    assert chosen(container["command"] + container["args"])["part"] == (9, PARTS)
    actions: dict[int, str] = {}
    for rule in spec["podFailurePolicy"]["rules"]:
        assert ("onExitCodes" in rule) != ("onPodConditions" in rule)
        if codes := rule.get("onExitCodes"):
            assert (codes["containerName"], codes["operator"]) == ("part", "In")
            actions |= dict.fromkeys(codes["values"], rule["action"])
        else:
            assert rule["action"] == "Ignore"
    assert actions == dict.fromkeys(FINAL, "FailIndex") | {AGAIN: "Count"}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_aws_batch(index: pytest.MonkeyPatch) -> None:
    job = json.loads(block("parts.json"))
    container = job["containerProperties"]
    index.setenv("AWS_BATCH_JOB_ARRAY_INDEX", "2")
    assert chosen(["hsi-run", *container["command"]])["part"] == (2, PARTS)
    retry = job["retryStrategy"]
    assert 1 <= retry["attempts"] <= 10  # the most that AWS takes
    first, *_, last = retry["evaluateOnExit"]
    assert first == {"onExitCode": str(AGAIN), "action": "RETRY"}
    assert last == {"onReason": "*", "action": "EXIT"}
    assert f"--array-properties size={PARTS}" in block("register, then submit")


def test_gnu_parallel(shims: Path) -> None:
    script = block("over the machines in nodes.txt")
    subprocess.run(["bash", "-ec", script], check=True)
    parallel, joined = calls(shims)
    cut = parallel.index(":::")
    assert parallel[cut + 1 :] == [str(number) for number in range(PARTS)]
    task = parallel[parallel.index("hsi-run") : cut]
    task = [word.replace("{}", "4") for word in task]
    assert chosen(task)["part"] == (4, PARTS)
    assert chosen(joined)["join"] is True


def test_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    script = block("ray_parts.py")
    assert len([line for line in script.splitlines() if line]) <= 11
    tasks: list[list[str]] = []

    class Remote:
        def __init__(self, work: Any) -> None:
            self.remote = work

    ray = types.ModuleType("ray")
    vars(ray).update(
        remote=lambda **_: Remote, init=lambda address: None, get=lambda results: None
    )
    monkeypatch.setitem(sys.modules, "ray", ray)

    def note(task: list[str], check: bool) -> None:
        tasks.append(task)

    monkeypatch.setattr(subprocess, "run", note)
    exec(compile(script, "ray_parts.py", "exec"), {})
    assert [chosen(task)["part"] for task in tasks[:-1]] == [
        (number, PARTS) for number in range(PARTS)
    ]
    assert chosen(tasks[-1])["join"] is True


def test_python(
    tmp_path: Path,
    cube: NDArray[Any],
    write_model: Callable[..., Path],
    write_scene_tiff: Callable[..., Path],
) -> None:
    pytest.importorskip("distributed")
    for name in ("mosaic", "other"):
        write_scene_tiff(tmp_path / f"{name}.tif", cube)
    (tmp_path / "scenes.txt").write_text("mosaic.tif\nother.tif\n")
    (tmp_path / "maps").mkdir()
    write_model(tmp_path / "model.onnx")
    (tmp_path / "script.py").write_text(block("the same from Python"))
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "'done': 2" in done.stdout
    assert (tmp_path / "map_confidence.tif").is_file()
    assert (tmp_path / "maps" / "other_classes.tif").is_file()


def test_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables are those that dask reads."""
    dask = pytest.importorskip("dask")
    lines = block("certificates, on all machines").splitlines()
    given = [line.removeprefix("export ") for line in lines if "export" in line]
    variables = dict(line.split("=") for line in given)
    tls = dask.config.collect_env(variables)["distributed"]["comm"]["tls"]
    assert set(tls) == {"ca_file", "client", "scheduler", "worker"}
    for role in ("client", "scheduler", "worker"):
        assert set(tls[role]) == {"cert", "key"}

"""hsi-run with a scheduler and workers that are processes of others, and may die."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dask_machines import DIE, Machines, kill, wait_until
from hsi_run import PIXELS, assert_same_maps, command, start_afresh

pytest.importorskip("distributed")
PARTS = "many.tif.hsi-parts"


@pytest.fixture
def machines(tmp_path: Path, place: Path) -> Iterator[Machines]:
    start_afresh(place)
    with Machines(tmp_path / "dask") as started:
        started.start_scheduler()
        yield started


def start(place: Path, machines: Machines, *more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(place, "many.tif", "--scheduler", machines.address, *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=machines.environment,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, said = process.communicate(timeout=100)
    assert "Traceback" not in said
    return process.returncode, out, said


def succeed(place: Path, machines: Machines) -> list[dict[str, Any]]:
    """Run to the end; return the accounts of the parts."""
    code, out, said = finish(start(place, machines))
    assert code == 0, said
    assert_same_maps(place)
    rows: list[dict[str, Any]] = json.loads(out)["parts"]
    return rows


@pytest.mark.parametrize("nanny", ["--nanny", "--no-nanny"])
def test_a_worker_that_is_killed_within_a_part(
    nanny: str, machines: Machines, place: Path
) -> None:
    """Another one takes its part over, and what it had finished of it."""
    preload = machines.at_a_piece(DIE)
    for _ in range(2):
        machines.start_worker(nanny, preload=preload)
    rows = succeed(place, machines)
    tries = [row["attempts"] for row in rows]
    assert sorted(tries) == [1] * (len(rows) - 1) + [2]
    # The piece that the dead worker had stored was not computed again.
    assert sum(row["pixels"] for row in rows) < PIXELS


def test_the_only_worker_dies_and_another_comes(
    machines: Machines, place: Path
) -> None:
    dying = machines.start_worker("--no-nanny", preload=machines.at_a_piece(DIE))
    process = start(place, machines)
    dying.wait()
    machines.start_worker("--no-nanny")
    code, out, said = finish(process)
    assert code == 0, said
    assert_same_maps(place)
    assert max(row["attempts"] for row in json.loads(out)["parts"]) == 2


def test_a_lost_scheduler_is_told_and_the_command_resumes(
    machines: Machines, place: Path
) -> None:
    wait = "time.sleep(600)"
    machines.start_worker("--no-nanny", preload=machines.at_a_piece(wait))
    process = start(place, machines)
    wait_until(
        lambda: list((place / PARTS).glob("*.piece")), lambda: process.poll() is None
    )
    assert machines.scheduler is not None
    kill(machines.scheduler)
    code, _, said = finish(process)
    assert code == 75
    assert "The scheduler cannot be reached any more: " in said
    assert "What is finished is kept: the same command resumes." in said
    assert not (place / "many.tif").exists()
    machines.start_scheduler()
    machines.start_worker("--no-nanny")
    assert sum(row["pixels"] for row in succeed(place, machines)) < PIXELS


def test_a_killed_client_is_repeated(machines: Machines, place: Path) -> None:
    """Its workers live on, and may still be at the part that they had begun."""
    machines.start_worker("--no-nanny", preload=machines.at_a_piece("time.sleep(2)"))
    process = start(place, machines)
    wait_until(
        lambda: list((place / PARTS).glob("*.piece")), lambda: process.poll() is None
    )
    process.send_signal(signal.SIGKILL)
    process.communicate()
    rows = succeed(place, machines)
    assert sum(row["attempts"] for row in rows) > len(rows)


@pytest.mark.parametrize("moment", ["at the first name", "after all"])
def test_a_client_that_is_killed_while_it_publishes(
    moment: str, machines: Machines, place: Path
) -> None:
    """The outputs that are there are its own: the same command goes on, or is done."""
    machines.start_worker("--no-nanny")
    script = (
        "import os, signal\n"
        "from hsi_runtime.parts.folder import PartsFolder\n"
        "replace = os.replace\n"
        "def named(source, target):\n"
        "    replace(source, target)\n"
        f"    if str(target) == {str(place / 'many.tif')!r}: {DIE}\n"
    )
    script += (
        "os.replace = named\n"
        if moment == "at the first name"
        else f"PartsFolder.remove = lambda self: {DIE}\n"
    )
    given = command(place, "many.tif", "--scheduler", machines.address)
    given[2] = script + given[2]
    killed = subprocess.run(given, capture_output=True, timeout=100)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (place / "many.tif").exists()
    for _ in range(2):  # what is done is not done again
        code, _, said = finish(start(place, machines))
        assert code == 0, said
        assert_same_maps(place)


WITHOUT = "import sys\nsys.modules['hsi_runtime'] = None\n"
OLDER = """
import importlib.metadata as metadata
version = metadata.version
metadata.version = lambda name: "0.0.1" if name == "hsi-edge" else version(name)
"""
OTHER_MODEL = """
from pathlib import Path
from types import SimpleNamespace
from hsi_runtime.parts import working

def read_model(path):
    Path({late!r}).touch()
    return SimpleNamespace(sha256="0")

working.read_model = read_model
"""
# Works as a worker whose engine fails, or whose disk or memory is full.
FAILING = """
from hsi_runtime import errors
from hsi_runtime.parts import working

def fail(*_):
    raise errors.{kind}("it is {kind} here")

working.compute_part = fail
"""
# The same, but only for who takes the token.
ONCE = """
from pathlib import Path
from hsi_runtime.parts import working
compute_part = getattr(working.compute_part, "original", working.compute_part)
{failing}
def once(*arguments):
    try:
        Path({token!r}).unlink()
    except FileNotFoundError:
        return compute_part(*arguments)
    fail()

once.original = compute_part  # of ours where this is loaded twice
working.compute_part = once
"""
BUG = FAILING.replace("errors.{kind}(", "RecursionError(")


@pytest.mark.parametrize(
    ("preload", "reason"),
    [
        (
            WITHOUT,
            "Worker tcp://.* cannot do this work: .*hsi_runtime.* Install the same",
        ),
        (OLDER, r"hsi-edge has version 0\.0\.1 on .* here\. Install the same version"),
    ],
    ids=["none", "older"],
)
def test_a_worker_of_another_version_is_refused(
    preload: str, reason: str, machines: Machines, place: Path
) -> None:
    machines.start_worker("--no-nanny", preload=preload)
    machines.wait_for_workers()
    code, _, said = finish(start(place, machines))
    assert code == 4
    assert re.search(reason, said), said


@pytest.mark.parametrize(
    ("preload", "reason"),
    [
        (WITHOUT, "The scheduler cannot do this work: "),
        (
            "from hsi_runtime.parts import cluster\n"
            "vars(cluster).pop('_done_here', None)\n",
            "The scheduler cannot read the tasks. Install the same version of hsi-edge",
        ),
    ],
    ids=["none", "older"],
)
def test_a_scheduler_of_another_version_is_refused(
    preload: str, reason: str, place: Path, tmp_path: Path
) -> None:
    start_afresh(place)
    script = tmp_path / "other.py"
    script.write_text(preload)
    with Machines(tmp_path / "dask") as machines:
        machines.start_scheduler("--preload", str(script))
        machines.start_worker("--no-nanny")
        machines.wait_for_workers()
        code, _, said = finish(start(place, machines))
    assert code == 4
    assert reason in said


def test_a_worker_with_another_model_is_refused(
    machines: Machines, place: Path
) -> None:
    """It has other bytes under the same path."""
    asked = machines.folder / "asked"
    machines.start_worker("--no-nanny", preload=OTHER_MODEL.format(late=str(asked)))
    machines.wait_for_workers()
    code, _, said = finish(start(place, machines))
    assert code == 4
    assert "is another model than the one of this command" in said


def test_a_worker_with_another_model_that_comes_later_is_avoided(
    machines: Machines, place: Path
) -> None:
    """The first waits with its second part until the other has come, and tried."""
    late = place / "late"
    late.unlink(missing_ok=True)
    wait = f"[time.sleep(0.01) for _ in iter(Path({str(late)!r}).exists, True)]"
    machines.start_worker("--no-nanny", preload=machines.at_a_piece(wait))
    machines.wait_for_workers()
    process = start(place, machines)
    wait_until(
        lambda: list((place / PARTS).glob("*.piece")), lambda: process.poll() is None
    )
    machines.start_worker("--no-nanny", preload=OTHER_MODEL.format(late=str(late)))
    code, _, said = finish(process)
    assert code == 0, said
    assert_same_maps(place)
    assert "is tried again: " in said
    assert "is another model than the one of this command" in said


@pytest.mark.parametrize(
    ("kind", "nanny"),
    [
        ("ResourceError", "--no-nanny"),
        ("DeviceLostError", "--no-nanny"),
        ("DeviceLostError", "--nanny"),
    ],
)
def test_what_a_worker_lacks_another_may_have(
    kind: str, nanny: str, machines: Machines, place: Path
) -> None:
    """The first fails at once with each part, while the other computes.

    A nanny starts a new process where a device was lost.
    """
    failing = FAILING.format(kind=kind)
    if nanny == "--nanny":
        failing = ONCE.format(failing=failing, token=str(machines.folder / "token"))
        (machines.folder / "token").touch()
    machines.start_worker(nanny, preload=failing)
    machines.start_worker("--no-nanny")
    machines.wait_for_workers()
    process = start(place, machines)
    code, _, said = finish(process)
    assert code == 0, said
    assert_same_maps(place)
    assert f"is tried again: it is {kind} here" in said
    processes = machines.log("worker0").count("Start worker at:")
    assert processes == (2 if nanny == "--nanny" else 1)


@pytest.mark.parametrize(("kind", "code"), [("ResourceError", 6), ("OutputError", 5)])
def test_what_all_workers_lack_ends_the_run(
    kind: str, code: int, machines: Machines, place: Path
) -> None:
    machines.start_worker("--no-nanny", preload=FAILING.format(kind=kind))
    found, _, said = finish(start(place, machines))
    assert found == code
    assert f"it is {kind} here" in said
    assert ("failed 11 times" in said) == (kind == "ResourceError")


def test_a_bug_on_a_worker_is_told(machines: Machines, place: Path) -> None:
    """Not waited for: an exception that is too deep to be pickled never arrives."""
    deep = BUG.replace("def fail(*_):", "def fail(*_):\n    fail()")
    machines.start_worker("--no-nanny", preload=deep)
    process = start(place, machines)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "RuntimeError: A worker met a bug." in said
    assert "RecursionError: " in said

"""Parts and scenes on the workers of dask.distributed, which may die."""

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mosaic import LAYERS, Mosaic

from hsi_runtime import Workers, classify, classify_all
from hsi_runtime.cli import main
from hsi_runtime.errors import EngineError, OptionError, SceneError
from hsi_runtime.parts import cluster, working
from hsi_runtime.parts.address import Local, scheduler_of
from hsi_runtime.parts.working import (
    EngineOrder,
    error_of,
    failure,
    part,
    received,
    scene,
    survey,
)
from hsi_runtime.request import Request

SCRIPT = "from hsi_runtime.cli import main; main()"
SWITCHES = [f"--{name}" for name, value in LAYERS.items() if value is True]
OPTIONS = [*SWITCHES, "--sets", "0.9", "--reject", "0.4", "--tile", "8"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("local:3", Local(3)),
        ("tls://nodes.example:8786", "tls://nodes.example:8786"),
        ("tcp://127.0.0.1:8786", "tcp://127.0.0.1:8786"),
        ("localhost:8786", "tcp://localhost:8786"),
        ("tcp://[::1]:8786", "tcp://[::1]:8786"),
    ],
)
def test_good_addresses(address: str, expected: Any) -> None:
    assert scheduler_of(address, insecure=False) == expected
    assert isinstance(scheduler_of("local", insecure=False), Local)


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.7:8786", "nodes.example:8786", "[fe80::1]:8786"]
)
def test_another_machine_needs_tls_or_consent(address: str) -> None:
    with pytest.raises(OptionError, match="Use tls://, or --insecure-cluster"):
        scheduler_of(address, insecure=False)
    assert str(scheduler_of(address, insecure=True)).startswith("tcp://")


@pytest.mark.parametrize(
    "address", ["", "local:0", "local:9999", "inproc://x", "http://a:1", "a", "tcp://a"]
)
def test_bad_addresses(address: str) -> None:
    with pytest.raises(OptionError, match=r"is not (in|local)"):
        scheduler_of(address, insecure=True)


def test_workers_find_every_file_of_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run in other folders."""
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {
        name: Path(name) for name in ("scene", "output", "gain", "offset")
    }
    sent = cluster._absolute(Request(**given))
    assert {name: getattr(sent, name) for name in given} == {
        name: tmp_path / name for name in given
    }
    assert sent.dark is None


@pytest.mark.parametrize(
    "more", [["--part", "0/2"], ["--join"], ["--follow"], ["--scheduler", "tcp://a:1"]]
)
def test_what_does_not_fit_is_a_usage_error(
    more: list[str], mosaic: Mosaic, invoke: Callable[..., Any]
) -> None:
    found = invoke(
        main, "s.tif", "-m", mosaic.model.path, "--scheduler", "local", *more
    )
    assert found.code == 2


def order(mosaic: Mosaic) -> EngineOrder:
    return EngineOrder(
        model=str(mosaic.model.path),
        sha256=mosaic.model.sha256,
        version=working.version(),
        device="cpu",
        threads=1,
        tile=8,
        max_memory_bytes=None,
    )


def test_work_of_a_worker_is_that_of_a_part(mosaic: Mosaic) -> None:
    """In this process: what a worker runs needs no cluster."""
    request = mosaic.request("working")
    plan = survey(order(mosaic), request)
    assert plan == {"strips": 12, "pixels": 96 * 40}
    done = part(order(mosaic), mosaic.request("working", part=(1, 12)))
    assert (done["part"], done["pixels"]) == ("1/12", 8 * 40)
    whole = scene(order(mosaic), mosaic.request("whole"))
    assert whole["status"] == "done"
    assert scene(order(mosaic), mosaic.request("whole"))["status"] == "skipped"


@pytest.mark.parametrize("limit", [None, 2**31])
def test_a_limit_of_memory_is_that_of_one_task(
    limit: int | None, mosaic: Mosaic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one, a worker that is given two tasks does both at the same time."""
    both = threading.Barrier(2)
    most = at_work = 0

    def compute(*_: Any) -> dict[str, Any]:
        nonlocal most, at_work
        at_work += 1
        most = max(most, at_work)
        if limit is None:
            both.wait(60)
        at_work -= 1
        return {}

    monkeypatch.setattr(working, "compute_part", compute)
    ordered = replace(order(mosaic), max_memory_bytes=limit)
    request = mosaic.request("room", part=(0, 2))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: part(ordered, request), range(2)))
    assert most == (2 if limit is None else 1)


def test_a_worker_keeps_the_engines_of_the_last_commands(mosaic: Mosaic) -> None:
    orders = [replace(order(mosaic), tile=side) for side in (8, 9, 10)]
    engines = [weakref.ref(working._engine(one)[1]) for one in orders]
    gc.collect()
    kept = [engine() is not None for engine in engines]
    assert kept == [False, True, True]
    assert working._engine(orders[2])[1] is engines[2]()


def test_errors_that_no_other_try_mends_are_told(mosaic: Mosaic) -> None:
    lost = mosaic._replace(folder=mosaic.folder / "no")
    (mosaic.folder / "no").mkdir()
    told = part(order(mosaic), lost.request("x", part=(0, 2)))
    assert (told["status"], told["kind"]) == ("failed", "SceneError")
    assert told["exit_code"] == SceneError.exit_code


def test_errors_from_elsewhere_name_the_machine() -> None:
    """There, a folder may not be mounted."""
    here = failure(SceneError("There is no file s.tif."), "failed")
    assert str(error_of(received(dict(here)))) == "There is no file s.tif."
    there = error_of(received({**here, "host": "node7"}))
    assert isinstance(there, SceneError)
    assert str(there) == "On node7: There is no file s.tif."


@pytest.mark.parametrize(
    ("other", "kind", "reason"),
    [
        ({"sha256": "0" * 64}, "ModelFileError", "is another model than the one"),
        ({"version": "9.9"}, "EngineError", "Install the same version there"),
        ({"model": "/none.onnx"}, "ModelFileError", "cannot be read"),
    ],
)
def test_a_worker_that_does_not_fit(
    other: dict[str, Any], kind: str, reason: str, mosaic: Mosaic
) -> None:
    """It says so, and its tasks are for others."""
    wanted = replace(order(mosaic), **other)
    answer = working.misfit(wanted)
    assert answer is not None
    assert answer["kind"] == kind
    assert reason in answer["error"]
    assert survey(wanted, mosaic.request("unfit"))["status"] == "again"
    assert working.misfit(order(mosaic)) is None


def on_cluster(mosaic: Mosaic, output: Path, *scenes: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            *(sys.executable, "-c", SCRIPT, *map(str, scenes), "-o", str(output)),
            *("-m", str(mosaic.model.path), "--device", "cpu", *OPTIONS, "--json"),
            *("--scheduler", "local:2"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_cluster_gives_the_bytes_of_one_run(mosaic: Mosaic) -> None:
    pytest.importorskip("distributed")
    mosaic.plain("one")
    output = mosaic.request("cluster").output
    process = on_cluster(mosaic, output, mosaic.folder / "scene.tif")
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    for path in (mosaic.folder / "one").glob("*.tif"):
        assert (output.parent / path.name).read_bytes() == path.read_bytes()
    rows = json.loads(out)["parts"]
    assert [row["part"] for row in rows] == sorted(
        (f"{n}/12" for n in range(12)), key=lambda text: int(text.split("/")[0])
    )
    assert sum(row["pixels"] for row in rows) == 96 * 40


def test_many_scenes_go_the_same_way(mosaic: Mosaic, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    mosaic.plain("one", overwrite=True)
    scenes = [tmp_path / "a.tif", tmp_path / "b.tif", tmp_path / "none.tif"]
    for path in scenes[:2]:
        path.write_bytes((mosaic.folder / "scene.tif").read_bytes())
    output = tmp_path / "maps"
    output.mkdir()
    process = on_cluster(mosaic, output, *scenes)
    out, said = process.communicate(timeout=300)
    assert process.returncode == SceneError.exit_code, said
    report = json.loads(out)
    states = [one["status"] for one in report["scenes"]]
    assert states == ["done", "done", "failed"]
    assert report["summary"]["pixels"] == 2 * 96 * 40


def test_a_killed_client_is_repeated(mosaic: Mosaic) -> None:
    """Its workers end with it; what they had finished is kept."""
    pytest.importorskip("distributed")
    mosaic.plain("one", overwrite=True)
    output = mosaic.request("client").output
    folder = output.with_name("o.tif.hsi-parts")
    process = on_cluster(mosaic, output, mosaic.folder / "scene.tif")
    while not list(folder.glob("*.piece")):
        assert process.poll() is None
        os.sched_yield()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = on_cluster(mosaic, output, mosaic.folder / "scene.tif")
    out, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    for path in (mosaic.folder / "one").glob("*.tif"):
        assert (output.parent / path.name).read_bytes() == path.read_bytes()
    assert sum(row["attempts"] for row in json.loads(out)["parts"]) > 12


def port_of_another_scheduler() -> contextlib.AbstractContextManager[Any]:
    """Take the port of dask's pages, which then warns; or somebody has it already."""
    try:
        return socket.create_server(("127.0.0.1", 8787))
    except OSError:
        return contextlib.nullcontext()


def test_python_has_the_same_door(mosaic: Mosaic, tmp_path: Path) -> None:
    """One scene in parts, then many, on the same workers."""
    pytest.importorskip("distributed")
    mosaic.plain("one", overwrite=True)
    folder = mosaic.folder / "python"
    folder.mkdir()
    options = {"tile": 8, **LAYERS}
    seen: list[tuple[int, int]] = []
    with (
        port_of_another_scheduler(),
        Workers(mosaic.model.path, "local:1", device="cpu", threads=1) as workers,
    ):
        result = classify(
            *(mosaic.folder / "scene.tif", workers, folder / "o.tif"),
            *(lambda *done: seen.append(done),),
            **options,
        )
        for path in (mosaic.folder / "one").glob("*.tif"):
            assert (folder / path.name).read_bytes() == path.read_bytes()
        with pytest.raises(SceneError, match="There is no file"):
            classify(tmp_path / "none.tif", workers)
        with pytest.raises(OptionError, match="Leave out part, join and follow"):
            classify(mosaic.folder / "scene.tif", workers, join=True)
        scenes = [mosaic.folder / "scene.tif", tmp_path / "none.tif"]
        many = classify_all(scenes, workers, tmp_path, **options)
    assert len(result["parts"]) == 12
    assert seen[-1] == (96 * 40, 96 * 40)
    assert [one["status"] for one in many["scenes"]] == ["done", "failed"]
    assert many["scenes"][1]["exit_code"] == SceneError.exit_code
    again = classify_all(scenes[:1], mosaic.model.path, tmp_path, **options)
    assert again["summary"]["skipped"] == 1


@pytest.mark.parametrize(
    ("address", "reason"),
    [("tcp://10.1.1.1:8786", "Use tls://"), ("nowhere", "is not local, local:N")],
)
def test_python_checks_the_address_alike(
    address: str, reason: str, mosaic: Mosaic
) -> None:
    with pytest.raises(OptionError, match=reason):
        Workers(mosaic.model.path, address)


def test_a_missing_package_is_named(
    mosaic: Mosaic, invoke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("distributed", "hsi_runtime.parts.connecting"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(EngineError, match=r"dask; install it .*hsi-edge\[dask\]"):
        Workers(mosaic.model.path, "local:1")
    found = invoke(
        *(main, mosaic.folder / "scene.tif", "-m", mosaic.model.path),
        *("--scheduler", "local:1"),
    )
    assert (found.code, "pip install 'hsi-edge[dask]'" in found.err) == (4, True)


def test_workers_here_run_as_a_plain_run_does(
    mosaic: Mosaic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dask's own settings for malloc and its profiler cost a quarter of the time."""
    pytest.importorskip("distributed")
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    before = dict(os.environ)
    with Workers(mosaic.model.path, "local:1", device="cpu", threads=1) as workers:
        (there,) = workers.cluster._client.run(settings_of_a_worker).values()
    assert there == (None, False)
    assert {k: v for k, v in os.environ.items() if k != "PYTHONHASHSEED"} == {
        k: v for k, v in before.items() if k != "PYTHONHASHSEED"
    }


def settings_of_a_worker() -> tuple[str | None, bool]:
    import dask

    profiled = dask.config.get("distributed.worker.profile.enabled")
    return os.environ.get("MALLOC_TRIM_THRESHOLD_"), profiled


def test_many_scenes_of_python_take_no_parts(mosaic: Mosaic) -> None:
    with pytest.raises(OptionError, match="part, join and follow take one scene"):
        classify_all([mosaic.folder / "scene.tif"], mosaic.model.path, part=(0, 2))
    with pytest.raises(OptionError, match="There is no scene"):
        classify_all([], mosaic.model.path)

"""hsi-run --follow as a process: signals, SIGKILL, options."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rasterio
from camera import Camera, tall_cube

from hsi_runtime.cli import main

ROWS = 200


def command(*more: str) -> list[str]:
    script = "from hsi_runtime.cli import main; main()"
    given = ["flight.bil", "-m", "model.onnx", "-o", "live.tif", "--idle", "60s"]
    return [sys.executable, "-c", script, "--follow", *given, *more]


@pytest.fixture
def place(tmp_path: Path, write_model: Callable[..., Path]) -> Path:
    write_model(tmp_path / "model.onnx")
    return tmp_path


def started(folder: Path, *more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(*more),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_lines(folder: Path, lines: int) -> None:
    """Wait until the journal of the live map holds so many rows."""
    journal = folder / "live.tif.hsi-live" / "journal.jsonl"
    for _ in range(6000):
        if journal.is_file():
            told = journal.read_bytes().splitlines()
            if told and json.loads(told[-1])["rows"][1] >= lines:
                return
        time.sleep(0.01)
    raise AssertionError("nothing was classified")


def assert_as_batch(folder: Path) -> None:
    given = ["flight.bil", "-m", "model.onnx", "-o", "batch.tif"]
    done = subprocess.run([*command()[:3], *given], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr
    for name in ("batch.tif", "batch.qml", "batch.tif.aux.xml"):
        live = folder / name.replace("batch", "live")
        assert live.read_bytes() == (folder / name).read_bytes()
    assert not list(folder.glob("live.tif.hsi*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_what_is_there(place: Path, number: signal.Signals) -> None:
    camera = Camera(place, tall_cube(ROWS))
    camera.write(120, part=0.7)
    process = started(place, "--json")
    try:
        wait_for_lines(place, 80)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[-1]["rows"] == 120
    assert {line["event"] for line in lines[:-1]} == {"classified", "end"}
    with rasterio.open(place / "live.tif") as raster:
        assert raster.shape == (120, 31)


@pytest.mark.parametrize("sensor_goes_on", [True, False])
def test_a_killed_run_goes_on(place: Path, sensor_goes_on: bool) -> None:
    camera = Camera(place, tall_cube(ROWS))
    camera.write(100, part=0.5)
    process = started(place)
    try:
        wait_for_lines(place, 60)
    finally:
        process.kill()
        process.communicate()
    assert not (place / "live.tif").exists()
    if sensor_goes_on:
        camera.finish()
    else:
        camera.header(100)
        with camera.path.open("r+b") as file:
            file.truncate(100 * camera.line_bytes)
    done = subprocess.run(command(), cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "live.tif\n"
    assert_as_batch(place)


def test_a_second_signal_stops_at_once(place: Path) -> None:
    """The first one is taken in order: here the engine never comes to its end."""
    camera = Camera(place, tall_cube(ROWS))
    camera.write(120)
    endless = (
        "import hashlib, os, sys\n"
        "from hsi_runtime.cli import main\n"
        "from hsi_runtime.follow import flight\n"
        "from hsi_runtime.engines.onnxruntime_cpu import OnnxruntimeCpu\n"
        "flight.is_exact = lambda *_: True\n"
        "def predict(*_):\n"
        "    os.write(1, b'computing\\n')\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)\n"
        "OnnxruntimeCpu.predict = predict\n"
        "main()\n"
    )
    given = [sys.executable, "-c", endless, *command("--threads", "2")[3:]]
    with subprocess.Popen(
        given, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "computing\n"
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(3)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 143
    assert "Repeat the command to resume" in err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--latency", "1s"], "'--latency': It needs --follow"),
        (["--idle", "1s"], "'--idle': It needs --follow"),
        (["--latest"], "'--latest': It needs --follow"),
        (["--follow", "--latency", "0s"], "'--latency': 0.0 s is not in"),
        (["--follow", "--latency", "1"], "is not a time such as 100ms"),
        (["--follow", "--latency", "never"], "is not a time such as 100ms"),
        (["--follow", "--exec", "true"], "name it with --on-class"),
        (["--follow", "--exec", "'"], "a quote that is open"),
        (["--follow", "--on-class", "a=2"], "2.0 is not in 0..1"),
        (["--follow", "--on-class", "a=b"], "is not NAME or NAME=SHARE"),
        (["--follow", "--window", "0,0,1,1"], "classified whole"),
        (["--follow", "--shard", "0/2"], "--follow takes one scene"),
        (["--follow", "b.bil"], "--follow takes one scene"),
        (["--follow", "--dry-run"], "--follow excludes"),
    ],
)
def test_contradictions_are_usage_errors(
    invoke: Any, given: list[str], message: str
) -> None:
    code, out, err = invoke(main, "a.bil", *given)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())


def test_idle_may_be_never(place: Path, invoke: Any) -> None:
    code, _, err = invoke(main, "a.bil", "--follow", "--idle", "never", "-m", "x")
    assert code == 4
    assert "no model file" in err

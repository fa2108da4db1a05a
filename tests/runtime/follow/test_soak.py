"""Faults at random moments of a flight: no wrong line, the same bytes in the end."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camera import Camera, tall_cube

from hsi_runtime.scenes.geotiff import open_tiff

ROWS, COLS = 240, 31
LINES_PER_WRITE = 12
SCRIPT = "from hsi_runtime.cli import main; main()"
KINDS = ("kill", "stop", "stall", "header", "drop", "truncate", "disk", "starve")
Fault = Callable[["Flight"], None]


class Flight:
    """A camera in a thread and a follower in a process, in a folder of their own."""

    def __init__(self, folder: Path, model: Path, kind: str, seed: int) -> None:
        self.folder, self.chance = folder, random.Random(seed)
        shutil.copy(model, folder / "model.onnx")
        cube = tall_cube(ROWS, seed=seed)
        self.more: list[str] = []
        if kind == "drop":
            cube[1, :, 4] = np.arange(ROWS) + 1
            lost = self.chance.sample(range(1, ROWS - 1), 9)
            cube = np.delete(cube, lost, axis=1)
            self.more = ["--frame-counter", "4,1"]
        promised = self.chance.choice([0, cube.shape[1], 10**6])
        self.camera = Camera(folder, cube, self.chance.choice(["bil", "bip"]), promised)
        self.hold, self.stall = threading.Event(), 0.0
        self.log = folder / "events.jsonl"
        self._writer = threading.Thread(target=self._write)

    def _write(self) -> None:
        """Write at about 400 lines a second, sometimes a part of a line first."""
        camera = self.camera
        rows = camera.cube.shape[1]
        while camera.written < rows:
            self.hold.wait()
            time.sleep(0.03 + self.stall)
            self.stall = 0.0
            lines = min(LINES_PER_WRITE, rows - camera.written)
            camera.write(lines, part=self.chance.random() if lines > 4 else 0.0)
        camera.header(rows)

    def follow(self, limit: int | None = None) -> "subprocess.Popen[bytes]":
        """Start hsi-run; with a limit, no file may become larger."""

        def limited() -> None:
            if limit is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        given = ["flight.bil", "-m", "model.onnx", "-o", "live.tif", "--threads", "1"]
        given += ["--follow", "--idle", "60s", "--events", str(self.log), *self.more]
        with (self.folder / "messages").open("ab") as messages:
            return subprocess.Popen(
                [sys.executable, "-c", SCRIPT, *given],
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
                stderr=messages,
                preexec_fn=limited,
            )

    def fly(self, fault: Fault) -> None:
        self._writer.start()
        self.hold.set()
        try:
            fault(self)
        finally:
            self.hold.set()
            self._writer.join()

    def wait_for_lines(self, lines: int) -> None:
        """Wait until so many rows were told."""
        limit = time.monotonic() + 120
        while self.told() < lines:
            assert time.monotonic() < limit, (self.folder / "messages").read_text()
            time.sleep(0.005)

    def events(self) -> list[dict[str, Any]]:
        text = self.log.read_text() if self.log.is_file() else ""
        return [json.loads(line) for line in text.splitlines()]

    def told(self) -> int:
        rows = [e["rows"] for e in self.events() if e["event"] == "classified"]
        return max((r[1] for r in rows), default=0)

    def finish(self) -> None:
        """Follow to the end, after a fault that ended the first command."""
        done = self.follow().wait(120)
        # 5: killed after its last file had its name; there was nothing left to do.
        assert done == 0 or (done == 5 and (self.folder / "live.tif").is_file()), (
            self.folder / "messages"
        ).read_text()

    def check(self) -> None:
        """Compare with a batch run: every byte, and every line that was told live."""
        given = ["flight.bil", "-m", "model.onnx", "-o", "batch.tif", *self.more]
        command = [sys.executable, "-c", SCRIPT, *given]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for name in ("batch.tif", "batch.tif.aux.xml", "batch.qml"):
            live = self.folder / name.replace("batch", "live")
            assert live.read_bytes() == (self.folder / name).read_bytes(), name
        with open_tiff(self.folder / "live.tif") as raster:
            codes = raster.read(1)
        for event in self.events():
            if event["event"] == "classified":
                top, bottom = event["rows"]
                counts = {
                    str(c): int((codes[top:bottom] == c).sum()) for c in (2, 3, 7)
                }
                assert counts == event["classes"]
                assert event["lag_ms"] >= 0
                assert event["lag_lines"] >= 0


def kill(flight: Flight) -> None:
    process = flight.follow()
    flight.wait_for_lines(flight.chance.randint(1, ROWS // 2))
    time.sleep(flight.chance.random() * 0.1)
    process.kill()
    process.wait()
    flight.finish()


def stop(flight: Flight) -> None:
    process = flight.follow()
    flight.wait_for_lines(flight.chance.randint(1, ROWS // 2))
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.2)
    process.send_signal(signal.SIGCONT)
    assert process.wait(120) == 0


def stall(flight: Flight) -> None:
    process = flight.follow()
    flight.wait_for_lines(flight.chance.randint(1, ROWS // 2))
    flight.stall = 0.8
    assert process.wait(120) == 0


def header(flight: Flight) -> None:
    """Rewrite the header while lines come: torn, counting along, with a new field."""
    process = flight.follow()
    flight.wait_for_lines(flight.chance.randint(1, ROWS // 2))
    flight.hold.clear()
    time.sleep(0.1)  # the writer is between two writes
    whole = flight.camera.header_path.read_text()
    flight.camera.header_path.write_text(whole[: len(whole) // 2])
    time.sleep(0.1)
    flight.camera.header(flight.camera.written, description="{half way}")
    flight.hold.set()
    assert process.wait(120) == 0


def drop(flight: Flight) -> None:
    process = flight.follow()
    assert process.wait(120) == 0


def truncate(flight: Flight) -> None:
    process = flight.follow()
    flight.wait_for_lines(flight.chance.randint(30, ROWS // 2))
    flight.hold.clear()
    time.sleep(0.1)
    data = flight.camera.path.read_bytes()
    os.truncate(flight.camera.path, flight.chance.randint(0, 20 * 248))
    assert process.wait(120) == 3
    assert not (flight.folder / "live.tif").exists()
    with flight.camera.path.open("r+b") as file:
        file.write(data)
    flight.hold.set()
    flight.finish()


def disk(flight: Flight) -> None:
    process = flight.follow(limit=flight.chance.randint(2500, ROWS * COLS - 1))
    assert process.wait(120) == 6
    assert not (flight.folder / "live.tif").exists()
    flight.finish()


def starve(flight: Flight) -> None:
    burning = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)
    ]
    try:
        process = flight.follow()
        assert process.wait(120) == 0
    finally:
        for other in burning:
            other.kill()
            other.wait()


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (kill, stop, stall, header, drop, truncate, disk, starve)
}


def one(folder: Path, model: Path, kind: str, seed: int) -> None:
    folder.mkdir()
    flight = Flight(folder, model, kind, seed)
    flight.fly(FAULTS[kind])
    flight.check()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def model_path(
    write_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_of_each_kind(tmp_path: Path, model_path: Path, kind: str) -> None:
    one(tmp_path / kind, model_path, kind, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_hundred_faults(tmp_path: Path, model_path: Path) -> None:
    for number in range(100):
        kind = KINDS[number % len(KINDS)]
        one(tmp_path / f"{number}-{kind}", model_path, kind, seed=100 + number)
        print(number, kind, flush=True)

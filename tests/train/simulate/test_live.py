"""The simulated camera: every line as it was simulated, wherever it goes."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hsi_runtime.errors import OutputError
from hsi_runtime.follow.sources.ring import RingReader
from hsi_runtime.scenes.opening import open_scene
from hsi_train.simulate import SceneSpec, band_centres, simulate_window
from hsi_train.simulate.live import Camera, fly

BANDS, COLS, ROWS = 5, 13, 40
SPEC = SceneSpec(rows=ROWS, cols=COLS, wavelengths_nm=band_centres(BANDS))
FAST = Camera(lines_per_second=0)
NEVER = threading.Event()


def read(path: Path) -> NDArray[Any]:
    scene = open_scene(path)
    info = scene.info
    cube = scene.read((0, info.rows), (0, info.cols), np.arange(info.bands))
    scene.close()
    return cube


@pytest.mark.parametrize("layout", ["bil", "bip"])
def test_a_file_in_the_end_is_the_scene(tmp_path: Path, layout: Any) -> None:
    path = tmp_path / "f.bil"
    camera = Camera(lines_per_second=20_000, jitter=1.0, stalls=50, stall_s=0.01)
    assert fly(SPEC, path, layout, "file", camera, NEVER) == ROWS
    assert (read(path) == simulate_window(SPEC, 0, ROWS)[0]).all()


def test_lines_come_backwards_after_a_cycle(tmp_path: Path) -> None:
    path = tmp_path / "f.bil"
    fly(SPEC, path, "bil", "file", Camera(lines_per_second=0, cycle=11), NEVER)
    cube = read(path)
    assert (cube[:, :11] == cube[:, 20:9:-1]).all()
    assert (cube[:, :11] == cube[:, 20:31]).all()


def test_dropped_frames_are_missing_from_the_count(tmp_path: Path) -> None:
    path = tmp_path / "f.bil"
    camera = Camera(lines_per_second=0, drops=0.3, counter=(2, 1), seed=4)
    written = fly(SPEC, path, "bil", "file", camera, NEVER)
    frames = read(path)[1, :, 2]
    assert 0 < written == len(frames) < ROWS
    assert (np.diff(frames.astype(int)) > 0).all()


def test_the_first_header_promises_and_the_last_one_knows(tmp_path: Path) -> None:
    path, times = tmp_path / "f.bil", tmp_path / "t"
    stop = threading.Event()
    stop.set()
    camera = Camera(lines_per_second=1, promised=77)
    assert fly(SPEC, path, "bil", "file", camera, stop, times) == 0
    assert "lines = 0\n" in (tmp_path / "f.hdr").read_text()
    fly(SPEC, path, "bil", "file", FAST, NEVER, times, overwrite=True)
    assert len(np.fromfile(times)) == ROWS
    with pytest.raises(OutputError, match="exists"):
        fly(SPEC, path, "bil", "file", FAST, NEVER)


def test_a_fifo_gets_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "f.fifo"
    os.mkfifo(path)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    fly(SPEC, path, "bil", "fifo", FAST, NEVER)
    reader.join()
    cube, _, _ = simulate_window(SPEC, 0, ROWS)
    assert got == [cube.transpose(1, 0, 2).tobytes()]


def test_a_ring_gets_the_same_lines(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    fly(SPEC, path, "bip", "shm", FAST, NEVER)
    ring = RingReader(path)
    assert (ring.written, ring.ended) == (ROWS, True)
    lines = [ring.read() for _ in range(ROWS)]
    ring.close()
    cube, _, _ = simulate_window(SPEC, 0, ROWS)
    assert b"".join(line or b"" for line in lines) == cube.transpose(1, 2, 0).tobytes()


def test_the_command_ends_in_order(tmp_path: Path) -> None:
    path = tmp_path / "f.bil"
    given = [sys.executable, "-m", "hsi_train.simulate", str(path), "--live"]
    given += ["--rows", "100000", "--cols", "13", "--bands", "5", "--cycle", "20"]
    with subprocess.Popen(given) as process:
        while not path.exists() or path.stat().st_size < 130 * 5:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    lines = read(path).shape[1]
    assert f"lines = {lines}\n" in (tmp_path / "f.hdr").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--layout", "bsq"], "bil or bip, not bsq"),
        (["--frame-counter", "99,0"], "lies outside 13 columns"),
        (["--frame-counter", "1"], "is not COL,BAND"),
        (["--frame-counter", "-1,0"], "negative"),
    ],
)
def test_what_no_camera_does(tmp_path: Path, given: list[str], message: str) -> None:
    size = ["--rows", "9", "--cols", "13", "--bands", "5"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "hsi_train.simulate", str(tmp_path / "f.bil")),
            *("--live", *size, *given),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode in (2, 5)
    assert message in " ".join(done.stderr.split())

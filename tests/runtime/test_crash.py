"""Runs that are killed, stopped, starved of disk: nothing is lost, nothing is wrong."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from msgspec.structs import replace
from signalled import signalled

from hsi_runtime.model.model_file import ModelDocument

ROWS, COLS = 1500, 700


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    write_model: Callable[..., Path],
    write_scene_tiff: Callable[..., Path],
) -> Path:
    """A folder with a scene that takes about a second, its model, and its map."""
    folder = tmp_path_factory.mktemp("crash")
    values = np.random.default_rng(0).integers(1, 9999, (4, ROWS, COLS))
    scene = values.astype(np.uint16)
    scene[:, 100:140, 50:400] = 0
    write_scene_tiff(
        folder / "scene.tif", scene, nodata=0, tiled=True, blockxsize=64, blockysize=64
    )
    write_model(folder / "model.onnx")
    finished = run(folder, "reference.tif")
    assert finished.returncode == 0, finished.stderr
    return folder


def command(folder: Path, output: str, *more: str) -> list[str]:
    script = "from hsi_runtime.cli import main; main()"
    return [
        *(sys.executable, "-c", script, str(folder / "scene.tif")),
        *("-m", str(folder / "model.onnx"), "-o", str(folder / output)),
        *("--tile", "12", "--confidence", "--threads", "1", *more),
    ]


def run(folder: Path, output: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, output, *more), capture_output=True, text=True
    )


def clean(folder: Path, stem: str) -> None:
    for path in folder.glob(f"{stem}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def assert_same(folder: Path, stem: str) -> None:
    for kind in ("", "_confidence"):
        made = (folder / f"{stem}{kind}.tif").read_bytes()
        assert made == (folder / f"reference{kind}.tif").read_bytes()


def kill_and_resume(folder: Path, kills: int, seed: int) -> None:
    """Kill runs at random moments until some are done; all must give one map."""
    moments = random.Random(seed)
    started = time.monotonic()
    assert run(folder, "timed.tif").returncode == 0
    longest = time.monotonic() - started
    clean(folder, "timed")
    killed = 0
    while killed < kills:
        process = subprocess.Popen(
            command(folder, "killed.tif"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            code = process.wait(moments.uniform(0.2, 1.1) * longest)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
            continue
        # 5: killed after its last file had its name; there was nothing left to do.
        assert code in (0, 5)
        assert_same(folder, "killed")
        clean(folder, "killed")
    assert run(folder, "killed.tif").returncode in (0, 5)
    assert_same(folder, "killed")
    clean(folder, "killed")


def test_killed_runs_resume_to_the_same_bytes(place: Path) -> None:
    kill_and_resume(place, kills=8, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_two_hundred_kills(place: Path) -> None:
    kill_and_resume(place, kills=200, seed=2)


def test_a_killed_run_takes_over_what_was_finished(place: Path) -> None:
    process = subprocess.Popen(command(place, "part.tif"), stderr=subprocess.DEVNULL)
    journal = place / "part.tif.hsi-part" / "journal.jsonl"
    wait_for(lambda: journal.is_file() and journal.read_bytes().count(b"\n") > 10)
    process.kill()
    process.wait()
    assert not (place / "part.tif").exists()
    finished = run(place, "part.tif", "--json")
    assert json.loads(finished.stdout)["resumed_windows"] > 0
    assert_same(place, "part")
    clean(place, "part")


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)],
)
def test_a_run_that_a_signal_stops_resumes(
    place: Path, number: signal.Signals, code: int
) -> None:
    process = subprocess.Popen(
        command(place, "stopped.tif"), stderr=subprocess.PIPE, text=True
    )
    wait_for((place / "stopped.tif.hsi-part" / "journal.jsonl").is_file)
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == code
    assert "resume" in said
    assert "Traceback" not in said
    assert not (place / "stopped.tif").exists()
    assert run(place, "stopped.tif").returncode == 0
    assert_same(place, "stopped")
    clean(place, "stopped")


# A FAKE of an engine that does not end: for minutes it is outside Python.
ENDLESS = r"""
import hashlib
import os
from hsi_runtime.cli import main
from hsi_runtime.engines.onnxruntime_cpu import OnnxruntimeCpu

def predict(*given):
    os.write(1, b"computing\n")  # in one piece: several threads do
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

OnnxruntimeCpu.predict = predict
main()
"""


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_engine_that_does_not_end_is_abandoned(
    place: Path, number: signal.Signals, threads: str
) -> None:
    given = [sys.executable, "-c", ENDLESS, *command(place, "endless.tif")[3:]]
    code, message = signalled([*given, "--threads", threads], "computing", number)
    assert code == (130 if number == signal.SIGINT else 143)
    assert "Repeat the command to resume" in message
    assert not (place / "endless.tif").exists()
    clean(place, "endless")


def limit_files(size: int) -> Callable[[], None]:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


# At the start the scratch of ROWS x COLS bytes does not fit; 4 KiB less than needed
# for the map lets the scratch pass and stops GDAL.
@pytest.mark.parametrize("size", [4096, ROWS * COLS // 2, ROWS * COLS - 1])
def test_full_disk_at_the_start(place: Path, size: int) -> None:
    starved = subprocess.run(
        command(place, "full.tif"),
        capture_output=True,
        text=True,
        preexec_fn=limit_files(size),
    )
    assert starved.returncode == 6, starved.stderr
    assert "full" in starved.stderr
    assert not (place / "full.tif").exists()
    assert run(place, "full.tif").returncode == 0
    assert_same(place, "full")
    clean(place, "full")


def tampered(place: Path, change: Callable[[Path], Any]) -> dict[str, Any]:
    """Stop a run, change its scratch, finish it; return what it reports."""
    process = subprocess.Popen(command(place, "torn.tif"), stderr=subprocess.DEVNULL)
    folder = place / "torn.tif.hsi-part"
    journal = folder / "journal.jsonl"
    wait_for(lambda: journal.is_file() and journal.read_bytes().count(b"\n") > 5)
    process.kill()
    process.wait()
    change(folder)
    finished = run(place, "torn.tif", "--json")
    assert finished.returncode == 0, finished.stderr
    assert_same(place, "torn")
    clean(place, "torn")
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


@pytest.mark.parametrize("cut", [1, 7, 40, 90])
def test_a_torn_journal_line_is_dropped(place: Path, cut: int) -> None:
    def tear(folder: Path) -> None:
        journal = folder / "journal.jsonl"
        os.truncate(journal, journal.stat().st_size - cut)

    tampered(place, tear)


def test_wrong_bytes_are_computed_again(place: Path) -> None:
    def flip(folder: Path) -> None:
        with (folder / "classes.raw").open("r+b") as file:
            file.seek(COLS * 3)
            file.write(b"\x07" * 50)

    tampered(place, flip)


def test_a_changed_scene_is_not_resumed(
    place: Path, tmp_path: Path, write_scene_tiff: Callable[..., Path]
) -> None:
    for name in ("scene.tif", "model.onnx"):
        shutil.copy(place / name, tmp_path)
    process = subprocess.Popen(command(tmp_path, "new.tif"), stderr=subprocess.DEVNULL)
    journal = tmp_path / "new.tif.hsi-part" / "journal.jsonl"
    wait_for(lambda: journal.is_file() and journal.read_bytes().count(b"\n") > 5)
    process.kill()
    process.wait()
    values = np.random.default_rng(1).integers(1, 9999, (4, ROWS, COLS))
    write_scene_tiff(
        tmp_path / "scene.tif", values.astype(np.uint16), nodata=0, tiled=True,
        blockxsize=64, blockysize=64,
    )  # fmt: skip
    assert_starts_afresh(tmp_path, "new")
    assert (tmp_path / "new.tif").read_bytes() != (place / "reference.tif").read_bytes()


def assert_starts_afresh(folder: Path, stem: str) -> None:
    """Repeat a run: no piece of the scene as it was enters the map of the present."""
    finished = run(folder, f"{stem}.tif", "--json")
    assert finished.returncode == 0, finished.stderr
    assert "The scene has changed since the interrupted run" in finished.stderr
    assert json.loads(finished.stdout)["resumed_windows"] == 0
    assert run(folder, "reference.tif").returncode == 0
    assert_same(folder, stem)


def test_a_half_copied_scene_is_mapped_once_it_is_complete(
    tmp_path: Path,
    write_model: Callable[..., Path],
    write_scene_tiff: Callable[..., Path],
    document: ModelDocument,
) -> None:
    values = np.random.default_rng(0).integers(1, 9999, (4, ROWS, COLS))
    # Without wavelengths and scale, the tags lie at the front: half a file opens.
    scene = write_scene_tiff(
        tmp_path / "scene.tif", values.astype(np.uint16), None, None, tiled=True,
        blockxsize=64, blockysize=64, interleave="pixel",
    )  # fmt: skip
    unknown = replace(document.values, quantity="unknown", scale=None, offset=None)
    write_model(tmp_path / "model.onnx", replace(document, values=unknown))
    whole = scene.read_bytes()
    scene.write_bytes(whole[: len(whole) // 2])
    refused = run(tmp_path, "half.tif")
    assert refused.returncode == 3, refused.stderr
    assert "Is the file complete?" in refused.stderr
    assert not (tmp_path / "half.tif").exists()
    assert (tmp_path / "half.tif.hsi-part" / "journal.jsonl").stat().st_size > 0
    scene.write_bytes(whole)
    assert_starts_afresh(tmp_path, "half")


def test_other_options_are_not_resumed(place: Path) -> None:
    process = subprocess.Popen(command(place, "other.tif"), stderr=subprocess.DEVNULL)
    journal = place / "other.tif.hsi-part" / "journal.jsonl"
    wait_for(lambda: journal.is_file() and journal.read_bytes().count(b"\n") > 2)
    process.kill()
    process.wait()
    refused = run(place, "other.tif", "--reject", "0.5")
    assert refused.returncode == 5
    assert "reject" in refused.stderr
    clean(place, "other")


def test_two_runs_on_one_output(place: Path) -> None:
    first = subprocess.Popen(command(place, "both.tif"), stderr=subprocess.DEVNULL)
    wait_for((place / "both.tif.hsi-part" / "journal.jsonl").is_file)
    first.send_signal(signal.SIGSTOP)  # the second may take longer to start
    second = run(place, "both.tif")
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 5
    assert f"process {first.pid}" in second.stderr
    assert first.wait() == 0
    assert_same(place, "both")
    clean(place, "both")


def test_an_older_output_stays_valid_until_the_end(place: Path) -> None:
    assert run(place, "old.tif").returncode == 0
    before = (place / "old.tif").read_bytes()
    process = subprocess.Popen(
        command(place, "old.tif", "--overwrite"), stderr=subprocess.DEVNULL
    )
    wait_for((place / "old.tif.hsi-part" / "journal.jsonl").is_file)
    process.kill()
    process.wait()
    assert (place / "old.tif").read_bytes() == before
    with rasterio.open(place / "old.tif") as raster:
        assert raster.read(1).shape == (ROWS, COLS)
    clean(place, "old")

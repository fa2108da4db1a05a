"""Workers and joiners that are killed at any moment: every map is that of one run."""

import json
import random
import subprocess
import time
from pathlib import Path

import pytest
from hsi_run import PIXELS, assert_same_maps, command, start_afresh

PARTS = 3


def kill_and_repeat(place: Path, kills: int, seed: int) -> None:
    """Kill parts and joins at random moments until enough were; compare every map."""
    start_afresh(place)
    moments, killed = random.Random(seed), 0
    while killed < kills:
        tasks = [[f"--part={index}/{PARTS}"] for index in range(PARTS)]
        moments.shuffle(tasks)
        for task in [*tasks, ["--join"]]:
            while True:
                started = time.monotonic()
                process = subprocess.Popen(
                    command(place, "many.tif", *task),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                limit = moments.uniform(0.2, 2.0) if killed < kills else None
                try:
                    out, said = process.communicate(timeout=limit)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
                    assert time.monotonic() > started
                    killed += 1
                    continue
                assert process.returncode == 0, said
                break
            assert not list((place / "many.tif.hsi-parts").glob("*.piece.*.part"))
        report = json.loads(out)
        if "status" not in report:  # not killed after all was done
            assert sum(row["pixels"] for row in report["parts"]) <= PIXELS
        assert_same_maps(place)
        start_afresh(place)


def test_killed_parts_and_joins_are_repeated(place: Path) -> None:
    kill_and_repeat(place, kills=5, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_fifty_kills(place: Path) -> None:
    kill_and_repeat(place, kills=50, seed=2)


def test_attempts_of_a_killed_part_are_counted(place: Path) -> None:
    start_afresh(place)
    process = subprocess.Popen(
        command(place, "many.tif", "--part", "0/1"), stderr=subprocess.DEVNULL
    )
    folder = place / "many.tif.hsi-parts"
    limit = time.monotonic() + 30
    while not list(folder.glob("*.piece")):
        assert time.monotonic() < limit
        time.sleep(0.002)
    process.kill()
    process.wait()
    for task in (["--part", "0/1"], ["--join"]):
        done = subprocess.run(
            command(place, "many.tif", *task), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["parts"]
    assert (row["part"], row["attempts"]) == ("0/1", 2)
    assert 0 < row["pixels"] < PIXELS

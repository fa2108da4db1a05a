"""A list of scenes over several processes, one of which is killed and started again."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

SCENES, SHARDS, SIDE = 20, 3, 160


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    write_model: Callable[..., Path],
    write_scene_tiff: Callable[..., Path],
) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    random = np.random.default_rng(0)
    for number in range(SCENES):
        values = random.integers(1, 9999, (4, SIDE, SIDE)).astype(np.uint16)
        write_scene_tiff(
            folder / f"s{number:02}.tif", values, blockysize=16, nodata=9000
        )
    names = [f"s{number:02}.tif" for number in range(SCENES)]
    (folder / "list.txt").write_text("\n".join(names))
    write_model(folder / "model.onnx")
    return folder


def start(place: Path, output: Path, shard: str | None) -> subprocess.Popen[str]:
    script = "from hsi_runtime.cli import main; main()"
    part = [] if shard is None else ["--shard", shard]
    return subprocess.Popen(
        [
            *(sys.executable, "-c", script, str(place / "list.txt")),
            *("-m", str(place / "model.onnx"), "-o", str(output)),
            *("--tile", "4", "--threads", "1", "-q", *part),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said


def test_shards_one_killed_and_restarted_equal_one_run(place: Path) -> None:
    single, many = place / "single", place / "many"
    single.mkdir()
    many.mkdir()
    finish(start(place, single, None))
    shards = [start(place, many, f"{n}/{SHARDS}") for n in range(SHARDS)]
    victim = shards[1]
    limit = time.monotonic() + 60

    def midway() -> bool:
        """One scene of the victim is done, and another has finished pieces."""
        journals = [
            many / f"s{n:02}_classes.tif.hsi-part" / "journal.jsonl"
            for n in range(1, SCENES, SHARDS)
        ]
        at_work = any(j.is_file() and j.stat().st_size for j in journals[1:])
        return (many / "s01_classes.tif").is_file() and at_work

    while not midway():
        assert victim.poll() is None, "the shard was too fast to be killed"
        assert time.monotonic() < limit
        time.sleep(0.001)
    victim.kill()
    victim.communicate()
    finished = {p.name for p in many.glob("*_classes.tif")}
    assert "s19_classes.tif" not in finished
    restarted = start(place, many, f"1/{SHARDS}")
    for process in (shards[0], shards[2], restarted):
        finish(process)
    made = sorted(p.name for p in many.iterdir())
    assert made == sorted(p.name for p in single.iterdir())
    assert len([name for name in made if name.endswith("_classes.tif")]) == SCENES
    for path in single.glob("*.tif"):
        assert path.read_bytes() == (many / path.name).read_bytes()
        with rasterio.open(many / path.name) as file:
            assert (file.read(1) != 0).all()

"""That hsi-run and the loops it is compared with do the same work."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peers
import rasterio
from numpy.typing import NDArray

from hsi_runtime.model.model_file import read_model


def test_the_plain_loop_gives_the_same_map(
    write_model: Callable[..., Path],
    write_scene_tiff: Callable[..., Path],
    cube: NDArray[Any],
    tmp_path: Path,
) -> None:
    model = read_model(write_model(tmp_path / "model.onnx"))
    scene = write_scene_tiff(tmp_path / "scene.tif", cube)
    ours, theirs = tmp_path / "ours.tif", tmp_path / "theirs.tif"
    run = peers.hsi_run(peers.ROOT, model.path, scene, ours)
    assert run["decoded_over_source"] == 1
    loop = peers.loop(sys.executable, "rasterio", model, scene, theirs)
    assert loop["cpu_seconds"] > 0
    assert loop["peak_memory_bytes"] > 10e6
    codes = np.array([0, *(c.code for c in model.document.classes)])
    with rasterio.open(ours) as a, rasterio.open(theirs) as b:
        np.testing.assert_array_equal(a.read(1), codes[b.read(1)])


def test_layouts_hold_the_same_values(tmp_path: Path) -> None:
    made = peers.scenes(tmp_path, 20, 30)
    with rasterio.open(tmp_path / "plain.tif") as file:
        expected = file.read()
    for name, path in made.items():
        driver = "ENVI" if name == "BIL" else "GTiff"
        with rasterio.open(path, driver=driver) as file:
            np.testing.assert_array_equal(file.read(), expected)


def test_finished_runs_are_not_repeated(tmp_path: Path) -> None:
    scene = tmp_path / "s.tif"
    scene.write_bytes(b"")
    calls: list[Path] = []

    def run(path: Path) -> dict[str, Any]:
        calls.append(path)
        return {"cpu_seconds": 1.0 + len(calls)}

    journal = tmp_path / "runs.jsonl"
    first = peers.measure({"a": scene}, {"hsi-run": run, "loop": run}, journal, 1)
    again = peers.measure({"a": scene}, {"hsi-run": run, "loop": run}, journal, 2)
    assert again[:2] == first
    assert len(calls) == 4


def test_processor_time_is_compared_round_by_round() -> None:
    rest = {"wall_seconds": 9.0, "peak_memory_bytes": 4e8}
    runs = [
        {"case": "BIL", "runner": name, "round": n, "cpu_seconds": seconds} | rest
        for n, pair in enumerate(((2.0, 3.0), (4.0, 8.0), (2.0, 5.0)))
        for name, seconds in zip(("hsi-run", "rasterio"), pair, strict=True)
    ]
    ours, theirs = peers.summary(runs)
    assert ours["cpu_over_hsi_run"] == 1
    assert theirs["cpu_over_hsi_run"] == 2
    assert theirs["cpu_over_hsi_run_range"] == [1.5, 2.5]
    assert "| BIL | rasterio | 5.00 | 2.0 (1.5-2.5) | 9.00 | 400 |" in (
        peers.markdown([ours, theirs])
    )


def test_an_older_checkout_makes_its_own_model(tmp_path: Path) -> None:
    path = peers.old_model(peers.ROOT, tmp_path / "before", "lda")
    assert read_model(path).document.method == "lda"
    made = path.stat().st_mtime_ns
    assert peers.old_model(peers.ROOT, tmp_path / "before", "lda") == path
    assert path.stat().st_mtime_ns == made

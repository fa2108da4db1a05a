"""That hsi-run is measured from outside to inside, not what it takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import end_to_end
import numpy as np
import pytest
from click.testing import CliRunner

from hsi_runtime.model.model_file import ModelFile, read_model


def found(method: str, wall: float, infer: float) -> dict[str, Any]:
    return {
        "size": 0.1,
        "method": method,
        "wall": wall,
        "read": 1.0,
        "infer": infer,
        "write": 0.5,
        "wall_over_infer": wall / infer,
        "pixels_per_second": 1e6 / wall,
        "peak_memory_bytes": 300_000_000,
    }


def test_a_run_is_timed_from_outside(
    write_model: Callable[..., Path],
    write_scene_tiff: Callable[..., Path],
    cube: np.ndarray[Any, Any],
    tmp_path: Path,
) -> None:
    model = read_model(write_model(tmp_path / "model.onnx"))
    scene = write_scene_tiff(tmp_path / "scene.tif", cube)
    measured = end_to_end.run(scene, model, tmp_path)
    assert (tmp_path / "map.tif").is_file()
    assert 0 < measured["infer"] < measured["wall"]
    assert measured["peak_memory_bytes"] > 10e6


def test_summary_takes_the_middle() -> None:
    runs = [found("mf2cnet", wall, 2.0) for wall in (2.2, 4.0, 2.4)]
    (row,) = end_to_end.summary(runs)
    assert row["runs"] == 3
    assert row["wall_seconds"] == 2.4
    assert row["wall_seconds_range"] == [2.2, 4.0]
    assert (row["wall_over_infer"], row["wall_over_infer_range"]) == (1.2, [1.1, 2.0])


def test_table_has_a_row_for_each_method() -> None:
    runs = [found(method, 2.2, 2.0) for method in ("mf2cnet", "s2vnet")]
    text = end_to_end.markdown(end_to_end.summary(runs))
    lines = text.splitlines()
    (ratios,) = (x for x in lines if x.startswith("| 0.1 | s2vnet | 2.20 (2.2-2.2) |"))
    assert ratios.endswith("| 1.1 (1.1-1.1) | 454,545 | 300 |")
    assert "Machine: " in text


def test_finished_runs_are_kept(
    write_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        common,
        "make_model",
        lambda place, *_: read_model(write_model(place / "model.onnx")),
    )
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(end_to_end, "QUICK_SIZE", 1e-5)
    calls: list[str] = []

    def run(scene: Path, model: ModelFile, folder: Path) -> dict[str, Any]:
        assert scene.is_file()
        calls.append(model.path.parent.name)
        return found(model.path.parent.name, 2.2, 2.0)

    monkeypatch.setattr(end_to_end, "run", run)
    given = ["--method", "mf2cnet", "--method", "s2vnet", "--folder", str(tmp_path)]

    def start(*arguments: str) -> str:
        done = CliRunner().invoke(end_to_end.main, [*given, *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    start("--size", "2e-5", "--rounds", "2")
    assert calls == ["mf2cnet", "s2vnet", "s2vnet", "mf2cnet"]  # in turns
    assert not list(tmp_path.glob("scene*"))
    start("--size", "2e-5", "--rounds", "3")
    assert calls[4:] == ["mf2cnet", "s2vnet"]
    written = (tmp_path / "end_to_end.md").read_text()
    output = start("--quick", "--rounds", "1")
    assert calls[6:] == ["mf2cnet", "s2vnet"]
    assert "| s2vnet | 2.20 (2.2-2.2) |" in output
    assert (tmp_path / "end_to_end.md").read_text() == written

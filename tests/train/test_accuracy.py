import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hsi_runtime import command_line
from hsi_runtime.errors import SceneError
from hsi_train import accuracy

WriteTif = Callable[..., Path]
# Olofsson et al. (2014), tables 8 and 9: mapped class, true class, a tenth of the map.
SAMPLE = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
MAPPED = (20_000, 15_000, 320_000, 645_000)


@pytest.fixture
def example(tmp_path: Path, write_tif: WriteTif) -> tuple[Path, Path]:
    """The worked example as two rasters of 1000 x 1000 pixels of 30 m."""
    codes = np.repeat([1, 2, 3, 4], MAPPED).astype(np.uint8)
    truth = np.zeros_like(codes)
    for row, start in zip(SAMPLE, np.cumsum([0, *MAPPED[:3]]), strict=True):
        labels = np.repeat([1, 2, 3, 4], row)
        truth[start : start + len(labels)] = labels
    shape = (1000, 1000)
    grid: dict[str, Any] = {"step": 30.0, "nodata": 255}
    return (
        write_tif(tmp_path / "map.tif", codes.reshape(shape), **grid),
        write_tif(tmp_path / "truth.tif", truth.reshape(shape), **grid),
    )


def test_areas_of_the_worked_example(example: tuple[Path, Path]) -> None:
    found = accuracy.compare(*example, probability_sample=True)
    assert found["pixels"] == SAMPLE.sum()
    assert found["overall_accuracy"] == pytest.approx(np.trace(SAMPLE) / SAMPLE.sum())
    adjusted = found["area_adjusted"]
    assert adjusted["overall_accuracy"][0] == pytest.approx(0.947, abs=0.001)
    deforested = np.array(adjusted["classes"][0]["area_m2"]) / 1e4  # ha
    assert deforested[0] == pytest.approx(2_115.8, abs=0.1)
    assert deforested[2] - deforested[0] == pytest.approx(615.8, abs=0.2)
    assert "area_adjusted" not in accuracy.compare(*example)


def test_a_mapped_class_that_the_sample_lacks(
    example: tuple[Path, Path], tmp_path: Path, write_tif: WriteTif
) -> None:
    codes = np.ones((9, 9), dtype=np.uint8)
    codes[0] = 2
    truth = np.where(codes == 1, 1, 0).astype(np.uint8)
    paths = (
        write_tif(tmp_path / "m.tif", codes, nodata=255),
        write_tif(tmp_path / "t.tif", truth, nodata=255),
    )
    with pytest.raises(SceneError, match="fewer than 2 pixels of the sample"):
        accuracy.compare(*paths, probability_sample=True)
    assert accuracy.compare(*paths)["overall_accuracy"] == 1


def test_command(
    example: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*options: str) -> tuple[Any, str]:
        arguments = ["accuracy", *map(str, example), *options]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as stopped:
            command_line.run(accuracy.command)
        printed = capsys.readouterr()
        return stopped.value.code, printed.out + printed.err

    code, said = run("--probability-sample")
    assert code == 0
    assert said.startswith("640 pixels: overall accuracy 91.72%")
    assert "    1     2.4 (  1.7..  3.0)    88.0 ( 80.6.. 95.4)" in said
    assert "overall accuracy, of the area: 94.7 ( 92.8.. 96.5) %" in said
    code, said = run("--probability-sample", "--abundances", "a.tif")
    assert code == 2
    assert "picks pixels" in said

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from hsi_runtime import command_line
from hsi_runtime.errors import SceneError
from hsi_train.accuracy import command
from hsi_train.measuring import accuracy

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
            command_line.run(command)
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


def test_what_the_truth_declares_as_missing_is_no_class(
    tmp_path: Path, write_tif: WriteTif
) -> None:
    codes = np.array([[1, 1, 2], [2, 1, 2]], dtype=np.uint8)
    found = write_tif(tmp_path / "map.tif", codes, nodata=255)
    truth = np.array([[1, 255, 2], [1, 0, 2]], dtype=np.uint8)
    whole = write_tif(tmp_path / "whole.tif", truth, nodata=255)
    real = np.where(truth == 255, np.nan, truth).astype(np.float32)
    other = write_tif(tmp_path / "real.tif", real, nodata=np.nan)
    for path in (whole, other):
        result = accuracy.compare(found, path)
        assert result["pixels"] == 4
        assert result["overall_accuracy"] == 0.75
        assert result["average_accuracy"] == pytest.approx((0.5 + 1) / 2)
    half = write_tif(tmp_path / "half.tif", real + 0.5)
    with pytest.raises(SceneError, match="expected whole label codes"):
        accuracy.compare(found, half)


@pytest.mark.parametrize("layer", ["truth", "abundances"])
def test_rasters_of_another_place_or_size(
    tmp_path: Path, write_tif: WriteTif, layer: str
) -> None:
    codes = np.ones((5, 5), dtype=np.uint8)
    found = write_tif(tmp_path / "map.tif", codes, nodata=255)
    fits = write_tif(tmp_path / "fits.tif", codes)
    moved = write_tif(tmp_path / "moved.tif", codes, origin=(4e5, 5e6))
    small = write_tif(tmp_path / "small.tif", codes[:3])
    for wrong, message in ((moved, "grid lies elsewhere"), (small, "3 x 5 pixels")):
        paths = (wrong, None) if layer == "truth" else (fits, wrong)
        with pytest.raises(SceneError, match=message):
            accuracy.compare(found, *paths)


def test_abundances_count_by_the_scale_of_their_file(
    tmp_path: Path, write_tif: WriteTif
) -> None:
    """hsi-run stores them in steps of 1/10000; the simulator as they are."""
    codes = np.array([[1, 2, 1, 2]], dtype=np.uint8)
    found = write_tif(tmp_path / "map.tif", codes, nodata=255)
    truth = write_tif(tmp_path / "truth.tif", np.array([[1, 1, 1, 2]], dtype=np.uint8))
    shares = np.array([[[0.9, 0.4, 0.8, 0]], [[0.1, 0.6, 0.2, 0]]])
    plain = write_tif(tmp_path / "plain.tif", shares.astype(np.float32))
    stored = np.rint(shares * 10_000).astype(np.uint16)
    stored[..., 3] = 65535
    steps = write_tif(tmp_path / "steps.tif", stored, nodata=65535)
    with rasterio.open(steps, "r+") as raster:
        raster.scales = (1e-4, 1e-4)
    for path in (plain, steps):
        result = accuracy.compare(found, truth, path, 0.7)
        assert result["pixels"] == 2
        assert result["overall_accuracy"] == 1


def test_what_is_no_class_map_is_refused(tmp_path: Path, write_tif: WriteTif) -> None:
    codes = np.array([[1, 1, 2], [2, 1, 2]], dtype=np.uint8)
    good = write_tif(tmp_path / "good.tif", codes, nodata=255)
    cube = write_tif(tmp_path / "cube.tif", np.stack([codes] * 20))
    for pair in ((cube, good), (good, cube)):
        with pytest.raises(SceneError, match=r"has 20 bands; a .* has one"):
            accuracy.compare(*pair)
    half = write_tif(tmp_path / "half.tif", codes + np.float32(0.5))
    negative = write_tif(tmp_path / "negative.tif", codes.astype(np.int16) - 9)
    for path in (half, negative):
        with pytest.raises(SceneError, match=r"whole label codes.*Is it a class map"):
            accuracy.compare(path, good)


@pytest.mark.parametrize("nodata", [None, np.nan, -9999.0])
def test_map_without_a_number_has_no_data_there(
    tmp_path: Path, write_tif: WriteTif, nodata: float | None
) -> None:
    truth = write_tif(tmp_path / "t.tif", np.array([[1, 2, 2]], dtype=np.uint8))
    values = np.array([[1, 2, np.nan]], dtype=np.float32)
    if nodata == -9999:
        values = np.nan_to_num(values, nan=nodata)
    path = write_tif(tmp_path / "m.tif", values, nodata=nodata)
    result = accuracy.compare(path, truth)
    assert (result["pixels"], result["overall_accuracy"]) == (2, 1)

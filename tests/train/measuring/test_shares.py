import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hsi_runtime import command_line
from hsi_runtime.errors import SceneError
from hsi_train.accuracy import command
from hsi_train.measuring import shares

WriteTif = Callable[..., Path]
NAMES = ("grass", "water")


def random_shares(seed: int, rows: int, cols: int) -> NDArray[np.float64]:
    first = np.random.default_rng(seed).random((rows, cols))
    return np.stack([first, 1 - first])


def write(
    write_tif: WriteTif,
    path: Path,
    values: NDArray[np.float64],
    names: tuple[str, ...] = NAMES,
) -> Path:
    import rasterio

    write_tif(path, values.astype(np.float32), nodata=-1.0)
    with rasterio.open(path, "r+") as file:
        for band, name in enumerate(names, start=1):
            file.set_band_description(band, name)
    return path


def test_errors_are_those_of_the_pixels() -> None:
    true, found = random_shares(0, 37, 45), random_shares(1, 37, 45)
    valid = np.ones((37, 45), dtype=bool)
    valid[3, 4] = False
    parts = [
        shares.sum_blocks(found[:, rows], true[:, rows], valid[rows])
        for rows in (np.s_[:20], np.s_[20:])
    ]
    blocks = shares.join(parts)
    assert blocks.pixels.tolist() == [399, 400, 100, 340, 340, 85]
    result = shares.errors(blocks)
    difference = (found - true)[:, valid]
    assert result["rmse"] == pytest.approx(np.sqrt(np.square(difference).mean()))
    errors = np.array(result["area_errors"])
    np.testing.assert_allclose(errors[:, 0], difference.mean(axis=1))
    assert (errors[:, 1] < errors[:, 0]).all()
    assert (errors[:, 2] > errors[:, 0]).all()
    assert result["largest_area_error"] == pytest.approx(np.abs(errors[:, 0]).max())


def test_errors_of_blocks_do_not_cancel() -> None:
    true = np.full((2, 20, 40), 0.5)
    found = true.copy()
    found[0, :, :20] += 0.1
    found[0, :, 20:] -= 0.1
    found[1] = 1 - found[0]
    blocks = shares.sum_blocks(found, true, np.ones((20, 40), dtype=bool))
    result = shares.errors(blocks)
    assert result["largest_area_error"] == pytest.approx(0, abs=1e-12)
    assert result["block_rmse"] == pytest.approx(0.1)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), bias=st.floats(-0.2, 0.2))
def test_an_error_that_all_blocks_share_has_no_interval(seed: int, bias: float) -> None:
    true = random_shares(seed, 20, 60)
    found = true + np.array([bias, -bias])[:, None, None]
    blocks = shares.sum_blocks(found, true, np.ones((20, 60), dtype=bool))
    low, high = np.array(shares.errors(blocks)["area_errors"])[:, 1:].T
    np.testing.assert_allclose(low, [bias, -bias], atol=1e-9)
    np.testing.assert_allclose(high, [bias, -bias], atol=1e-9)


def test_intervals_hold_the_error_of_other_ground() -> None:
    """Nine times in ten and more: blocks err alone, their pixels together."""
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        away = rng.normal(0, 0.1, (1, 60)).repeat(20, axis=1)
        found = np.stack([0.5 + away, 0.5 - away]).repeat(20, axis=1)
        true = np.full_like(found, 0.5)
        valid = np.ones(found.shape[1:], dtype=bool)
        _, low, high = shares.errors(shares.sum_blocks(found, true, valid))[
            "area_errors"
        ][0]
        held += low <= 0 <= high
    assert held >= 88


def test_rasters_are_compared(tmp_path: Path, write_tif: WriteTif) -> None:
    true, found = random_shares(0, 37, 45), random_shares(1, 37, 45)
    true[:, 5] = -1
    paths = (
        write(write_tif, tmp_path / "found.tif", found),
        write(write_tif, tmp_path / "true.tif", true),
    )
    result = shares.compare(*paths)
    kept = np.arange(37) != 5
    assert result["pixels"] == 36 * 45
    assert result["names"] == list(NAMES)
    assert result["sum_error"] < 1e-6
    expected = np.sqrt(np.square(found - true)[:, kept].mean())
    assert result["rmse"] == pytest.approx(expected, rel=1e-5)


def test_other_materials_are_refused(tmp_path: Path, write_tif: WriteTif) -> None:
    values = random_shares(0, 5, 6)
    found = write(write_tif, tmp_path / "found.tif", values)
    true = write(write_tif, tmp_path / "true.tif", values, ("water", "grass"))
    with pytest.raises(SceneError, match="same materials in the same order"):
        shares.compare(found, true)
    none = write(write_tif, tmp_path / "none.tif", np.full((2, 5, 6), -1.0))
    with pytest.raises(SceneError, match="share no pixel"):
        shares.compare(found, none)


def test_command(
    tmp_path: Path,
    write_tif: WriteTif,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    true = random_shares(0, 21, 30)
    codes = write_tif(
        tmp_path / "map.tif", (true.argmax(axis=0) + 1).astype(np.uint8), nodata=255
    )
    paths = (
        write(write_tif, tmp_path / "found.tif", true),
        write(write_tif, tmp_path / "true.tif", true),
    )

    def run(*options: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["accuracy", str(codes), str(codes), *options])
        with pytest.raises(SystemExit) as stopped:
            command_line.run(command)
        printed = capsys.readouterr()
        return stopped.value.code, printed.out + printed.err

    code, text = run("--shares", str(paths[0]))
    assert code == 2
    assert "--shares has no truth; give it by --abundances." in text
    code, text = run("--shares", str(paths[0]), "--abundances", str(paths[1]))
    assert code == 0
    assert "root mean square error 0.0000" in text
    assert "+0.00 (+0.00..+0.00) water" in text

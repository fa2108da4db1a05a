"""Scenes with a lookup table: classified as they were seen, mapped on the ground."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS

pytest.importorskip("h5py")
import h5py

from hsi_runtime.errors import SceneError
from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request
from hsi_runtime.walk.windows import Window

LINES, SAMPLES, GRID = 23, 17, (31, 40)
STEP = 0.0005
FILL = -9999.0


@pytest.fixture
def table() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Turn the swath by 30 degrees: cells of none, one and several pixels."""
    row, col = np.mgrid[: GRID[0], : GRID[1]]
    cosine, sine = np.cos(np.pi / 6), np.sin(np.pi / 6)
    y, x = row - GRID[0] / 2 + 0.3, col - GRID[1] / 2 + 0.1
    line = np.floor((y * cosine - x * sine) / 1.3 + LINES / 2).astype(int)
    sample = np.floor((x * cosine + y * sine) / 1.3 + SAMPLES / 2).astype(int)
    inside = (line >= 0) & (line < LINES) & (sample >= 0) & (sample < SAMPLES)
    glt = [np.where(inside, v + 1, 0).astype("i4") for v in (line, sample)]
    return glt[0], glt[1]


@pytest.fixture
def scene(
    tmp_path: Path, table: tuple[NDArray[np.int32], NDArray[np.int32]]
) -> tuple[Path, Path]:
    """A swath as EMIT writes it, and the same on a grid of its own pixels."""
    cube = np.random.default_rng(1).normal(0.3, 0.2, (LINES, SAMPLES, 4))
    cube = cube.astype("<f4")
    cube[5, 3:6] = FILL
    line, sample = np.mgrid[1 : LINES + 1, 1 : SAMPLES + 1]
    swath, seen = tmp_path / "swath.nc", tmp_path / "seen.nc"
    write(swath, cube, table)
    write(seen, cube, (line, sample))
    return swath, seen


def write(path: Path, cube: NDArray[Any], table: tuple[Any, Any]) -> None:
    with h5py.File(path, "w") as file:
        file["reflectance"] = cube
        file["reflectance"].attrs["_FillValue"] = np.float32(FILL)
        file["sensor_band_parameters/wavelengths"] = [450.0, 550.0, 650.0, 850.0]
        file["sensor_band_parameters/fwhm"] = np.full(4, 10.0)
        file["sensor_band_parameters/good_wavelengths"] = np.ones(4)
        file["location/glt_y"], file["location/glt_x"] = table
        file.attrs["geotransform"] = [10.0, STEP, 0.0, 50.0, 0.0, -STEP]
        file.attrs["spatial_ref"] = np.bytes_(CRS.from_epsg(4326).to_wkt())


def values(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as file:
        result: NDArray[Any] = file.read()
        return result


def placed(
    seen: NDArray[Any], table: tuple[NDArray[Any], NDArray[Any]], nodata: int
) -> NDArray[Any]:
    """Place values pixel by pixel, as slowly as it is plain."""
    out = np.full((len(seen), *GRID), nodata, seen.dtype)
    for row in range(GRID[0]):
        for col in range(GRID[1]):
            line, sample = table[0][row, col], table[1][row, col]
            if line:
                out[:, row, col] = seen[:, line - 1, sample - 1]
    return out


def test_maps_equal_a_placement_pixel_by_pixel(
    scene: tuple[Path, Path], table: Any, model: ModelFile, tmp_path: Path
) -> None:
    swath, own = scene
    options: dict[str, Any] = {"confidence": True, "probabilities": True}
    result = run(Request(swath, tmp_path / "g.tif", **options), model)
    run(Request(own, tmp_path / "s.tif", **options), model)
    for suffix, nodata in (("", 255), ("_confidence", 255), ("_probabilities", 255)):
        seen = values(tmp_path / f"s{suffix}.tif")
        on_ground = values(tmp_path / f"g{suffix}.tif")
        np.testing.assert_array_equal(on_ground, placed(seen, table, nodata))
    codes = values(tmp_path / "g.tif")[0]
    assert (codes == 255)[table[0] > 0].any()  # the swath's own nodata
    assert (result["rows"], result["cols"]) == GRID
    assert result["pixels"]["nodata"] == (codes == 255).sum()
    counted = {c["code"]: c["pixels"] for c in result["classes"]}
    assert counted == {code: (codes == code).sum() for code in counted}
    with rasterio.open(tmp_path / "g.tif") as file:
        assert file.crs == CRS.from_epsg(4326)
        assert file.transform.to_gdal() == (10.0, STEP, 0.0, 50.0, 0.0, -STEP)


@pytest.mark.parametrize(
    "part", [Window(8, 10, 9, 13), Window(0, 0, *GRID), Window(30, 15, 1, 10)]
)
def test_part_is_a_part_of_the_whole_map(
    part: Window, scene: tuple[Path, Path], model: ModelFile, tmp_path: Path
) -> None:
    run(Request(scene[0], tmp_path / "all.tif"), model)
    run(Request(scene[0], tmp_path / "part.tif", window=part), model)
    west, north = 10 + part.col * STEP, 50 - part.row * STEP
    bounds = west, north - part.rows * STEP, west + part.cols * STEP, north
    run(Request(scene[0], tmp_path / "box.tif", bounds=bounds), model)
    inside = np.s_[:, part.row : part.row_end, part.col : part.col_end]
    expected = values(tmp_path / "all.tif")[inside]
    assert (expected != 255).any()
    for name in ("part.tif", "box.tif"):
        np.testing.assert_array_equal(values(tmp_path / name), expected)
        with rasterio.open(tmp_path / name) as file:
            np.testing.assert_allclose(file.transform[2:6:3], (west, north))


def test_part_without_a_pixel_is_refused(
    scene: tuple[Path, Path], model: ModelFile, tmp_path: Path
) -> None:
    with pytest.raises(SceneError, match=r"No pixel of swath\.nc lies in the part"):
        run(Request(scene[0], tmp_path / "o.tif", window=Window(0, 0, 2, 2)), model)


def test_interrupted_run_resumes_in_the_swath(
    scene: tuple[Path, Path], model: ModelFile, tmp_path: Path
) -> None:
    request = Request(scene[0], tmp_path / "o.tif", tile=8)
    once: list[int] = []

    def stop(done: int, _: int) -> None:
        once.append(done)
        if done > LINES * SAMPLES // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(request, model, progress=stop)
    result = run(request, model)
    run(replace(request, output=tmp_path / "p.tif"), model)
    assert result["rows"] == GRID[0]
    assert not (tmp_path / "o.tif.hsi-part").exists()
    np.testing.assert_array_equal(
        values(tmp_path / "o.tif"), values(tmp_path / "p.tif")
    )

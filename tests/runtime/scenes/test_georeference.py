"""Scenes on no regular grid: what says where they lie reaches the class map."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from hsi_runtime.model.model_file import ModelFile, read_model
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request
from hsi_runtime.scenes.geotiff import open_tiff
from hsi_runtime.walk.windows import Window

POINTS = [
    GroundControlPoint(row=0.5, col=0.5, x=13.1, y=52.4, z=30, id="1"),
    GroundControlPoint(row=22.5, col=0, x=13.11, y=52.3, z=31, id="2"),
    GroundControlPoint(row=0, col=30.25, x=13.2, y=52.41, z=32.5, id="3"),
    GroundControlPoint(row=23, col=31, x=13.21, y=52.31, id="4"),
]
SENSOR = RPC(
    height_off=50.0,
    height_scale=500.0,
    lat_off=52.35,
    lat_scale=0.06,
    line_den_coeff=[1.0, *[0.0] * 19],
    line_num_coeff=[0.0, 0.0, -1.0, *[0.0] * 17],
    line_off=11.5,
    line_scale=11.5,
    long_off=13.15,
    long_scale=0.06,
    samp_den_coeff=[1.0, *[0.0] * 19],
    samp_num_coeff=[0.0, 1.0, *[0.0] * 18],
    samp_off=15.5,
    samp_scale=15.5,
)


@pytest.fixture
def model(tmp_path: Path, write_model: Callable[..., Path]) -> ModelFile:
    return read_model(write_model(tmp_path / "model.onnx"))


@pytest.fixture
def write(
    tmp_path: Path, cube: NDArray[Any], write_scene_tiff: Callable[..., Path]
) -> Callable[..., Path]:
    def scene(crs: str | None = None, **place: Any) -> Path:
        path = tmp_path / "s.tif"
        return write_scene_tiff(path, cube, crs=crs, transform=None, **place)

    return scene


def outputs(request: Request, model: ModelFile) -> list[Any]:
    run(request, model)
    stem = request.output.with_suffix("")
    return [open_tiff(Path(f"{stem}{end}.tif")) for end in ("", "_confidence")]


def test_ground_control_points(
    write: Callable[..., Path], model: ModelFile, caplog: pytest.LogCaptureFixture
) -> None:
    scene = write("EPSG:4326", gcps=POINTS)
    request = Request(scene, scene.with_name("o.tif"), confidence=True)
    for found in outputs(request, model):
        points, crs = found.gcps
        assert crs.to_epsg() == 4326
        assert [(p.row, p.col, p.x, p.y, p.z or 0) for p in points] == [
            (p.row, p.col, p.x, p.y, p.z or 0) for p in POINTS
        ]
    assert "no georeference" not in caplog.text


def test_ground_control_points_of_a_part(
    write: Callable[..., Path], model: ModelFile
) -> None:
    scene = write("EPSG:4326", gcps=POINTS)
    request = Request(
        scene, scene.with_name("o.tif"), window=Window(3, 7, 12, 10), confidence=True
    )
    for found in outputs(request, model):
        points, _ = found.gcps
        assert [(p.row, p.col, p.x) for p in points] == [
            (p.row - 3, p.col - 7, p.x) for p in POINTS
        ]


@pytest.mark.parametrize("window", [None, Window(3, 7, 12, 10)])
def test_sensor_model(
    window: Window | None,
    write: Callable[..., Path],
    model: ModelFile,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = write(rpcs=SENSOR)
    with open_tiff(scene) as file:
        read = file.rpcs.to_dict()
    assert read["line_off"] == SENSOR.line_off
    row, col = (window.row, window.col) if window else (0, 0)
    request = Request(scene, scene.with_name("o.tif"), window=window, confidence=True)
    for found in outputs(request, model):
        kept, wanted = found.rpcs.to_dict(), read.copy()
        wanted["line_off"] -= row
        wanted["samp_off"] -= col
        for key, value in wanted.items():
            np.testing.assert_allclose(kept[key], value, rtol=1e-12)
    assert "no georeference" not in caplog.text

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.windows import Window as RasterioWindow

from hsi_runtime.errors import SceneError
from hsi_runtime.model.model_file import ModelFile, read_model
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request
from hsi_runtime.scenes.geotiff import open_tiff
from hsi_runtime.scenes.scene import SceneInfo
from hsi_runtime.walk.regions import grid_of, region_of
from hsi_runtime.walk.windows import Window

Write = Callable[..., Path]
TRANSFORMS = {
    "north up": Affine(2, 0, 4e5, 0, -2, 58e5),
    "south up": Affine(2, 0, 4e5, 0, 2, 58e5),
    "mirrored": Affine(-2, 0, 4e5, 0, -2, 58e5),
    "degrees": Affine(1e-4, 0, 13.1, 0, -1e-4, 52.5),
    "a tenth": Affine(0.1, 0, 0.3, 0, -0.1, 0.7),
    "rotated": Affine(1.5, 0.7, 4e5 + 1 / 3, 0.7, -1.5, 58e5),
    "quarter turn": Affine(0, 2, 4e5, 2, 0, 58e5),
}
ALONG = [name for name in TRANSFORMS if name != "rotated"]


def bounds_of(transform: Affine, window: Window) -> tuple[float, float, float, float]:
    corners = [
        transform @ (col, row)
        for col in (window.col, window.col_end)
        for row in (window.row, window.row_end)
    ]
    x, y = zip(*corners, strict=True)
    return min(x), min(y), max(x), max(y)


windows = st.builds(
    Window,
    st.integers(0, 39),
    st.integers(0, 29),
    st.integers(1, 40),
    st.integers(1, 30),
).filter(lambda w: w.row_end <= 40 and w.col_end <= 30)


@given(window=windows, name=st.sampled_from(ALONG))
def test_bounds_of_pixels_give_those_pixels(
    window: Window, name: str, info_of: Callable[..., SceneInfo]
) -> None:
    info = info_of(40, 30, transform=TRANSFORMS[name])
    assert region_of(info, bounds=bounds_of(TRANSFORMS[name], window)) == window
    assert region_of(info, window) == window


@given(window=windows, name=st.sampled_from(sorted(TRANSFORMS)))
def test_bounds_cover_every_pixel_whose_centre_is_inside(
    window: Window, name: str, info_of: Callable[..., SceneInfo]
) -> None:
    transform = TRANSFORMS[name]
    west, south, east, north = bounds_of(transform, window)
    found = region_of(
        info_of(40, 30, transform=transform), bounds=(west, south, east, north)
    )
    rows, cols = np.mgrid[0:40, 0:30] + 0.5
    x = transform.a * cols + transform.b * rows + transform.c
    y = transform.d * cols + transform.e * rows + transform.f
    inside = (west < x) & (x < east) & (south < y) & (y < north)
    chosen = np.zeros((40, 30), dtype=bool)
    chosen[found.row : found.row_end, found.col : found.col_end] = True
    assert not (inside & ~chosen).any()
    if name != "rotated":
        np.testing.assert_array_equal(inside, chosen)


def test_bounds_end_at_the_scene(info_of: Callable[..., SceneInfo]) -> None:
    info = info_of(40, 30)
    assert region_of(info, bounds=(0, 0, 1e7, 1e7)) == Window(0, 0, 40, 30)
    assert region_of(info) == Window(0, 0, 40, 30)
    touched = region_of(info, bounds=(4e5 + 3, 58e5 - 5, 4e5 + 4.5, 58e5 - 3.9))
    assert touched == Window(1, 1, 2, 2)


@pytest.mark.parametrize(
    "bounds",
    [
        (0, 0, 1, 1),
        (4e5 - 9, 58e5 - 80, 4e5, 58e5),
        (4e5 + 60, 58e5 - 80, 4e5 + 70, 58e5),
        (4e5 + 5, 58e5 - 80, 4e5 + 5, 58e5),
        (float("nan"), 0, 1, 1),
        (-float("inf"), -float("inf"), float("inf"), float("inf")),
    ],
)
def test_bounds_elsewhere_are_refused(
    bounds: tuple[float, float, float, float], info_of: Callable[..., SceneInfo]
) -> None:
    message = (
        r"does not meet the scene scene\.tif, which reaches over "
        r"400000,5799920,400060,5800000; give W,S,E,N"
    )
    with pytest.raises(SceneError, match=message):
        region_of(info_of(40, 30), bounds=bounds)


def test_bounds_need_a_georeference(info_of: Callable[..., SceneInfo]) -> None:
    with pytest.raises(SceneError, match=r"no georeference for --bbox; use --window"):
        region_of(info_of(4, 3, transform=None), bounds=(0, 0, 1, 1))


@pytest.mark.parametrize(
    "window",
    [Window(0, 0, 41, 1), Window(0, 29, 1, 2), Window(-1, 0, 2, 2), Window(3, 3, 0, 1)],
)
def test_windows_outside_are_refused(
    window: Window, info_of: Callable[..., SceneInfo]
) -> None:
    with pytest.raises(SceneError, match="has columns 0 to 30 and rows 0 to 40"):
        region_of(info_of(40, 30), window)


@given(window=windows, name=st.sampled_from(sorted(TRANSFORMS)))
def test_georeference_of_a_part_is_rasterios(
    window: Window, name: str, info_of: Callable[..., SceneInfo]
) -> None:
    transform = TRANSFORMS[name]
    grid = grid_of(info_of(40, 30, transform=transform), window)
    given_window = RasterioWindow(window.col, window.row, window.cols, window.rows)
    expected = rasterio.windows.transform(given_window, transform)
    assert grid.transform is not None
    np.testing.assert_allclose(grid.transform, expected.to_gdal(), rtol=1e-12)
    assert (grid.rows, grid.cols) == (window.rows, window.cols)


@pytest.fixture(scope="module")
def model(write_model: Write, tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    return read_model(write_model(tmp_path_factory.mktemp("model") / "model.onnx"))


@pytest.mark.parametrize("name", ["north up", "rotated", "south up"])
@pytest.mark.parametrize(
    "window",
    [
        Window(0, 0, 23, 31),
        Window(9, 7, 5, 11),
        Window(0, 30, 1, 1),
        Window(20, 0, 3, 31),
    ],
)
def test_part_of_a_scene_has_the_classes_of_the_whole(
    name: str,
    window: Window,
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
) -> None:
    stored = cube.copy()
    stored[:, 8:12, 5:9] = 0
    scene = write_scene_tiff(
        tmp_path / "s.tif", stored, nodata=0, transform=TRANSFORMS[name]
    )
    run(Request(scene, tmp_path / "whole.tif"), model)
    request = Request(scene, tmp_path / "part.tif", window=window, tile=4, stac=True)
    result = run(request, model)
    with rasterio.open(tmp_path / "whole.tif") as whole:
        place = RasterioWindow(window.col, window.row, window.cols, window.rows)
        expected = whole.read(1, window=place)
        transform = whole.window_transform(place)
    with open_tiff(tmp_path / "part.tif") as part:
        np.testing.assert_array_equal(part.read(1), expected)
        assert part.transform.almost_equals(transform, 1e-9)
        assert part.crs.to_epsg() == 32633
    assert (result["rows"], result["cols"]) == (window.rows, window.cols)
    assert result["pixels"]["nodata"] == (expected == 255).sum()
    bounds = bounds_of(TRANSFORMS[name], window)
    if name != "rotated":
        run(Request(scene, tmp_path / "box.tif", bounds=bounds), model)
        with open_tiff(tmp_path / "box.tif") as box:
            np.testing.assert_array_equal(box.read(1), expected)

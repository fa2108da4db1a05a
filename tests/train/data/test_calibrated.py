"""Scenes of raw counts are trained on as reflectance."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from camera import Camera, tall_cube
from rasterio.transform import from_origin

from hsi_runtime.errors import RecipeError
from hsi_train.cli import main
from hsi_train.inputs import read_data
from hsi_train.recipe import Recipe, parse
from hsi_train.run_folder.description import values_of
from hsi_train.run_folder.origin import training_files

ROWS, COLS = 40, 31


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write counts, their references, and labels of the whole scene."""
    monkeypatch.chdir(tmp_path)
    dark = np.full((4, 5, COLS), 100, np.uint16)
    white = np.full((4, 5, COLS), 10_100, np.uint16)
    for name, cube in (("s", tall_cube(ROWS)), ("dark", dark), ("white", white)):
        (tmp_path / name).mkdir()
        Camera(tmp_path / name, cube, reflectance_scale_factor=None).finish()
    codes = np.ones((ROWS, COLS), np.uint8)
    codes[:, 15:] = 2
    grid = {"crs": "EPSG:32633", "transform": from_origin(400_000, 5_800_000, 2, 2)}
    size = {"width": COLS, "height": ROWS, "count": 1, "dtype": "uint8"}
    with rasterio.open("labels.tif", "w", driver="GTiff", **grid, **size) as file:
        file.write(codes, 1)
    return tmp_path


def recipe_of(**changed: Any) -> Recipe:
    data: dict[str, Any] = {"scenes": ["s/flight.bil"], "labels": ["labels.tif"]}
    data |= {"dark": "dark/flight.bil", "white": "white/flight.bil"}
    return parse({"method": "lda", "data": data | changed})


def test_counts_become_reflectance(place: Path) -> None:
    recipe = recipe_of()
    data = read_data(recipe, 2)
    cube = data.scenes[0].cube
    assert cube.dtype == np.float32
    np.testing.assert_allclose(cube, (tall_cube(ROWS) - 100.0) / 10_000, atol=1e-6)
    problem = type("Problem", (), {"fill": np.zeros(4)})()
    values = values_of(recipe, data, problem)
    assert (values.quantity, values.dtype) == ("reflectance", "float32")
    assert values.scale == [1.0] * 4


def test_references_belong_to_the_files_of_a_run(place: Path) -> None:
    names = {str(path) for path in training_files(recipe_of())}
    assert {"dark/flight.bil", "white/flight.bil"} <= names


def test_a_gain_calibrates_as_references_do(place: Path) -> None:
    """The quantity is what the user says: a gain may lead to radiance."""
    for name, value in (("gain", 1e-4), ("offset", -0.01)):
        (place / name).mkdir()
        line = np.full((4, 1, COLS), value, np.float32)
        Camera(place / name, line, reflectance_scale_factor=None).finish()
    files = {"gain": "gain/flight.bil", "offset": "offset/flight.bil"}
    recipe = recipe_of(dark=None, white=None, quantity="radiance", **files)
    data = read_data(recipe, 2)
    expected = tall_cube(ROWS) * 1e-4 - 0.01
    np.testing.assert_allclose(data.scenes[0].cube, expected, atol=1e-6)
    values = values_of(recipe, data, type("Problem", (), {"fill": np.zeros(4)})())
    assert (values.quantity, values.dtype) == ("radiance", "float32")
    assert set(files.values()) <= {str(path) for path in training_files(recipe)}


@pytest.mark.parametrize("name", ["dark", "white"])
def test_references_go_together(name: str) -> None:
    with pytest.raises(RecipeError, match="Dark and white reference go together"):
        recipe_of(**{name: None})


def test_a_target_is_not_calibrated() -> None:
    files = {"scenes": ["a"], "labels": ["b"]}
    data = {**files, "dark": "d", "white": "w"}
    content = {"method": "lda", "data": data, "target": files}
    with pytest.raises(RecipeError, match="calibrate the training scenes only"):
        parse(content)


def test_the_command_takes_references(place: Path, invoke: Any) -> None:
    given = ["lda", "--scene", "s/flight.bil", "--labels", "labels.tif"]
    code, _, err = invoke(main, *given, "--dark", "dark/flight.bil", "-o", "run")
    assert code == 4
    assert "Dark and white reference go together" in err
    missing = ["--dark", "dark/flight.bil", "--white", "none.bil"]
    code, _, err = invoke(main, *given, *missing, "-o", "run")
    assert code == 3
    assert "none.bil" in err

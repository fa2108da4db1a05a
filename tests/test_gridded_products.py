"""HDF5 and netCDF4 products end to end: train, export, run, compare with a GeoTIFF."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from hsi_export.exporting import export
from hsi_runtime.model.model_file import read_model
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request
from hsi_train import recipe
from hsi_train.simulate import SceneSpec, simulate_window, write_scene
from hsi_train.simulate.products.generator import product_spec
from hsi_train.training import train

BANDS = 12
MATERIALS = ("grass", "conifer", "bright_soil", "water", "asphalt")


class Made(NamedTuple):
    path: Path
    truth: Path
    spec: SceneSpec


def made_as(product: str, folder: Path) -> Made:
    """Simulate a product on ground so small that fields have several pixels."""
    spec = product_spec(
        product,
        BANDS,
        rows=48,
        cols=52,
        seed=3,
        nodata_border=True,
        materials=MATERIALS,
        resolution_m=1.0,
    )
    made = Made(folder / "product", folder / "truth.tif", spec)
    write_scene(spec, made.path, truth=made.truth, product=product)
    return made


def trained(made: Made, folder: Path) -> Path:
    """Train a few steps on a product and its labels; return the exported model."""
    settings = {
        "method": "mf2cnet",
        "seed": 1,
        "rivals": "none",
        "data": {"scenes": [str(made.path)], "labels": [str(made.truth)]},
        "split": {"mode": "fraction", "train_fraction": 0.1},
        "fit": {"epochs": 1, "batch": 16, "linear_path": False},
        "options": {"features": 4, "hidden": 8},
    }
    train(recipe.parse(settings), folder / "run")
    export(folder / "run", folder / "model.onnx")
    return folder / "model.onnx"


def mapped(scene: Path, model: Path, output: Path) -> NDArray[Any]:
    run(Request(scene, output, probabilities=True), read_model(model))
    with (
        rasterio.open(output) as classes,
        rasterio.open(output.with_stem(f"{output.stem}_probabilities")) as shares,
    ):
        assert classes.tags()["HSI_PRODUCT"]
        return np.concatenate([classes.read(), shares.read()])


@pytest.mark.parametrize("product", ["neon", "prisma", "tanager", "aviris3"])
def test_map_equals_that_of_the_same_scene_as_geotiff(
    product: str, tmp_path: Path
) -> None:
    made = made_as(product, tmp_path)
    model = trained(made, tmp_path)
    plain = tmp_path / "plain.tif"
    write_scene(made.spec, plain)
    run(Request(plain, tmp_path / "p.tif", probabilities=True), read_model(model))
    with (
        rasterio.open(tmp_path / "p.tif") as classes,
        rasterio.open(tmp_path / "p_probabilities.tif") as shares,
    ):
        expected = np.concatenate([classes.read(), shares.read()])
        place = classes.crs, classes.transform
    ours = mapped(made.path, model, tmp_path / "o.tif")
    np.testing.assert_array_equal(ours, expected)
    assert len(np.unique(ours[0])) > 1
    _, _, valid = simulate_window(made.spec, 0, made.spec.rows)
    np.testing.assert_array_equal(ours[0] != 255, valid)
    with rasterio.open(tmp_path / "o.tif") as classes:
        assert (classes.crs, classes.transform) == place


def test_emit_map_equals_a_placement_of_what_the_sensor_saw(
    tmp_path: Path,
) -> None:
    made = made_as("emit", tmp_path)
    model = trained(made, tmp_path)
    ours = mapped(made.path, model, tmp_path / "o.tif")
    # The same swath on a grid of its own pixels.
    own = tmp_path / "own.nc"
    shutil.copy(made.path, own)
    with h5py.File(own, "r+") as file:
        line, sample = (file[f"location/glt_{axis}"][()] for axis in "yx")
        lines, samples, _ = file["reflectance"].shape
        del file["location/glt_y"], file["location/glt_x"]
        every = np.mgrid[1 : lines + 1, 1 : samples + 1].astype("i4")
        file["location/glt_y"], file["location/glt_x"] = every
    seen = mapped(own, model, tmp_path / "s.tif")
    expected = np.full((len(seen), *line.shape), 255, seen.dtype)
    for row, col in np.argwhere(line > 0):
        expected[:, row, col] = seen[:, line[row, col] - 1, sample[row, col] - 1]
    np.testing.assert_array_equal(ours, expected)
    with (
        rasterio.open(tmp_path / "run" / "split.tif") as split,
        rasterio.open(made.truth) as truth,
    ):
        assert (split.crs, split.transform) == (truth.crs, truth.transform)
        roles, codes = split.read(1), truth.read(1)
    # Labels of the ground were found in the swath: a few cells at borders are not used.
    assert (roles[codes > 0] > 0).mean() > 0.2
    assert (roles[line == 0] == 0).all()

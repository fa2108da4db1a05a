"""Full trainings on real scenes: accuracy, and the map against torch patch by patch.

Long: ``make soak``. The floors are those the project has promised.
"""

import json
import os
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.transform import Affine

from hsi_export.exporting import export
from hsi_runtime.model_file import read_model
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request
from hsi_runtime.scene import valid_pixels
from hsi_train import checkpoint, labelled_scene, recipe
from hsi_train.training import train

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

TIE = 1e-5
SEEDS = range(5)


@pytest.fixture(autouse=True)
def real_data(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HSI_DATA", str(data_dir))


def trained(name: str, folder: Path, seed: int, **fit: int) -> dict[str, Any]:
    content = recipe.load(name)
    content["seed"] = seed
    content.setdefault("fit", {}).update(fit)
    return train(recipe.parse(content), folder / f"{name}-{seed}")


def test_salinas_a_ten_per_class(tmp_path: Path) -> None:
    results = [trained("salinas_a-mf2cnet", tmp_path, seed) for seed in SEEDS]
    found = mean(r["overall_accuracy"] for r in results)
    show("SalinasA", results)
    assert found >= 0.975


def test_enmap_potsdam_blocks(tmp_path: Path) -> None:
    results = [trained("enmap_potsdam-mf2cnet", tmp_path, seed) for seed in SEEDS]
    show("EnMAP Potsdam", results)
    assert mean(r["overall_accuracy"] for r in results) >= 0.75
    assert mean(r["average_accuracy"] for r in results) >= 0.60


@pytest.mark.parametrize(
    ("name", "epochs"),
    [("salinas_a-mf2cnet", 30), ("enmap_potsdam-mf2cnet", 4), ("neon_mlbs-mf2cnet", 2)],
)
def test_map_is_what_torch_gives_patch_by_patch(
    name: str, epochs: int, tmp_path: Path
) -> None:
    trained(name, tmp_path, 0, epochs=epochs)
    folder = tmp_path / f"{name}-0"
    export(folder, tmp_path / "model.onnx")
    model = read_model(tmp_path / "model.onnx")
    path = one_scene(name, tmp_path)
    output = tmp_path / "map.tif"
    run(Request(scene=path, output=output), model)
    with rasterio.open(output) as raster:
        found = raster.read(1)
    document = model.document
    with rasterio.open(path) as raster:
        cube = raster.read([b + 1 for b in document.bands.used])
        nodata = raster.nodata
    valid = valid_pixels(cube, np.full(len(cube), np.nan if nodata is None else nodata))
    probabilities = patch_by_patch(checkpoint.load(folder), cube, valid)
    codes = np.array([c.code for c in document.classes])
    expected = codes[probabilities.argmax(axis=0)]
    top = np.sort(probabilities, axis=0)
    tied = top[-1] - top[-2] <= TIE
    assert (found[~valid] == 255).all()
    wrong = valid & (found != expected) & ~tied
    assert not wrong.any()


def one_scene(name: str, folder: Path) -> Path:
    """Return the recipe's first scene that hsi-run can read; MATLAB becomes GeoTIFF."""
    source = recipe.expanded(recipe.load(name)["data"]["scenes"][0])
    path = Path(labelled_scene.expand_scenes([source])[0])
    if path.suffix != ".mat":
        return path
    scene = labelled_scene.open_any(str(path))
    info = scene.info
    every = np.arange(info.bands)
    cube = scene.read((0, info.rows), (0, info.cols), every)
    output = folder / "scene.tif"
    with rasterio.open(
        output,
        "w",
        driver="GTiff",
        count=info.bands,
        height=info.rows,
        width=info.cols,
        dtype=cube.dtype,
        transform=Affine(1, 0, 100, 0, -1, 100),
    ) as raster:
        raster.write(cube)
    return output


@torch.inference_mode()
def patch_by_patch(
    loaded: checkpoint.Checkpoint, cube: NDArray[Any], valid: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Classify every pixel from its own patch, by torch: the slow, obvious way."""
    network, side = loaded.method.network, loaded.method.receptive_field
    halo = side // 2
    fill = np.array(loaded.description.values.fill, dtype=np.float32)
    values = np.where(valid, cube.astype(np.float32), fill[:, None, None])
    padded = np.pad(values, ((0, 0), (halo, halo), (halo, halo)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))
    rows = []
    for row in range(cube.shape[1]):
        patches = np.ascontiguousarray(windows[:, row].transpose(1, 0, 2, 3))
        scores = network(torch.from_numpy(patches))  # (col, class, 1, 1)
        rows.append(torch.softmax(scores, dim=1)[:, :, 0, 0].numpy().T)
    return np.stack(rows, axis=1)  # (class, row, col)


def show(scene: str, results: list[dict[str, Any]]) -> None:
    """Print the table, and keep it where HSI_RESULTS names a folder."""
    keys = ("overall_accuracy", "average_accuracy", "kappa")
    values = {k: [r[k] for r in results] for k in keys}
    table = {
        k: {"mean": mean(v), "std": float(np.std(v)), "seeds": v}
        for k, v in values.items()
    }
    print(json.dumps({scene: table}, indent=1))
    if os.environ.get("HSI_RESULTS"):
        name = scene.lower().replace(" ", "_")
        path = Path(os.environ["HSI_RESULTS"]) / f"accuracy_{name}.json"
        path.write_text(json.dumps({"scene": scene, **table}, indent=1) + "\n")

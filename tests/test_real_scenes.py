"""Full trainings on real scenes: accuracy, and the map against torch patch by patch.

Long: ``make soak``. The floors of overall accuracy are those the project has promised;
those of average accuracy tell a map from one of the largest classes.
"""

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
from hsi_runtime.model.model_file import read_model
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request
from hsi_runtime.scenes.scene import valid_pixels
from hsi_train import recipe
from hsi_train.data import loading
from hsi_train.run_folder import checkpoint
from hsi_train.training import train

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

TIE = 1e-5


@pytest.fixture(autouse=True)
def real_data(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HSI_DATA", str(data_dir))


def trained(name: str, folder: Path, seed: int, **tables: Any) -> dict[str, Any]:
    """Train by a recipe; ``tables`` take the place of its own of that name."""
    content = recipe.load(name) | {"seed": seed} | tables
    return train(recipe.parse(content), folder / f"{name}-{seed}")


def means(results: list[dict[str, Any]]) -> tuple[float, float]:
    keys = "overall_accuracy", "average_accuracy"
    overall, average = (mean(r[key] for r in results) for key in keys)
    return overall, average


@pytest.mark.parametrize(
    ("method", "floor"), [("mf2cnet", 0.98), ("s2vnet", 0.985), ("s2amsnet", 0.97)]
)
def test_salinas_a_ten_per_class(method: str, floor: float, tmp_path: Path) -> None:
    results = [trained(f"salinas_a-{method}", tmp_path, seed) for seed in range(5)]
    assert means(results)[0] >= floor


def test_salinas_a_five_per_class_with_a_pretrained_encoder(tmp_path: Path) -> None:
    name = "salinas_a-s2former"
    results = [trained(name, tmp_path, 0)]
    reused = {"init": str(tmp_path / f"{name}-0" / "encoder.safetensors")}
    results += [trained(name, tmp_path, s, pretrain=reused) for s in range(1, 5)]
    assert means(results)[0] >= 0.97


@pytest.mark.parametrize(
    ("method", "seeds", "overall", "average"),
    [
        ("mf2cnet", 5, 0.76, 0.637),  # above the baselines in both
        ("s2vnet", 5, 0.745, 0.6),
        ("s2former", 5, 0.745, 0.55),
        ("s2amsnet", 1, 0.745, 0.45),  # ten minutes a seed
    ],
)
def test_enmap_potsdam(
    method: str, seeds: int, overall: float, average: float, tmp_path: Path
) -> None:
    runs = [trained(f"enmap_potsdam-{method}", tmp_path, seed) for seed in range(seeds)]
    found = means(runs)
    assert found[0] >= overall
    assert found[1] >= average


@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        ("salinas_a-mf2cnet", 30),
        ("salinas_a-s2vnet", 10),
        ("salinas_a-s2amsnet", 2),
        ("enmap_potsdam-mf2cnet", 4),
        ("enmap_potsdam-s2former", 2),
        ("neon_mlbs-mf2cnet", 2),
    ],
)
def test_map_is_what_torch_gives_patch_by_patch(
    name: str, epochs: int, tmp_path: Path
) -> None:
    trained(name, tmp_path, 0, fit={"epochs": epochs})
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
    path = Path(loading.expand_scenes([source])[0])
    if path.suffix != ".mat":
        return path
    scene = loading.open_any(str(path))
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

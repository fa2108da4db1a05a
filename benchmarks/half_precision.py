"""What does half precision cost in accuracy, and OpenVINO gain in speed?

    HSI_DATA=... python benchmarks/half_precision.py --runs FOLDER

Trains each method by its shipped recipe, exports it in both precisions and classifies
the whole scene with each file: the share of equal classes, the overall accuracy on the
test pixels, and how far both are from torch. Runs that are there are not repeated.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import click
import common
import numpy as np
import rasterio

import hsi_runtime
from hsi_export.exporting import export
from hsi_runtime.scene import SceneInfo
from hsi_train import labelled_scene, recipe
from hsi_train.methods import names
from hsi_train.split import Role
from hsi_train.training import read_data, train

ROUNDS = 3
SCENES = ("salinas_a", "enmap_potsdam")


def trained(name: str, scene: str, run: Path) -> None:
    """Train from labels alone: pre-training has no say in precision."""
    if not (run / "checkpoint.safetensors").exists():
        content = recipe.load(f"{scene}-{name}")
        content.pop("pretrain", None)
        train(recipe.parse(content), run, "cpu", overwrite=run.exists())


def measure(run: Path) -> dict[str, Any]:
    """Compare the files of a run on the scene that it was trained on."""
    content = recipe.parse(recipe.load(str(run / "recipe.toml")))
    data = read_data(content, 0)
    scene = labelled_scene.open_any(recipe.expanded(content.data.scenes[0]))
    info: SceneInfo = scene.info
    cube = scene.read((0, info.rows), (0, info.cols), np.arange(info.bands))
    scene.close()
    with rasterio.open(run / "split.tif") as file:
        test = file.read(1) == Role.TEST
    part = data.scenes[0]
    truth = np.full(test.shape, -1)
    place = np.s_[
        part.row : part.row + part.classes.shape[0],
        part.col : part.col + part.classes.shape[1],
    ]
    truth[place] = part.classes
    codes = np.array([c.code for c in data.classes])
    found, rates, difference = {}, {}, {}
    for label, fp16, device in (
        ("fp32", False, "cpu"),
        ("fp16", True, "cpu"),
        ("openvino", False, "openvino"),
    ):
        path = run / f"{label}.onnx"
        if device == "cpu":
            said = export(run, path, overwrite=True, fp16=fp16)
            difference[label] = said["parity"]["max_abs_difference"]
        else:
            path = run / "fp32.onnx"
        model = hsi_runtime.Model(path, device, threads=1)
        given: dict[str, Any] = {
            "wavelengths_nm": info.wavelengths_nm,
            "fwhm_nm": info.fwhm_nm,
            "nodata": None if np.isnan(info.nodata).all() else info.nodata[0],
            "scale": None if info.scale is None else info.scale[0],
        }
        seconds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            classes = model.predict(cube, **given).classes
            seconds.append(time.perf_counter() - started)
        found[label], rates[label] = classes, classes.size / statistics.median(seconds)
    known = found["fp32"] != np.iinfo(found["fp32"].dtype).max
    right = {k: float((v == codes[truth])[test].mean()) for k, v in found.items()}
    return {
        "pixels": int(known.sum()),
        "test_pixels": int(test.sum()),
        "fp32_max_difference_from_torch": difference["fp32"],
        "fp16_max_difference_from_torch": difference["fp16"],
        "fp16_equal_classes": float((found["fp16"] == found["fp32"])[known].mean()),
        "openvino_equal_classes": float(
            (found["openvino"] == found["fp32"])[known].mean()
        ),
        "overall_accuracy": {k: round(v, 5) for k, v in right.items()},
        "openvino_over_onnxruntime_speed": round(rates["openvino"] / rates["fp32"], 2),
    }


@click.command()
@click.option("--runs", type=click.Path(path_type=Path), default="build/half")
@click.option("--method", "methods", multiple=True, default=names())
@click.option(
    "--scene", "scenes", multiple=True, default=["salinas_a", "enmap_potsdam"]
)
def main(runs: Path, methods: tuple[str, ...], scenes: tuple[str, ...]) -> None:
    figures = {}
    for scene in scenes:
        for name in methods:
            run = runs / f"{scene}-{name}"
            trained(name, scene, run)
            figures[f"{name} on {scene}"] = measure(run)
            print(f"{name} on {scene}: {figures[f'{name} on {scene}']}", flush=True)
    common.report("half_precision", figures)


if __name__ == "__main__":
    main()

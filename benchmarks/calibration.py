"""How well do probabilities match accuracy, before and after temperature scaling?

    HSI_DATA=... python benchmarks/calibration.py --data enmap_potsdam --seeds 0 1 2

Trains each method by its shipped recipe, on the split of the recipe or on another one,
or by its defaults on simulated scenes. *Error* is the expected calibration error on the
test pixels; *T* is the temperature. *Reject* is the suggested threshold; the last two
columns say which share of the validation pixels it keeps, and how accurate these are.
Repeat the command to train what is missing.
"""

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import code_digest
import common
import numpy as np
import rasterio

from hsi_train import recipe, training
from hsi_train.methods import names
from hsi_train.simulate import SceneSpec, band_centres, write_scene

KEYS = ("data", "method", "seed")

DATA = (
    "enmap_potsdam",
    "enmap_potsdam_random",
    "salinas_a",
    "salinas_a_disjoint",
    "simulated",
)


def content_of(data: str, name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Return the shipped recipe of the scene, divided as the data set's name says."""
    if data == "simulated":
        return simulated(name, seed, folder)
    stem = data.removesuffix("_random").removesuffix("_disjoint")
    content = recipe.load(f"{stem}-{name}") | {"seed": seed}
    if data.endswith("_random"):
        path = folder / "roles.tif"
        write_random_roles(path, content, seed)
        content["split"] = {"mode": "file", "files": [str(path)]}
    elif data.endswith("_disjoint"):
        content["split"] = {"mode": "disjoint"}
    return content


def simulated(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Make another scene for each seed, of many fields: the default way to divide."""
    scene, truth = folder / "scene.tif", folder / "truth.tif"
    spec = SceneSpec(rows=200, cols=200, wavelengths_nm=band_centres(30), seed=seed)
    write_scene(spec, scene, truth=truth)
    data = {"scenes": [str(scene)], "labels": [str(truth)]}
    return {"method": name, "seed": seed, "data": data}


def write_random_roles(path: Path, content: dict[str, Any], seed: int) -> None:
    """Draw a third of the labelled pixels for each role: all three are alike."""
    source = recipe.expanded(content["data"]["labels"][0])
    with rasterio.open(source) as file:
        drawn = np.random.default_rng(seed).integers(1, 4, file.shape)
        profile = file.profile | {"dtype": "uint8", "nodata": None}
        roles = np.where(file.read(1) > 0, drawn, 0).astype(np.uint8)
    with rasterio.open(path, "w", **profile) as file:
        file.write(roles, 1)


def measure(data: str, name: str, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        settings = recipe.parse(content_of(data, name, seed, Path(folder)))
        result = training.train(settings, Path(folder) / "run", "cpu")
    kept = ("overall_accuracy", "counts", "seconds", "calibration")
    row = {"data": data, "method": name, "seed": seed, **{k: result[k] for k in kept}}
    return row | {"code": code_digest.of_training(name)}


def table(cells: Iterable[dict[str, Any]]) -> str:
    """One row for each training, in the order of data, method and seed."""
    head = [
        "| data | method | seed | accuracy | validation px | T | error before | after |"
        " reject | kept of validation | accuracy of kept |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    for cell in sorted(cells, key=lambda c: (c["data"], c["method"], c["seed"])):
        start = f"| {cell['data']} | {cell['method']} | {cell['seed']} "
        start += f"| {cell['overall_accuracy']:.1%} | {cell['counts']['validation']} |"
        result = cell["calibration"]
        if result is None:
            rows.append(start + " | | | | | |")
            continue
        before = result["expected_calibration_error_uncalibrated"]
        after = result["expected_calibration_error"]
        row = f" {result['temperature']:.2f} | {before:.1%} | {after:.1%} |"
        if result["reject"] is None:
            row += " | | |"
        else:
            row += f" {result['reject']:.2f} | {result['reject_coverage']:.0%} |"
            row += f" {result['reject_accuracy']:.1%} |"
        rows.append(start + row)
    return "\n".join([*head, *rows]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--methods", nargs="+", choices=names(), default=names())
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=common.RESULTS)
    given = parser.parse_args()
    lines = given.output / "calibration.jsonl"
    for seed in given.seeds:
        for data in given.data:
            for name in given.methods:
                code = code_digest.of_training(name)
                done = [c for c in common.read_lines(lines) if c.get("code") == code]
                if (data, name, seed) not in [tuple(c[k] for k in KEYS) for c in done]:
                    common.add_line(lines, measure(data, name, seed), KEYS)
    (given.output / "calibration.md").write_text(
        table(common.read_lines(lines)), encoding="utf-8"
    )


if __name__ == "__main__":
    main()

"""What does a shared projection of the bands change, and what does it save?

    HSI_DATA=... python benchmarks/compact.py --runs FOLDER

Trains S2VNet by its shipped recipes, exports each with and without ``--compact``, and
classifies the whole scene with both on each engine of the processor, in turns on one
thread. Processor time counts: its ratios hold on a busy machine. Finished trainings in
FOLDER are not repeated.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import click
import code_digest
import common
import half_precision
import numpy as np

import hsi_runtime
from hsi_export.exporting import export
from hsi_train import recipe
from hsi_train.data import loading

METHOD = "s2vnet"
SCENES = ("salinas_a", "enmap_potsdam")
DEVICES = ("cpu", "openvino")
ROUNDS = 7


def measure(run: Path) -> dict[str, Any]:
    """Compare both files of a run on the scene that was trained on."""
    files = {name: run / f"{name}.onnx" for name in ("plain", "compact")}
    export(run, files["plain"], overwrite=True)
    report = export(run, files["compact"], overwrite=True, compact=True)
    content = recipe.parse(recipe.load(str(run / "recipe.toml")))
    with_labels = loading.expand_scenes([recipe.expanded(content.data.scenes[0])])[0]
    scene = loading.open_any(with_labels)
    info = scene.info
    cube = scene.read((0, info.rows), (0, info.cols), np.arange(info.bands))
    scene.close()
    given = half_precision.described(info)
    answers: dict[str, Any] = {}
    speed = {}
    for device in DEVICES:
        models = {k: hsi_runtime.Model(f, device, threads=1) for k, f in files.items()}
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(ROUNDS):
            for name, model in models.items():
                began = time.process_time()
                answers[name] = model.predict(cube, **given)
                seconds[name].append(time.process_time() - began)
        plain, compact = (statistics.median(seconds[n]) for n in models)
        speed[device] = round(plain / compact, 2)
    known = np.isfinite(answers["plain"].probabilities).all(axis=0)
    differ = answers["plain"].classes != answers["compact"].classes
    apart = answers["plain"].probabilities - answers["compact"].probabilities
    shared = report["shared"][0]
    return {
        "pixels": int(known.sum()),
        "bands": shared["channels"],
        "rank": shared["rank"],
        "max_difference": float(np.abs(apart[:, known]).max()),
        "equal_classes": float(1 - differ[known].mean()),
        "unequal_pixels": int(differ[known].sum()),
        "speed": speed,
    }


@click.command()
@click.option("--runs", type=click.Path(path_type=Path), default="build/compact")
def main(runs: Path) -> None:
    figures = {}
    for scene in SCENES:
        run = runs / f"{scene}-{METHOD}"
        half_precision.trained(METHOD, scene, run)
        figures[scene] = measure(run)
    common.report("compact", figures, code_digest.of_running(METHOD))


if __name__ == "__main__":
    main()

"""Do the engines of a GPU compute what training computed, and how fast are they?

    python benchmarks/gpu.py

Trains every method briefly on a simulated scene, exports it in both precisions, and
runs each file on the CPU, on CUDA and on TensorRT, as far as they are installed.
Measures the start of the engine, its self-test, its agreement with the CPU, and pixels
per second by size of the window, for one window at a time and for two at once as in
hsi-run. Without a GPU it ends with exit code 4 and writes nothing. The result names
engines that are not installed; an engine that fails is an error in the result, not a
gap.
"""

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from itertools import repeat
from pathlib import Path
from typing import Any

import click
import code_digest
import common
import numpy as np

from hsi_export.exporting import export
from hsi_runtime.engines.backend import GPU_DEVICES, WINDOWS_ON_GPU, Backend
from hsi_runtime.engines.nvidia import cuda_memory, onnxruntime_cuda, tensorrt_gpu
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.engines.self_test import self_test
from hsi_runtime.errors import EngineError, HsiError
from hsi_runtime.model.model_file import PROBABILITIES, ModelFile, read_model
from hsi_runtime.walk.threads import map_ahead
from hsi_train import recipe
from hsi_train.methods import names
from hsi_train.simulate import SceneSpec, band_centres, write_scene
from hsi_train.training import train

SCENE_SIDE = 160  # px
SAMPLES = 20  # training pixels of each class
TILES = (128, 512)
ROUNDS = 5
ROUND_S = 2.0
MIN_WINDOWS = 4  # of a round


def make_models(
    folder: Path, methods: tuple[str, ...], bands: int, epochs: int
) -> dict[str, ModelFile | HsiError]:
    """Train and export: model files, or why there is none, by method and precision."""
    scene, labels = folder / "scene.tif", folder / "labels.tif"
    centres = band_centres(bands, 400, 2500)
    spec = SceneSpec(rows=SCENE_SIDE, cols=SCENE_SIDE, wavelengths_nm=centres, seed=3)
    write_scene(spec, scene, truth=labels)
    models: dict[str, ModelFile | HsiError] = {}
    for method in methods:
        content = {
            "method": method,
            "data": {"scenes": [str(scene)], "labels": [str(labels)]},
            "split": {"mode": "per-class", "samples_per_class": SAMPLES},
            "fit": {"epochs": epochs},
        }
        train(recipe.parse(content), folder / method, "auto")
        for precision in ("fp32", "fp16"):
            name = f"{method} {precision}"
            path = folder / f"{method}.{precision}.onnx"
            try:
                export(folder / method, path, fp16=precision == "fp16")
                models[name] = read_model(path)
            except HsiError as error:
                models[name] = error
            print(f"exported {name}", flush=True)
    return models


def measure(model: ModelFile, device: str, rng: np.random.Generator) -> dict[str, Any]:
    """Start an engine, test it, compare it with the CPU, and time it."""
    tile = max(TILES)
    started = time.perf_counter()
    backend = open_backend(model, device, tile=tile)
    cold = time.perf_counter() - started
    started = time.perf_counter()
    backend = open_backend(model, device, tile=tile)
    warm = time.perf_counter() - started
    tested = self_test(model, backend)
    cube = window(model, TILES[0], rng)
    reference = open_backend(model, "cpu").predict(cube)[PROBABILITIES]
    answer = backend.predict(cube)[PROBABILITIES]
    equal = answer.argmax(axis=1) == reference.argmax(axis=1)
    return {
        "first_start_seconds": round(cold, 2),
        "second_start_seconds": round(warm, 2),
        "self_test_max_difference": tested.max_abs_difference,
        "max_difference_from_cpu": float(np.abs(answer - reference).max()),
        "equal_classes_with_cpu": float(equal.mean()),
        "pixels_per_second": {
            str(side): rates(backend, window(model, side, rng), side * side)
            for side in TILES
        },
    }


def window(
    model: ModelFile, tile: int, rng: np.random.Generator
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Draw pixels of the model's stored sample: ``(1, band, row, col)``."""
    sample = model.document.self_test.cube.unpack().astype(np.float32)
    side = tile + 2 * model.document.halo
    spectra = sample.reshape(len(sample), -1)
    drawn = rng.integers(0, spectra.shape[1], (side, side))
    return np.ascontiguousarray(spectra[:, drawn])[None]


def rates(backend: Backend, cube: Any, pixels: int) -> dict[str, Any]:
    """Pixels per second, one window at a time and several at once: median of rounds."""
    backend.predict(cube)  # engines prepare themselves on the first window
    started = time.perf_counter()
    backend.predict(cube)
    windows = max(MIN_WINDOWS, round(ROUND_S / (time.perf_counter() - started)))
    rates: dict[str, list[float]] = {"alone": [], "overlapped": []}
    for _ in range(ROUNDS):
        for kind, depth in (("alone", 1), ("overlapped", WINDOWS_ON_GPU)):
            started = time.perf_counter()
            deque(map_ahead(backend.predict, repeat(cube, windows), depth), maxlen=0)
            rates[kind].append(windows * pixels / (time.perf_counter() - started))
    return {
        kind: {
            "median": round(statistics.median(values)),
            "range": [round(min(values)), round(max(values))],
        }
        for kind, values in rates.items()
    }


def devices() -> tuple[dict[str, bool], dict[str, str]]:
    """Say which engines of the GPU are installed, and of which versions."""
    import onnxruntime

    installed = {
        "tensorrt": tensorrt_gpu.is_installed(),
        "cuda": onnxruntime_cuda.is_installed(),
    }
    versions = {"onnxruntime": onnxruntime.__version__}
    with contextlib.suppress(EngineError):  # its failure is told when it is measured
        versions["tensorrt"] = tensorrt_gpu.load()[0].__version__
    return installed, versions


@click.command()
@click.option("--method", "methods", multiple=True, default=names())
@click.option("--bands", default=204)
@click.option("--epochs", default=5)
def main(methods: tuple[str, ...], bands: int, epochs: int) -> None:
    try:
        gpu = cuda_memory.probe(cuda_memory.load())
        installed, versions = devices()
    except EngineError as error:
        print(f"Nothing was measured. {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    if not any(installed.values()):
        print("Nothing was measured: no engine for a GPU.", file=sys.stderr)
        sys.exit(EngineError.exit_code)
    figures: dict[str, Any] = {
        "gpu": gpu._asdict(),
        "versions": versions,
        "not_installed": [d for d in GPU_DEVICES if not installed[d]],
        "bands": bands,
    }
    rng = np.random.default_rng(0)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # a first start builds the engine
        for name, model in make_models(Path(folder), methods, bands, epochs).items():
            if isinstance(model, HsiError):
                figures[name], failed = {"error": str(model)}, True
                continue
            figures[name] = {}
            for device in ("cpu", *(d for d in GPU_DEVICES if installed[d])):
                try:
                    figures[name][device] = measure(model, device, rng)
                except HsiError as error:
                    figures[name][device] = {"error": str(error)}
                    failed = True
                print(f"{name} on {device}: {figures[name][device]}", flush=True)
    common.report("gpu", figures, code_digest.of_running(*methods))
    if failed:
        sys.exit(EngineError.exit_code)


if __name__ == "__main__":
    main()

"""How many times faster than onnxruntime is OpenVINO, in float32 and in bfloat16?

    python benchmarks/openvino_speed.py

Windows as large as hsi-run's tile for the model on a CPU, and windows of 128 pixels.
The engines take turns in one process, and processor time is measured, so the ratios
hold on a busy machine. float32 computes the graph of a float32 file, bfloat16 that of a
half-precision file, as in hsi-run. *any size* is a graph compiled for windows of any
size; *openvino* is what hsi-run uses, compiled for windows of this size.
"""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import code_digest
import common
import numpy as np

from hsi_export import tracing
from hsi_runtime.engines import openvino_cpu
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.engines.openvino_cpu import OpenvinoCpu
from hsi_runtime.errors import EngineError
from hsi_runtime.model.model_file import INPUT_NAME, PROBABILITIES, ModelFile
from hsi_runtime.walk.memory import tile_on_cpu
from hsi_runtime.walk.windows import DEFAULT_TILE
from hsi_train.methods import names


@click.command()
@click.option("--method", "methods", multiple=True, default=names())
@click.option("--bands", default=204)
@click.option("--classes", default=6)
@click.option("--threads", default=1)
@click.option("--rounds", default=7)
def main(
    methods: tuple[str, ...], bands: int, classes: int, threads: int, rounds: int
) -> None:
    figures: dict[str, Any] = {"bands": bands, "threads": threads}
    for name in methods:
        with tempfile.TemporaryDirectory() as folder:
            full = common.make_model(Path(folder), name, bands, classes, 400, 2500)
        # Of random weights some would not pass the comparison in half precision.
        plain = tracing.trace(common.make_method(name, bands, classes), bands, False)
        half = dataclasses.replace(full, onnx=plain.SerializeToString())
        own = tile_on_cpu(full.document.macs_per_pixel, full.document.working_bytes)
        figures[name] = {"tile_of_hsi_run": own}
        for side in sorted({own, DEFAULT_TILE}):
            measured = measure(full, half, bands, side, threads, rounds)
            figures[name][f"tile_{side}"] = measured
            print(f"{name}, {side}: {measured}", flush=True)
    common.report("openvino_speed", figures, code_digest.of_running(*methods))


def measure(
    full: ModelFile, half: ModelFile, bands: int, side: int, threads: int, rounds: int
) -> dict[str, Any]:
    cube = common.stored_values(bands, side + 2 * full.document.halo)
    calls: dict[str, Callable[[], Any]] = {
        "onnxruntime": partial(open_backend(full, "cpu", threads).predict, cube),
        "openvino_any_size_fp32": partial(any_size(full, threads, "f32"), cube),
        "openvino_fp32": partial(OpenvinoCpu(full, threads).predict, cube),
    }
    try:
        quick = OpenvinoCpu(half, threads, bfloat16=True)
        calls["openvino_any_size_bf16"] = partial(any_size(half, threads, "bf16"), cube)
        calls["openvino_bf16"] = partial(quick.predict, cube)
    except EngineError as error:
        print(error)
    seconds, _ = common.in_turns(calls, rounds, time.process_time)
    taken = {name: np.array(values) for name, values in seconds.items()}
    result: dict[str, Any] = {
        "onnxruntime_pixels_per_second": round(
            side**2 / statistics.median(taken["onnxruntime"])
        )
    }
    for name in calls:
        if name == "onnxruntime":
            continue
        ratios = taken["onnxruntime"] / taken[name]  # each round by itself
        result[f"{name}_over_onnxruntime"] = round(float(np.median(ratios)), 2)
        result[f"{name}_range"] = [round(float(r), 2) for r in np.sort(ratios)[[0, -1]]]
    return result


def any_size(model: ModelFile, threads: int, precision: str) -> Callable[[Any], Any]:
    """Compile a graph for windows of any size; return what classifies a window."""
    core = openvino_cpu._core()
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    compiled = core.compile_model(core.read_model(model=model.onnx), "CPU", settings)
    request = compiled.create_infer_request()

    def predict(cube: Any) -> Any:
        request.infer({INPUT_NAME: cube})
        return request.get_tensor(PROBABILITIES).data.copy()

    return predict


if __name__ == "__main__":
    main()

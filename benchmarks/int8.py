"""Would whole numbers of 8 bits be faster on a CPU, and what would they cost?

    HSI_DATA=... python benchmarks/int8.py --runs FOLDER

Static quantisation by onnxruntime (QDQ, activations u8, weights s8, by channel) of the
convolutional methods, trained by their recipes and calibrated on the windows of the
training pixels, in three choices of layers. Speed is measured in turns in one process.
int8 would ship at 1.5 times the speed of float32 for 0.3 points of overall accuracy or
less. Runs that are there are not trained again.

It is not part of hsi-export. MF2CNet, mostly 3-D convolutions, gets slower. S2AMSnet is
1.6 times as fast and keeps its accuracy when its generators trained it; trained without
them (three seeds on EnMAP) it lost 5.3, 1.4 and -0.2 points, and 1 to 5 % of all
classes change, where half precision changes next to none: nobody could prove that
nothing was lost. On processors with AMX, OpenVINO in bfloat16 is faster still
(`openvino_speed.py`).
"""

import statistics
import tempfile
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import click
import common
import half_precision
import numpy as np
import rasterio
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

import hsi_runtime
from hsi_export import tracing
from hsi_export.exporting import export
from hsi_runtime.engines.onnxruntime_cpu import OnnxruntimeCpu
from hsi_runtime.model.model_file import INPUT_NAME, ModelFile
from hsi_train import recipe
from hsi_train.data import labelled_scene
from hsi_train.data.roles import Role
from hsi_train.run_folder import checkpoint

METHODS = ("mf2cnet", "s2amsnet")
OUTPUTS = 128  # the default tile
ROUNDS = 7
CALIBRATION = 240  # windows at most: their activations are held in memory
LAYERS = ("Conv", "Gemm", "MatMul")
SPEED, LOSS = 1.5, 0.003  # what would have to be reached


class Windows(CalibrationDataReader):  # type: ignore[misc]
    """Hands the calibration windows out in batches."""

    def __init__(self, windows: NDArray[np.float32]) -> None:
        self.batches = iter(np.array_split(windows, 6))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT_NAME: batch}


def training_windows(run: Path, cube: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Cut the windows of training pixels: ``(pixel, band, side, side)``."""
    with rasterio.open(run / "split.tif") as file:
        places = np.argwhere(file.read(1) == Role.TRAIN)
    places = np.random.default_rng(0).permutation(places)[:CALIBRATION]
    halo = side // 2
    padded = np.pad(cube, ((0, 0), (halo, halo), (halo, halo)), mode="reflect")
    cut = [padded[:, r : r + side, c : c + side] for r, c in places]
    return np.stack(cut).astype(np.float32)


def kept_nodes(proto: Any) -> dict[str, list[str]]:
    """Name, for each choice of layers, those that stay in float32."""
    shapes = {tensor.name: list(tensor.dims) for tensor in proto.graph.initializer}
    pointwise = [
        node.name
        for node in proto.graph.node
        if node.op_type == "Conv" and shapes.get(node.input[1], [])[2:] == [1, 1]
    ]
    volumes = [
        node.name
        for node in proto.graph.node
        if node.op_type == "Conv" and len(shapes.get(node.input[1], [])) == 5
    ]
    return {
        "all layers": [],
        "all but 3-D convolutions": volumes,
        "2-D spatial kernels only": [*volumes, *pointwise],
    }


def quantized(
    proto: Any, kept: list[str], windows: NDArray[np.float32]
) -> tuple[bytes, int]:
    """Return the quantised graph, and how many layers it computes in int8."""
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(proto.SerializeToString())
        quantize_static(
            source,
            path,
            Windows(windows),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(LAYERS),
            nodes_to_exclude=kept,
        )
        data = path.read_bytes()
    layers = [n for n in proto.graph.node if n.op_type in LAYERS]
    return data, sum(n.name not in kept for n in layers)


def measure(run: Path) -> dict[str, Any]:
    path = run / "fp32.onnx"
    export(run, path, overwrite=True)
    model = hsi_runtime.Model(path, "cpu", threads=1)
    kept = checkpoint.load(run)
    content = recipe.parse(recipe.load(str(run / "recipe.toml")))
    scene = labelled_scene.open_any(recipe.expanded(content.data.scenes[0]))
    info = scene.info
    cube = scene.read((0, info.rows), (0, info.cols), np.arange(info.bands))
    scene.close()
    test, truth = half_precision.test_pixels(run, content)
    used = [*kept.description.bands.used]
    windows = training_windows(run, cube[used], kept.method.receptive_field)
    proto = tracing.trace(kept.method, len(used))

    engines = {"fp32": (model.backend, 0, len(model.file.onnx))}
    for label, nodes in kept_nodes(proto).items():
        data, layers = quantized(proto, nodes, windows)
        file = ModelFile(path, model.file.document, data, "")
        engines[label] = OnnxruntimeCpu(file, 1), layers, len(data)
    side = OUTPUTS + 2 * model.file.document.halo
    random = np.random.default_rng(0)
    places = random.integers(0, len(windows), (side, side))
    centre = kept.method.receptive_field // 2
    spectra = windows[:, :, centre, centre]  # (pixel, band)
    tile = np.ascontiguousarray(spectra[places].transpose(2, 0, 1)[None])
    calls = {label: partial(e.predict, tile) for label, (e, _, _) in engines.items()}
    seconds, _ = common.in_turns(calls, ROUNDS)
    found: dict[str, Any] = {
        "trained": half_precision.trained_with(content),
        "calibration_windows": len(windows),
        "layers": sum(n.op_type in LAYERS for n in proto.graph.node),
    }
    maps = {}
    for label, (engine, layers, size) in engines.items():
        model.backend = engine
        maps[label] = model.predict(cube, **half_precision.described(info)).classes
        ratios = [a / b for a, b in zip(seconds["fp32"], seconds[label], strict=True)]
        accuracy = float((maps[label] == truth)[test].mean())
        speed = statistics.median(ratios)
        found[label] = {
            "int8_layers": layers,
            "bytes": size,
            "speed_over_fp32": round(speed, 2),
            "speed_range": [round(min(ratios), 2), round(max(ratios), 2)],
            "overall_accuracy": round(accuracy, 5),
            "equal_classes": round(float((maps[label] == maps["fp32"]).mean()), 5),
        }
        if label != "fp32":
            loss = found["fp32"]["overall_accuracy"] - accuracy
            found[label]["would_ship"] = bool(speed >= SPEED and loss <= LOSS)
    found["test_pixels"] = int(test.sum())
    return found


def table(figures: dict[str, Any]) -> str:
    """Write the rows as Markdown."""
    lines = [
        "| method, scene | in int8 | layers | speed over fp32 | OA fp32 | OA int8 "
        "| equal classes | reaches the bar |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for key, row in figures.items():
        for label, found in row.items():
            if not isinstance(found, dict) or not found.get("int8_layers"):
                continue
            cells = [
                key,
                label,
                f"{found['int8_layers']} of {row['layers']}",
                f"{found['speed_over_fp32']:.2f}x",
                f"{100 * row['fp32']['overall_accuracy']:.2f}",
                f"{100 * found['overall_accuracy']:.2f}",
                f"{100 * found['equal_classes']:.2f} %",
                "yes" if found["would_ship"] else "no",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.option("--runs", type=click.Path(path_type=Path), default="build/half")
@click.option("--method", "methods", multiple=True, default=METHODS)
def main(runs: Path, methods: tuple[str, ...]) -> None:
    figures = {}
    for scene, name in product(half_precision.SCENES, methods):
        run, key = runs / f"{scene}-{name}", f"{name} on {scene}"
        half_precision.trained(name, scene, run)
        figures[key] = measure(run)
        print(f"{key}: {figures[key]}", flush=True)
    common.report("int8", figures)
    written = half_precision.RESULTS / "int8.md"
    written.write_text(table(figures) + "\n")


if __name__ == "__main__":
    main()

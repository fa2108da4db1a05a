"""What limits each method on a CPU: arithmetic, movement, or element-wise work?

    python benchmarks/limits.py

onnxruntime computes windows as large as hsi-run's tile for the model, on one core, and
its profiler tells the time of every operator. *Products* are convolutions and matrix
products; *movement* copies or reorders values; the rest is element-wise: norms,
activations, softmax, sums. Products run at a share of what a large matrix product
reaches on this core in the same process (*matrix rate*); networks have small ones.
"""

import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import code_digest
import common
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from hsi_runtime.model.model_file import INPUT_NAME, ModelFile
from hsi_runtime.walk.memory import tile_on_cpu
from hsi_train.methods import names

BANDS, CLASSES, ROUNDS = 200, 16, 12
SIDE = 1024  # of the large matrix product
PRODUCTS = {"Conv", "FusedConv", "Gemm", "MatMul", "FusedMatMul", "FusedGemm"}
KINDS = ("products", "movement", "element-wise")
MOVEMENT = {
    *("Transpose", "Slice", "Concat", "Reshape", "Split", "Pad", "Squeeze"),
    *("Unsqueeze", "Gather", "Expand", "Cast", "ReorderInput", "ReorderOutput"),
}


def kind_of(operator: str) -> str:
    """Return what an operator's time counts as."""
    if operator in PRODUCTS:
        return "products"
    return "movement" if operator in MOVEMENT else "element-wise"


def matrix_rate() -> float:
    """Return the products a second of a large matrix product on one core."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE])
        for name in ("a", "b", "out")
    ]
    node = helper.make_node("MatMul", ["a", "b"], ["out"])
    graph = helper.make_graph([node], "product", ends[:2], ends[2:])
    opset = helper.make_opsetid("", 20)
    proto = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    session = common.session(proto.SerializeToString())
    square = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    seconds, _ = common.in_turns(
        {"product": lambda: session.run(None, {"a": square, "b": square})},
        ROUNDS,
        time.process_time,
    )
    return float(SIDE**3 / min(seconds["product"]))


def profile(model: ModelFile, folder: Path) -> dict[str, Any]:
    """Sum up the time of a model's operators, by what they do."""
    document = model.document
    side = tile_on_cpu(document.macs_per_pixel, document.working_bytes)
    cube = common.stored_values(BANDS, side + 2 * document.halo)
    plain = common.session(model.onnx)
    seconds, _ = common.in_turns(
        {"window": lambda: plain.run(None, {INPUT_NAME: cube})},
        ROUNDS,
        time.process_time,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.log_severity_level = 3
    watched = onnxruntime.InferenceSession(
        model.onnx, options, providers=["CPUExecutionProvider"]
    )
    for _ in range(ROUNDS):
        watched.run(None, {INPUT_NAME: cube})
    events = json.loads(Path(watched.end_profiling()).read_text("utf-8"))
    times: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[kind_of(event["args"]["op_name"])] += event["dur"]
    window = min(seconds["window"])
    return {
        "tile": side,
        "pixels_per_second": round(side**2 / window),
        "macs_per_pixel": document.macs_per_pixel,
        "macs_per_second": document.macs_per_pixel * side**2 / window,
        "time": {kind: times[kind] / times.total() for kind in KINDS},
    }


@click.command()
@click.option("--method", "methods", multiple=True, default=names())
def main(methods: tuple[str, ...]) -> None:
    rate = matrix_rate()
    figures: dict[str, Any] = {"bands": BANDS, "classes": CLASSES}
    figures["matrix_rate"] = round(rate / 1e9, 1)
    for name in methods:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            model = common.make_model(path, name, BANDS, CLASSES, 400, 2500)
            found = profile(model, path)
        share = found.pop("macs_per_second") / rate
        shares = {kind: f"{100 * s:.0f} %" for kind, s in found.pop("time").items()}
        figures[name] = {
            **found,
            "share_of_matrix_rate": f"{100 * share:.0f} %",
            **shares,
        }
        print(name, figures[name], flush=True)
    common.report("limits", figures, code_digest.of_running(*methods))


if __name__ == "__main__":
    main()

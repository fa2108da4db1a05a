"""Turns a graph into half precision, and proves that nothing overflows there.

Weights and most arithmetic become float16; inputs and outputs stay float32. Precision
lives in the graph, because engines have no reliable switch for it. What half precision
cannot do well stays in float32: the arithmetic on stored values, sums over many
numbers, exponentials, and every node whose values come near the largest half.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from hsi_export import half
from hsi_export.activations import open_activations
from hsi_runtime.errors import VerificationError
from hsi_runtime.model.model_file import INPUT_NAME
from hsi_train.layers import LINEAR_WEIGHTS

LARGEST = float(np.finfo(np.float16).max)
NEAR = LARGEST / 2  # other scenes may have twice the values of the one at hand
# Sums, quotients by small numbers and exponentials, wherever they stand.
SENSITIVE = (
    *("Softmax", "LogSoftmax", "LayerNormalization", "Exp", "Log", "Pow", "Sqrt"),
    *("ReduceSum", "ReduceMean", "ReduceL2", "ReduceSumSquare", "ReduceMax"),
    *("Reciprocal", "Div", "Erf"),
)
# What a network does to stored values before its first layer.
PREPARATION = {
    *("Sub", "Add", "Mul", "Div", "Cast", "Clip", "Max", "Min", "Abs", "Sqrt", "Pow"),
    *("ReduceL2", "ReduceSum", "ReduceSumSquare", "Where", "Equal", "Greater", "Less"),
    *("Transpose", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Slice", "Pad"),
}
CENTRING = "Sub"
CONTRACTIONS = {"Conv", "Gemm", "MatMul"}
CHECKED_OUTPUTS = 8  # side of the square that is computed in true half arithmetic


@dataclass(frozen=True)
class Half:
    """A converted graph.

    Attributes:
        proto: The ``onnx.ModelProto``.
        kept: Names of nodes that stay in float32, near overflow or on stored values.
        largest: Largest magnitude among the tensors that became half.
    """

    proto: Any
    kept: list[str]
    largest: float


def convert(proto: Any, windows: Sequence[NDArray[np.float32]]) -> Half:
    """Rewrite a graph in half precision, after measuring its ranges on real windows.

    Args:
        proto: Graph in float32; not changed.
        windows: Cubes ``(1, band, row, col)``, stored units.

    Raises:
        VerificationError: A node overflows half precision; the message names it.
    """
    graph = proto.graph
    prepared = _on_stored_values(graph) | _on_linear_path(graph)
    ranges = _ranges(proto, windows)
    kept, largest = set(prepared), 0.0
    weights = {
        tensor.name: float(np.abs(numpy_helper.to_array(tensor)).max(initial=0))
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    for node in graph.node:
        if node.name in prepared or node.op_type in SENSITIVE:
            continue
        reached = max(
            (ranges[name] for name in node.output if name in ranges), default=0
        )
        if not reached <= LARGEST:
            raise VerificationError(
                f"{node.op_type} {node.name} reaches {reached:.3g}, and half precision "
                f"ends at {LARGEST:.0f}: the network would overflow. Export it "
                "without --fp16."
            )
        if reached > NEAR or _has_large_weights(node, weights):
            kept.add(node.name)
        else:
            largest = max(largest, reached)
    full = kept | {n.name for n in proto.graph.node if n.op_type in SENSITIVE}
    return Half(half.rewrite(proto, full), sorted(kept), largest)


def check_in_half_arithmetic(
    converted: Half,
    cube: NDArray[np.float32],
    expected: Sequence[NDArray[np.float32]],
    tolerance: float,
) -> None:
    """Compare a few pixels that are computed in true half arithmetic.

    Engines on a CPU compute half-precision files in float32. They hide what would
    overflow, or be rounded, on a GPU.

    Args:
        converted: Graph in half precision.
        cube: Small window ``(1, band, row, col)``, stored units.
        expected: Outputs of the network in float32, in their order.
        tolerance: Largest accepted difference.

    Raises:
        VerificationError: An output is not finite, or differs by more.
    """
    with np.errstate(all="ignore"):  # overflows are found in the outputs
        outputs = ReferenceEvaluator(converted.proto).run(None, {INPUT_NAME: cube})
    if not all(np.isfinite(values).all() for values in outputs):
        raise VerificationError(
            "The network overflows in half arithmetic, though its values on the "
            "training scene do not; export it without --fp16."
        )
    worst = max(
        float(np.abs(o - e).max()) for o, e in zip(outputs, expected, strict=True)
    )
    if not worst <= tolerance:
        raise VerificationError(
            f"In half arithmetic the network's outputs differ by up to {worst:.2e} "
            f"(accepted {tolerance:.0e}); export it without --fp16."
        )


def _has_large_weights(node: Any, weights: dict[str, float]) -> bool:
    return any(weights.get(name, 0.0) > NEAR for name in node.input)


def _on_stored_values(graph: Any) -> set[str]:
    """Return the names of the nodes between the input and the first layer.

    Stored values differ in their last digits, which half precision lacks. Scaling them
    does not change that; subtracting their mean does. A layer that reads them before
    the mean is subtracted is one of these nodes, too.
    """
    constants = {tensor.name for tensor in graph.initializer}
    stored, prepared = {INPUT_NAME}, set[str]()
    names = set()
    for node in graph.node:
        inputs = set(node.input) - constants
        if not inputs & (stored | prepared):
            continue
        if node.op_type in CONTRACTIONS and inputs & stored:
            names.add(node.name)
        elif node.op_type in PREPARATION:
            names.add(node.name)
            centred = node.op_type == CENTRING or not inputs & stored
            (prepared if centred else stored).update(node.output)
    return names


def _on_linear_path(graph: Any) -> set[str]:
    """Return the names of the nodes before and after the weights of the linear path.

    Its scores are small differences of large products, and are added to the network's.
    """
    weights = {
        tensor.name
        for tensor in graph.initializer
        if tensor.name.rpartition(".")[2] in LINEAR_WEIGHTS
    }
    products = [node for node in graph.node if weights & set(node.input)]
    names = {node.name for node in products}
    needed = {name for node in products for name in node.input}
    for node in reversed(graph.node):
        if needed & set(node.output):
            names.add(node.name)
            needed |= set(node.input)
    made = {name for node in products for name in node.output}
    for node in graph.node:
        if made & set(node.input):
            names.add(node.name)
            made |= set(node.output)
    return names


def _ranges(proto: Any, windows: Sequence[NDArray[np.float32]]) -> dict[str, float]:
    """Measure the largest magnitude of every inner float tensor."""
    run = open_activations(proto)
    ranges: dict[str, float] = {}
    for cube in windows:
        for name, values in run(cube).items():
            largest = np.abs(values).max(initial=0)
            # np.maximum keeps a NaN, max() may drop it.
            ranges[name] = float(np.maximum(ranges.get(name, 0), largest))
    return ranges

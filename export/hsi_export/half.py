"""Rewrites a float32 graph in float16, node by node.

Inputs and outputs stay float32. A node that stays in float32 reads what other such
nodes made as they made it: a value is cast only where it crosses from one precision to
the other, so nothing is rounded on the way to a node that was kept for its precision.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)
NAMES = {FLOAT: "float", HALF: "half"}


def rewrite(proto: Any, kept: Collection[str]) -> Any:
    """Return the graph in half precision.

    Args:
        proto: Checked ``onnx.ModelProto`` whose nodes have names; not changed.
        kept: Names of the nodes that stay in float32.
    """
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    writer = _Writer(inferred)
    for node in inferred.node:
        writer.add(node, FLOAT if node.name in kept else HALF)
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    graph = out.graph
    for field in (graph.node, graph.initializer, graph.value_info):
        del field[:]
    graph.node.extend(writer.finish([output.name for output in graph.output]))
    graph.initializer.extend(writer.initializers())
    onnx.checker.check_model(out, full_check=True)
    return out


class _Writer:
    """Writes nodes in their order, with the casts between them."""

    def __init__(self, graph: Any) -> None:
        values = (*graph.value_info, *graph.input, *graph.output)
        self._kinds = {v.name: v.type.tensor_type.elem_type for v in values}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._kinds |= {n: t.data_type for n, t in self._constants.items()}
        self._made = {v.name: FLOAT for v in graph.input}  # precision of each tensor
        self._renamed: dict[str, str] = {}
        self._nodes: list[Any] = []
        self._casts: dict[tuple[str, int], str] = {}
        self._used: dict[str, set[int]] = {}  # precisions of each constant

    def add(self, node: Any, precision: int) -> None:
        """Write a node in a precision."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        floats = [n for n in node.output if self._kinds.get(n) == FLOAT]
        if not floats or node.op_type in ("Cast", "Constant"):
            precision = FLOAT  # their type is their own
        for index, name in enumerate(node.input):
            if self._kinds.get(name) != FLOAT:
                continue
            # The shape of a tensor is the same in any precision.
            if not floats and name in self._made:
                copy.input[index] = self._renamed.get(name, name)
                continue
            copy.input[index] = self._as(name, precision)
        for index, name in enumerate(node.output):
            if name in floats:
                self._made[name] = precision
                if precision == HALF:
                    self._renamed[name] = copy.output[index] = f"{name}_half"
        self._nodes.append(copy)

    def finish(self, outputs: list[str]) -> list[Any]:
        """Return all nodes, the graph's outputs in float32."""
        for name in outputs:
            if self._made[name] == HALF:
                self._nodes.append(self._cast(self._renamed[name], name, FLOAT))
        return self._nodes

    def initializers(self) -> list[Any]:
        """Return the constants, each in the precisions in which it is read."""
        constants = []
        for name, tensor in self._constants.items():
            if tensor.data_type != FLOAT:
                constants.append(tensor)
                continue
            for precision in sorted(self._used.get(name, set())):
                if precision == FLOAT:
                    constants.append(tensor)
                    continue
                values = numpy_helper.to_array(tensor).astype(np.float16)
                constants.append(numpy_helper.from_array(values, f"{name}_half"))
        return constants

    def _as(self, name: str, precision: int) -> str:
        """Return the name of a tensor in a precision; cast it once if necessary."""
        if name in self._constants:
            self._used.setdefault(name, set()).add(precision)
            return name if precision == FLOAT else f"{name}_half"
        if self._made[name] == precision:
            return self._renamed.get(name, name)
        key = name, precision
        if key not in self._casts:
            cast = f"{name}_as_{NAMES[precision]}"
            source = self._renamed.get(name, name)
            self._nodes.append(self._cast(source, cast, precision))
            self._casts[key] = cast
        return self._casts[key]

    @staticmethod
    def _cast(source: str, target: str, precision: int) -> Any:
        return helper.make_node(
            "Cast", [source], [target], f"cast_{target}", to=precision
        )

"""Estimates what a graph holds in memory while it runs."""

from typing import Any

import onnx

SIDE = 140  # of the window the estimate is made for, px
BYTES = 4  # of a float32


def working_bytes(proto: Any) -> float:
    """Return the largest sum of live tensors, in bytes for each pixel of a window.

    A tensor lives from the node that makes it to the last node that uses it; weights
    are not counted. Engines add their own overhead.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    graph = fixed.graph
    shape = graph.input[0].type.tensor_type.shape.dim
    for index, size in ((0, 1), (2, SIDE), (3, SIDE)):
        shape[index].dim_value = size
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    sizes = {
        value.name: _elements(value)
        for value in (*inferred.value_info, *inferred.output, *inferred.input)
    }
    last_use = {
        name: position
        for position, node in enumerate(inferred.node)
        for name in node.input
    }
    live = {inferred.input[0].name}
    peak = 0
    for position, node in enumerate(inferred.node):
        live |= set(node.output) & set(sizes)
        peak = max(peak, sum(sizes[name] for name in live))
        live = {name for name in live if last_use.get(name, -1) > position}
    return BYTES * peak / SIDE**2


def _elements(value: Any) -> int:
    count = 1
    for dim in value.type.tensor_type.shape.dim:
        count *= max(dim.dim_value, 1)
    return count

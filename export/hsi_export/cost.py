"""Estimates what a graph costs for each pixel: memory and arithmetic."""

import math
from typing import Any

import onnx

SIDE = 140  # of the window the estimates are made for, px
BYTES = 4  # of a float32


def working_bytes(proto: Any) -> float:
    """Return the largest sum of live tensors, in bytes for each pixel of a window.

    A tensor lives from the node that makes it to the last node that uses it; weights
    are not counted. Engines add their own overhead.
    """
    graph = _at_one_size(proto)
    sizes = {name: math.prod(shape) for name, shape in _shapes(graph).items()}
    last_use = {
        name: position
        for position, node in enumerate(graph.node)
        for name in node.input
    }
    live = {graph.input[0].name}
    peak = 0
    for position, node in enumerate(graph.node):
        live |= set(node.output) & set(sizes)
        peak = max(peak, sum(sizes[name] for name in live))
        live = {name for name in live if last_use.get(name, -1) > position}
    return BYTES * peak / SIDE**2


def macs_per_pixel(proto: Any) -> float:
    """Count multiplications in convolutions and matrix products, for each output pixel.

    The context round a window is counted, too; element-wise arithmetic is not.
    """
    graph = _at_one_size(proto)
    shapes = _shapes(graph)
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            factors = shapes[node.input[1]][1:]  # channels of a group, kernel
        elif node.op_type in ("MatMul", "Gemm"):
            factors = shapes[node.input[0]][-1:]
        else:
            continue
        total += math.prod(shapes[node.output[0]]) * math.prod(factors)
    outputs = shapes[graph.output[0].name]
    return total / (outputs[-1] * outputs[-2])


def _at_one_size(proto: Any) -> Any:
    """Infer all shapes for a batch of one window of `SIDE` x `SIDE` pixels."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    graph = fixed.graph
    shape = graph.input[0].type.tensor_type.shape.dim
    for index, size in ((0, 1), (2, SIDE), (3, SIDE)):
        shape[index].dim_value = size
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph


def _shapes(graph: Any) -> dict[str, list[int]]:
    return {
        value.name: [max(d.dim_value, 1) for d in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output, *graph.input)
    }

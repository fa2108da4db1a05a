"""Measures what a graph costs for each pixel: memory and arithmetic.

The graph is run on two small windows. A tensor of a window of side s has
``k (s - c) ** 2`` elements, so the root of its size is linear in s, and two windows
give its size in any other.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from hsi_export.activations import Activations, open_activations
from hsi_runtime.model.model_file import INPUT_NAME

SIDE = 140  # side of the window that the figures describe, px
SMALL = (1, 9)  # outputs on a side of the two windows that are run
BYTES = 4  # size of a float32


class Cost(NamedTuple):
    """Cost of one pixel of a window.

    Attributes:
        working_bytes: Largest sum of live tensors per pixel read. A tensor lives from
            the node that makes it to the last one that uses it; weights are not
            counted. Engines add their own overhead.
        macs: Multiplications of convolutions and matrix products per pixel classified.
            Context is counted; element-wise arithmetic is not.
    """

    working_bytes: float
    macs: float


def measure(proto: Any, receptive_field: int, side: int = SIDE) -> Cost:
    """Measure a graph.

    Args:
        proto: Graph in float32.
        receptive_field: Receptive field of the network, px.
        side: Side of the window, context included, px.
    """
    graph = proto.graph
    bands = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    run = open_activations(proto)
    sides = [receptive_field - 1 + outputs for outputs in SMALL]
    small, large = (run(_cube(bands, side)) for side in sides)
    sizes = {n: _extrapolate(small, large, n, sides, side) for n in small}
    sizes[INPUT_NAME] = bands * side**2

    last_use = {n: i for i, node in enumerate(graph.node) for n in node.input}
    live, peak = {INPUT_NAME}, 0.0
    macs = 0.0
    constants = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for position, node in enumerate(graph.node):
        live |= set(node.output) & set(sizes)
        peak = max(peak, math.fsum(sizes[name] for name in live))
        live = {name for name in live if last_use.get(name, -1) > position}
        if node.op_type == "Conv":  # channels of a group, kernel
            macs += sizes[node.output[0]] * math.prod(constants[node.input[1]][1:])
        elif node.op_type in ("MatMul", "Gemm"):
            left = node.input[0]
            shape = constants.get(left) or small[left].shape
            macs += sizes[node.output[0]] * shape[-1]
    outputs = side - receptive_field + 1
    return Cost(BYTES * peak / side**2, macs / outputs**2)


def _cube(bands: int, side: int) -> Any:
    return np.ones((1, bands, side, side), dtype=np.float32)


def _extrapolate(
    small: Activations, large: Activations, name: str, sides: list[int], side: int
) -> float:
    first, second = (math.sqrt(tensors[name].size) for tensors in (small, large))
    slope = (second - first) / (sides[1] - sides[0])
    return (second + slope * (side - sides[1])) ** 2

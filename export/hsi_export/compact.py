"""Lets convolutions that read the same many channels share one projection of them.

Neighbouring bands tell the same, so what the first layers of a network take from a
spectrum lies near a space of few dimensions. For weights W and spectra with covariance
S, the best product of two thinner matrices is that of the leading left singular vectors
U of W S^(1/2): W is near U (U^T W) (reduced-rank regression; Izenman, J. Multivariate
Anal. 5(2), 1975). U^T W is a 1x1 convolution that all share. A ridge on S keeps what
other spectra may need.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hsi_export.activations import open_activations
from hsi_runtime.model.model_file import INPUT_NAME
from hsi_train.layers import LINEAR_WEIGHTS

WIDE = 32  # channels, from which on a layer may share
RANKS = tuple(range(8, 72, 8))
LOST = 5e-6  # share of the variance of the layers' outputs that may be lost
RIDGE = 1e-4  # of the mean variance of a channel: what spectra elsewhere may have
MOST_LEFT = 0.7  # share of the products that may be left, or nothing is changed
MIXED_OUTPUTS = 40  # side of what is classified of a window of mixtures
SPARSENESS = 0.3  # of mixtures: parameter of their Dirichlet distribution
BRIGHTNESS = 0.5, 1.5


@dataclass(frozen=True)
class Shared:
    """A projection that convolutions share.

    Attributes:
        source: Name of the tensor that they read.
        layers: Names of their weights.
        channels: Channels of the tensor.
        rank: Channels of its projection.
    """

    source: str
    layers: list[str]
    channels: int
    rank: int


def share_projections(
    proto: Any, windows: Sequence[NDArray[np.float32]]
) -> tuple[Any, list[Shared]]:
    """Return a graph with shared projections, and what they are.

    Args:
        proto: Graph in float32; not changed.
        windows: Cubes ``(1, band, row, col)``, stored units, that show what the network
            will see.
    """
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    graph = out.graph
    weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    layers = _wide_layers(graph, weights)
    seen = _values(proto, windows, [*layers])
    shared = []
    for source, nodes in layers.items():
        replacement = _shared_projection(source, nodes, weights, seen[source])
        if replacement is not None:
            _replace(graph, nodes, replacement)
            shared.append(replacement.described)
    onnx.checker.check_model(out, full_check=True)
    return out, shared


def _wide_layers(graph: Any, weights: dict[str, NDArray[Any]]) -> dict[str, list[Any]]:
    """List the convolutions of all channels that read a wide tensor, by its name."""
    layers = defaultdict(list)
    for node in graph.node:
        if node.op_type != "Conv" or node.input[1] not in weights:
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        weight = weights[node.input[1]]
        plain = attributes.get("group", 1) == 1 and not any(attributes.get("pads", ()))
        exact = any(name in node.input[1] for name in LINEAR_WEIGHTS)
        if plain and not exact and weight.ndim == 4 and weight.shape[1] > WIDE:
            layers[node.input[0]].append(node)
    return layers


def _values(
    proto: Any, windows: Sequence[NDArray[np.float32]], names: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Return the vectors of tensors, each of shape ``(pixel, channel)``."""
    run = open_activations(proto)
    parts = defaultdict(list)
    for cube in windows:
        tensors = run(cube) | {INPUT_NAME: cube}
        for name in names:
            channels = tensors[name].shape[1]
            parts[name].append(np.moveaxis(tensors[name], 1, -1).reshape(-1, channels))
    return {name: np.concatenate(p).astype(np.float64) for name, p in parts.items()}


@dataclass(frozen=True)
class _Replacement:
    described: Shared
    projection: NDArray[np.float32]
    weights: list[NDArray[np.float32]]
    biases: list[NDArray[np.float32]]


def _shared_projection(
    source: str,
    nodes: Sequence[Any],
    weights: dict[str, NDArray[Any]],
    spectra: NDArray[np.float64],
) -> _Replacement | None:
    """Find the projection of the least rank that loses next to nothing."""
    kernels = [weights[n.input[1]].astype(np.float64) for n in nodes]
    channels = kernels[0].shape[1]
    mean = spectra.mean(axis=0)
    covariance = np.cov(spectra, rowvar=False)
    variances, axes = np.linalg.eigh(covariance)
    seen = axes * np.sqrt(variances.clip(min=0))
    unseen = axes * np.sqrt(variances.clip(min=0) + RIDGE * variances.mean())
    # (output and tap, channel), each layer in units of what it gives
    stacked = [k.transpose(0, 2, 3, 1).reshape(-1, channels) for k in kernels]
    sizes = [np.sqrt(np.mean((w @ seen) ** 2)) for w in stacked]
    whole = np.concatenate([w / s for w, s in zip(stacked, sizes, strict=True)])
    left, _, _ = np.linalg.svd(whole @ unseen, full_matrices=False)
    given = np.square(left.T @ whole @ seen).sum(axis=1)  # variance by direction
    lost = 1 - given.cumsum() / given.sum()
    outputs = len(whole)
    for rank in RANKS:
        cost = (channels * rank + rank * outputs) / (channels * outputs)
        if rank < len(lost) and lost[rank - 1] <= LOST and cost <= MOST_LEFT:
            break
    else:
        return None
    basis = left[:, :rank]
    projection = basis.T @ whole
    thin, biases, start = [], [], 0
    for node, kernel, rows, size in zip(nodes, kernels, stacked, sizes, strict=True):
        own = size * basis[start : start + len(rows)]
        start += len(rows)
        shape = (kernel.shape[0], *kernel.shape[2:])
        # What is lost of the mean spectrum goes to the bias.
        rest = ((rows - own @ projection) @ mean).reshape(shape).sum(axis=(1, 2))
        bias = weights[node.input[2]] if len(node.input) > 2 else 0
        thin.append(own.reshape(*shape, rank).transpose(0, 3, 1, 2).astype(np.float32))
        biases.append((bias + rest).astype(np.float32))
    described = Shared(source, [n.input[1] for n in nodes], channels, rank)
    projection = projection[..., None, None].astype(np.float32)
    return _Replacement(described, projection, thin, biases)


def _replace(graph: Any, nodes: Sequence[Any], new: _Replacement) -> None:
    """Put the projection before the first of the convolutions, which then read it."""
    source = new.described.source
    name = f"{source}_shared"
    constants = {f"{name}_weight": new.projection}
    projected = helper.make_node(
        "Conv", [source, f"{name}_weight"], [name], name, kernel_shape=[1, 1]
    )
    graph.node.insert(min(list(graph.node).index(n) for n in nodes), projected)
    for node, weight, bias in zip(nodes, new.weights, new.biases, strict=True):
        own = [f"{node.input[1]}_of_shared", f"{node.input[1]}_of_shared_bias"]
        constants |= dict(zip(own, (weight, bias), strict=True))
        node.input[:] = [name, *own]
    graph.initializer.extend(
        numpy_helper.from_array(value, key) for key, value in constants.items()
    )
    read = {name for node in graph.node for name in node.input}
    kept = [t for t in graph.initializer if t.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def mixtures(means: NDArray[np.floating[Any]], side: int) -> NDArray[np.float32]:
    """Mix class means, at random brightness: spectra that one real window may lack.

    Args:
        means: Mean spectrum of each class, stored units, shape ``(class, band)``.
        side: Side of the window, px.

    Returns:
        Shape ``(1, band, row, col)``.
    """
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(len(means), SPARSENESS), (side, side))
    spectra = shares @ means * rng.uniform(*BRIGHTNESS, (side, side, 1))
    return np.ascontiguousarray(spectra.transpose(2, 0, 1)[None], dtype=np.float32)

"""The inference graphs as they were first written: what faster ones are compared with.

The plain networks of training, whose layers engines run one by one, and a softmax over
the class axis. Where a network has changed since, its first form is here.
"""

from collections.abc import Iterator
from functools import reduce
from typing import Any

import onnx_ir
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_export import tracing
from hsi_train.layers import crop_to
from hsi_train.method import BaseMethod
from hsi_train.methods import mf2cnet, s2vnet
from hsi_train.methods.mf2cnet import GROUPS, GranularBlock
from hsi_train.methods.s2vnet import HEADS, REACH, Retention


class FirstRetention(Retention):
    """Weights are copied to every feature of a head before they are used."""

    spread: Tensor

    def __init__(self, later: Retention) -> None:
        super().__init__()
        self.load_state_dict(later.state_dict())
        width = self.similarity.shape[1] // HEADS
        heads = torch.eye(HEADS).repeat_interleave(width, dim=1)  # (head, channel)
        self.register_buffer("spread", heads.T[..., None, None].contiguous())

    def _look(self, q: Tensor, k: Tensor, v: Tensor, dim: int) -> Tensor:
        size = v.shape[dim] - 2 * REACH
        q = q.narrow(dim, REACH, size)
        scores = [
            F.conv2d(q * k.narrow(dim, shift, size), self.similarity, decay)
            for shift, decay in enumerate(self.decay)
        ]
        top = reduce(torch.maximum, scores)
        weights = [torch.exp(score - top) for score in scores]
        parts = [
            F.conv2d(weight, self.spread) * v.narrow(dim, shift, size)
            for shift, weight in enumerate(weights)
        ]
        total: Tensor = sum(parts[1:], parts[0])
        return total / F.conv2d(sum(weights[1:], weights[0]), self.spread)


class FirstBlock(GranularBlock):
    """The groups are copied out of one product."""

    def __init__(self, later: GranularBlock) -> None:
        layer = later.mix[0]
        assert isinstance(layer, nn.Conv3d)
        super().__init__(layer.in_channels)
        self.load_state_dict(later.state_dict())

    def mixed_groups(self, x: Tensor, inner: Tensor) -> Iterator[Tensor]:
        mixed = self.mix(x)
        width = mixed.shape[1] // GROUPS
        for group in range(GROUPS):
            yield mixed[:, group * width : (group + 1) * width]


class FirstTry(nn.Module):
    """A network and a softmax; of S2VNet the abundances, too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, cube: Tensor) -> tuple[Tensor, ...]:
        network = self.network
        if not isinstance(network, s2vnet.Network):
            return (torch.softmax(network(cube), dim=1),)
        abundances = torch.softmax(network.encoder(cube / network.scale), dim=1)
        scores = network.scores(cube, abundances)
        return torch.softmax(scores, dim=1), crop_to(abundances, *scores.shape[-2:])


def trace(method: BaseMethod, bands: int) -> Any:
    """Export a method's network in its first form, as ``hsi_export.tracing.trace``."""
    network: Any = method.network
    if isinstance(network, s2vnet.Network):
        later = network.spatial.retention[1]
        assert isinstance(later, Retention)
        network.spatial.retention[1] = FirstRetention(later)
    elif isinstance(network, mf2cnet.Network):
        blocks = (FirstBlock(later) for later in network.blocks)  # type: ignore[arg-type]
        network.blocks = nn.Sequential(*blocks)
        # The head was a product over flat depths, as training's is.
        network.head = nn.Sequential(nn.Flatten(1, 2), *network.head)
    model = tracing.to_onnx(
        FirstTry(network).eval(), method.outputs, method.receptive_field, bands
    )
    return onnx_ir.to_proto(model)

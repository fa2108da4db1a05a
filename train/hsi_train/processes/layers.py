"""Layers that look at the whole batch, or draw for it, where windows are dealt out."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from hsi_train.processes import group
from hsi_train.processes.dealing import Sum, present_share


class _Norm(_BatchNorm):
    """A batch norm whose statistics are those of the windows of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channel, ...)`` to the same shape."""
        measures = self.training or self.running_mean is None
        if present_share() is None or not measures:
            return super().forward(x)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        with torch.autocast(x.device.type, enabled=False):
            values = x.to(group.summed(x))
            number = values.new_tensor(x.numel() // x.shape[1])
            group.add_up(number)
            mean = _sum(values.sum(dim=axes)) / number
            centred = values - mean.view(shape)
            variance = _sum(centred.square().sum(dim=axes)) / number
            if self.training and self.track_running_stats:
                self._remember(mean.detach(), variance.detach(), number)
            out = centred * (variance + self.eps).rsqrt().view(shape)
            if self.affine:
                out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, number: Tensor) -> None:
        """Add the statistics of a batch to the running ones, as torch does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:  # a plain mean over all batches
            share = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * number / (number - 1).clamp(min=1), share)


class _Norm2d(_Norm, nn.BatchNorm2d):
    """`_Norm` of images."""


class _Norm3d(_Norm, nn.BatchNorm3d):
    """`_Norm` of volumes."""


class _Dropout(nn.Dropout):
    """Dropout that draws for the windows of all processes: the same in each."""

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape ``(batch, ...)``."""
        share = present_share()
        if share is None or not self.training:
            return super().forward(x)
        kept = F.dropout(x.new_ones((share.windows, *x.shape[1:])), self.p)
        return x * kept[share.own]


TOGETHER: dict[type[nn.Module], Any] = {
    nn.BatchNorm2d: _Norm2d,
    nn.BatchNorm3d: _Norm3d,
    nn.Dropout: _Dropout,
}


def prepare(network: nn.Module) -> None:
    """Let norms and dropout see all windows, where several processes train.

    Each becomes a subclass of what it was, with the same weights and the same names.
    """
    if group.count() == 1:
        return
    for module in network.modules():
        module.__class__ = TOGETHER.get(type(module), type(module))


def _sum(values: Tensor) -> Tensor:
    total: Tensor = Sum.apply(values)  # type: ignore[no-untyped-call]
    return total

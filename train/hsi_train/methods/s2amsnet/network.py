"""The classifier: three layers of a 3x3 convolution beside an involution.

Axes: ``(batch, band or feature, row, col)``.
"""

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_train.method import Problem

FEATURES = 128
PLANES = 3  # channels that share an involution kernel

Norm = Callable[[int], nn.Module]


class UnitSpectra(nn.Module):
    """Scale every spectrum to a root mean square of one; a zero spectrum stays zero."""

    scale: Tensor

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        # It cancels out, but keeps the squares of stored values in any type's range.
        power = (problem.band_mean**2 + problem.band_std**2).mean()
        self.register_buffer("scale", power.rsqrt().float())

    def forward(self, cube: Tensor) -> Tensor:
        """Map ``(batch, band, row, col)`` to the same shape, unitless."""
        cube = cube * self.scale
        power = cube.square().mean(dim=1, keepdim=True)  # (batch, 1, row, col)
        return cube * torch.where(power > 0, power, 1).rsqrt()


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channel, row, col)`` to the same shape."""
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        normalised: Tensor = (x - mean) * (variance + 1e-5).rsqrt()
        return normalised * self.weight + self.bias


class Involution(nn.Module):
    """Filter each pixel by 3x3 kernels that are computed from that pixel.

    The channels lie in three planes of G = ceil(C / 3); the channels c, c + G and
    c + 2 G share a kernel.
    """

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        groups, hidden = -(-channels // PLANES), max(channels // 5, 1)
        self.kernels = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            norm(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, 9 * groups, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channel, row, col)`` to rows and columns less two."""
        channels = x.shape[1]
        kernels = self.kernels(x[:, :, 1:-1, 1:-1])
        kernels = torch.unflatten(kernels, 1, (9, -1))  # (batch, 9, group, row, col)
        groups = kernels.shape[2]
        if channels % PLANES:
            x = F.pad(x, (0, 0, 0, 0, 0, PLANES * groups - channels))
        planes = torch.unflatten(x, 1, (PLANES, groups))  # (batch, plane, group, ...)
        if self.training:
            # CPUs are fast with matrices of half precision, and slow with its values.
            wide = torch.promote_types(kernels.dtype, torch.float32)
            apply: Any = _Involve.apply
            filtered: Tensor = apply(planes.to(wide), kernels.to(wide)).to(x.dtype)
        else:
            filtered = involve(planes, kernels)
        return filtered.flatten(1, 2)[:, :channels]


def involve(planes: Tensor, kernels: Tensor) -> Tensor:
    """Sum the nine neighbours of each pixel, weighted by its own kernels.

    Args:
        planes: Shape ``(batch, plane, group, row + 2, col + 2)``.
        kernels: Shape ``(batch, 9, group, row, col)``; planes share them.

    Returns:
        Shape ``(batch, plane, group, row, col)``.
    """
    parts = enumerate(_shifted(planes))
    return reduce(
        torch.add, (p * kernels[:, offset : offset + 1] for offset, p in parts)
    )


def _shifted(planes: Tensor) -> Iterator[Tensor]:
    """Yield views of the neighbours of all inner pixels, row by row."""
    rows, cols = planes.shape[-2] - 2, planes.shape[-1] - 2
    for top in range(3):
        for left in range(3):
            yield planes[..., top : top + rows, left : left + cols]


class _Involve(torch.autograd.Function):
    """`involve`, whose sums grow in place: less than half the time in training."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, kernels: Tensor) -> Tensor:
        ctx.save_for_backward(planes, kernels)
        parts = enumerate(_shifted(planes))
        total = next(parts)[1] * kernels[:, :1]
        for offset, part in parts:
            total.addcmul_(part, kernels[:, offset : offset + 1])
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        planes, kernels = ctx.saved_tensors
        of_planes = torch.zeros_like(planes) if ctx.needs_input_grad[0] else None
        of_kernels = torch.empty_like(kernels)
        if of_planes is not None:
            for offset, part in enumerate(_shifted(of_planes)):
                part.addcmul_(gradient, kernels[:, offset : offset + 1])
        for offset, part in enumerate(_shifted(planes)):
            total = torch.mul(gradient[:, 0], part[:, 0], out=of_kernels[:, offset])
            for plane in range(1, PLANES):
                total.addcmul_(gradient[:, plane], part[:, plane])
        return of_planes, of_kernels


class SpatialSpectral(nn.Module):
    """A 3x3 convolution beside an involution, mixed in shares that sum to one."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, FEATURES, 3, bias=False), norm(FEATURES), nn.ReLU()
        )
        self.spectral = nn.Sequential(
            Involution(channels, norm),
            nn.Conv2d(channels, FEATURES, 1, bias=False),
            norm(FEATURES),
            nn.ReLU(),
        )

    def forward(self, x: Tensor, shares: Tensor) -> Tensor:
        """Map ``(batch, channel, row, col)`` to `FEATURES`, rows and columns less two.

        Args:
            x: Features.
            shares: Shares of the spectral and the spatial branch, shape ``(2,)``.
        """
        mixed: Tensor = shares[0] * self.spectral(x) + shares[1] * self.spatial(x)
        return mixed


class Network(nn.Module):
    """From a cube to class scores, with 18 rows and columns fewer."""

    def __init__(self, problem: Problem, norm: Norm) -> None:
        super().__init__()
        bands, classes = len(problem.band_mean), len(problem.class_counts)
        self.unit_spectra = UnitSpectra(problem)
        self.layers = nn.ModuleList(
            SpatialSpectral(channels, norm) for channels in (bands, FEATURES, FEATURES)
        )
        self.pair = nn.Parameter(torch.zeros(2))  # equal shares, one pair for all
        for module in self.layers.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        # After pooling with stride one, neighbours of the published grid lie two apart.
        self.fc1 = nn.Conv2d(FEATURES, FEATURES, 6, dilation=2)
        self.fc2 = nn.Conv2d(FEATURES, classes, 1)

    def forward(self, cube: Tensor) -> Tensor:
        """Map a cube, in any unit that is proportional to the stored one, to scores."""
        x = self.unit_spectra(cube)
        shares = torch.softmax(self.pair, dim=0)
        for layer in self.layers:  # rows and columns less two in each
            x = layer(x, shares)
        x = F.max_pool2d(x, 2, stride=1)  # less one
        scores = self.fc2(F.relu(self.fc1(x)))  # less ten
        return F.avg_pool2d(scores, 2, stride=1)  # less one

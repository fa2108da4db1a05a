"""What alters spectra, and what keeps a copy recognisable: training only.

Axes: ``(batch, band or feature, row, col)``.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_train import changes
from hsi_train.methods.s2amsnet.network import Involution

STYLED = 24  # features of a generator
SMOOTH = 8  # number of cosines along the spectrum


class Generator(nn.Module):
    """Alters spectra by features with a random style; training only."""

    basis: Tensor

    def __init__(self, bands: int, scale: float, smooth: bool) -> None:
        super().__init__()
        self.involutions = nn.ModuleList(
            nn.Sequential(
                nn.ReflectionPad2d(1),
                Involution(channels, _batch_norm),
                nn.Conv2d(channels, STYLED, 1, bias=False),
            )
            for channels in (bands, STYLED, STYLED)
        )
        self.convolutions = nn.ModuleList(
            _same_conv(channels, STYLED) for channels in (bands, STYLED, STYLED)
        )
        self.style = nn.Linear(2, 2 * STYLED)
        self.normalise = nn.InstanceNorm2d(STYLED)
        self.batch_norm = _batch_norm(STYLED)
        curves = torch.from_numpy(changes.cosines(bands, SMOOTH)).float()
        basis = curves if smooth else torch.eye(bands)
        self.register_buffer("basis", basis[..., None, None])
        self.output = nn.Conv2d(STYLED, basis.shape[1], 3)
        nn.init.normal_(self.output.weight, std=scale / math.sqrt(9 * STYLED))
        assert self.output.bias is not None
        nn.init.zeros_(self.output.bias)
        self.pair = nn.Parameter(torch.zeros(2))  # equal shares of source and change

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, band, row, col)`` to the same shape, each sample its style."""
        z = x
        for involution, convolution in zip(
            self.involutions, self.convolutions, strict=True
        ):
            z = involution(z) + convolution(z)
            # Drawn on the CPU, whose random state a resumed run restores.
            style = self.style(torch.randn(len(x), 2).to(x.device))
            gain, offset = style[:, :, None, None].chunk(2, dim=1)
            z = (1 + gain) * self.normalise(z) + offset
            z = F.leaky_relu(self.batch_norm(z), 0.01)
        shares = torch.softmax(self.pair, dim=0)
        change = self.output(F.pad(z, (1, 1, 1, 1), mode="reflect"))
        change = F.conv2d(change, self.basis)
        altered: Tensor = shares[0] * x + shares[1] * change
        return altered


class Residual(nn.Module):
    """Two 3x3 convolutions with a skip, without biases: InstanceNorm cancels them."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _same_conv(features, features),
            nn.InstanceNorm2d(features),
            nn.ReLU(),
            _same_conv(features, features),
            nn.InstanceNorm2d(features),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, feature, row, col)`` to the same shape."""
        out: Tensor = x + self.body(x)
        return out


class Blur(nn.Module):
    """Halve rows and columns after a binomial filter."""

    kernel: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        kernel = (taps[:, None] * taps).expand(features, 1, 3, 3).clone()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, feature, row, col)`` to half the rows and columns."""
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(padded, self.kernel, stride=2, groups=len(self.kernel))


class Encoder(nn.Module):
    """Features at five depths, by which MI compares patches; training only.

    The published encoder has a sixth residual block, after the last depth that is used.
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.ReflectionPad2d(3),
                nn.Sequential(
                    nn.Conv2d(bands, 8, 7, bias=False),
                    nn.InstanceNorm2d(8),
                    nn.ReLU(),
                    nn.Conv2d(8, 16, 3, padding=1),
                ),
                nn.Sequential(
                    nn.InstanceNorm2d(16),
                    nn.ReLU(),
                    Blur(16),
                    nn.Conv2d(16, 32, 3, padding=1),
                ),
                nn.Sequential(nn.InstanceNorm2d(32), nn.ReLU(), Blur(32), Residual(32)),
                nn.Sequential(*(Residual(32) for _ in range(4))),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map ``(batch, band, row, col)`` to features ``(batch, feature)``."""
        taps = []
        for stage in self.stages:
            x = stage(x)
            taps.append(x.flatten(1))
        return taps


def _batch_norm(features: int) -> nn.Module:
    # Generators always use the statistics of the batch.
    return nn.BatchNorm2d(features, track_running_stats=False)


def _same_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3, bias=False)
    )

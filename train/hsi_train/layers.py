"""Layers that more than one method uses."""

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LINEAR_SIDES = (1, 3, 5, 7, 9)  # squares whose mean a linear classifier sees, pixels
FLAT = 1e-6  # deviation of a spectrum over its mean below which it counts as flat
TINY = 1e-30  # so that a spectrum of zeros is no division by zero
# Buffers of the linear path; an exporter keeps what they meet in single precision.
LINEAR_WEIGHTS = ("bands_weight", "shape_weight")


class Standardise(nn.Module):
    """Centre and scale every band: ``(cube - mean) / std``.

    The statistics never come from validation or test pixels: they are those of the
    training pixels or, where S2Former has few labels, of pixels without a label that no
    window of a test pixel shows. They travel inside the network, so whoever runs the
    exported graph feeds it stored values and cannot rescale them differently.

    Args:
        mean: Band means in stored units, shape ``(band,)``.
        std: Band standard deviations in stored units, shape ``(band,)``, positive.
    """

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float()[:, None, None])
        self.register_buffer("inverse_std", (1 / std.double()).float()[:, None, None])

    def forward(self, cube: Tensor) -> Tensor:
        """Map ``(batch, band, row, col)`` to the same shape, unitless."""
        return (cube - self.mean) * self.inverse_std


@torch.no_grad()
def fold_standardise(layer: nn.Conv2d, standardise: Standardise) -> None:
    """Change a convolution so that it reads the cube before standardisation.

    Exact for a layer without padding: padding zeros would stand for other values.
    """
    assert layer.bias is not None
    weight = layer.weight.double() * standardise.inverse_std.double()
    layer.bias.sub_((weight * standardise.mean.double()).sum(dim=(1, 2, 3)))
    layer.weight.copy_(weight)


def norm_affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the gain and the offset that a batch norm has in evaluation.

    Returns:
        Both of shape ``(channel,)``: the norm of ``x`` is ``x * gain + offset``.
    """
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return gain, norm.bias - norm.running_mean * gain


def crop_to(features: Tensor, rows: int, cols: int) -> Tensor:
    """Crop the last two axes to their central ``rows`` x ``cols``."""
    top = (features.shape[-2] - rows) // 2
    left = (features.shape[-1] - cols) // 2
    return features[..., top : top + rows, left : left + cols]


def parameter_count(module: nn.Module) -> int:
    """Count the trainable parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def class_softmax(scores: Tensor) -> Tensor:
    """Turn scores ``(batch, class, row, col)`` into probabilities.

    Written out: for a softmax over an axis that is not the last, engines transpose
    everything, twice.
    """
    powers = torch.exp(scores - scores.amax(dim=1, keepdim=True))
    return powers / powers.sum(dim=1, keepdim=True)


class Probabilities(nn.Module):
    """The only way from class scores to probabilities.

    They are ``softmax((scores - balance * log_shares) / temperature)``, of the classes'
    shares of the training pixels. What is fitted is saved and exported with the method.

    Attributes:
        temperature: One until it is fitted.
        balance: How much rare classes count for more; zero until it is chosen.
    """

    temperature: Tensor
    balance: Tensor
    log_shares: Tensor

    def __init__(self, class_counts: Tensor) -> None:
        """Keep the classes' shares.

        Args:
            class_counts: Training pixels of each class, shape ``(class,)``.
        """
        super().__init__()
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("balance", torch.zeros(()))
        counts = class_counts.double().clamp(min=1)
        log_shares = torch.log(counts / counts.sum()).float()
        self.register_buffer("log_shares", log_shares, persistent=False)

    def balanced(self, scores: Tensor) -> Tensor:
        """Let rare classes count for more in scores ``(batch, class, row, col)``."""
        return scores - (self.balance * self.log_shares)[:, None, None]

    def forward(self, scores: Tensor) -> Tensor:
        """Map scores ``(batch, class, row, col)`` to probabilities."""
        return class_softmax(self.balanced(scores) / self.temperature)


class Balanced(nn.Module):
    """Class scores whose greatest is the class of the map."""

    def __init__(self, network: nn.Module, probabilities: Probabilities) -> None:
        super().__init__()
        self.network = network
        self.probabilities = probabilities

    def forward(self, cube: Tensor) -> Tensor:
        """Map ``(batch, band, row, col)`` in stored units to class scores."""
        return self.probabilities.balanced(self.network(cube))


class LinearFit(NamedTuple):
    """Linear class scores of the spectra around a pixel, fitted in closed form.

    A pixel is seen by its standardised bands and by its brightness-free spectrum, each
    averaged over squares of the sides `LINEAR_SIDES`; or over the first of them only,
    for spectra that were measured one by one and have no neighbours.

    Attributes:
        bands: Weights of the standardised bands, shape ``(side, class, band)``.
        shape: Weights of the brightness-free spectra, shape ``(side, class, band)``.
        centre: Mean brightness-free spectrum of the training pixels, ``(band,)``.
        bias: Shape ``(class,)``.
    """

    bands: Tensor
    shape: Tensor
    centre: Tensor
    bias: Tensor


class BrightnessFree(nn.Module):
    """Gives every spectrum the mean 0 and the deviation 1 over its bands (SNV).

    Barnes, Dhanoa, Lister, Applied Spectroscopy 43(5), 1989.

    Args:
        centre: Mean of what comes out over the training pixels, which is subtracted:
            a product of small differences needs fewer digits. Shape ``(band,)``.
    """

    centre: Tensor
    least: Tensor

    def __init__(self, centre: Tensor) -> None:
        super().__init__()
        self.register_buffer("centre", centre.float()[:, None, None], persistent=False)
        self.register_buffer("least", torch.tensor(TINY), persistent=False)

    def forward(self, cube: Tensor) -> Tensor:
        """Map ``(batch, band, row, col)`` in stored units to the same shape."""
        mean = cube.mean(dim=1, keepdim=True)
        centred = cube - mean
        variance = centred.square().mean(dim=1, keepdim=True)
        # A flat spectrum has no shape: it gives zeros, not rounding blown up.
        level = variance + (FLAT * mean).square()
        return centred * torch.rsqrt(torch.maximum(level, self.least)) - self.centre


class LinearPath(nn.Module):
    """Adds closed-form linear scores to a network's: what a linear rival would say.

    The products come first and the means of the scores after them: equal, and the
    squares average classes in place of bands.

    Attributes:
        gate: Factor of the network's scores, from 0 to 1.
        apart: True if the network was trained by itself: the more it counts, the less
            the linear scores do. False if it learned what they lack.
        unjudged: Indices of the classes that too few pixels were held out of to judge
            the network by. Where one of them has the highest linear score, the network
            has no say, and a full one where another leads them by a score of one.
    """

    apart = False
    unjudged: tuple[int, ...] = ()
    gate: Tensor
    bias: Tensor
    bands_weight: Tensor | None
    shape_weight: Tensor | None

    def __init__(self, fit: LinearFit, mean: Tensor, std: Tensor, halo: int) -> None:
        """Keep what is not zero of the weights.

        Args:
            fit: The closed-form solution.
            mean: Band means in stored units, shape ``(band,)``.
            std: Band standard deviations in stored units, shape ``(band,)``.
            halo: Rows and columns that the network drops on each side.
        """
        super().__init__()
        self.register_buffer("gate", torch.ones(()))
        self.standardise = Standardise(mean, std)
        self.brightness_free = BrightnessFree(fit.centre)
        self.halo = halo
        used = [
            index
            for index in range(len(fit.bands))
            if fit.bands[index].any() or fit.shape[index].any()
        ]
        self.sides = [LINEAR_SIDES[index] for index in used]
        for name, weight in zip(LINEAR_WEIGHTS, (fit.bands, fit.shape), strict=True):
            stacked = weight[used].flatten(0, 1).float()[:, :, None, None]
            kept = stacked if stacked.any() else None
            self.register_buffer(name, kept, persistent=False)
        bias = fit.bias.float()[:, None, None]
        self.register_buffer("bias", bias, persistent=False)

    @property
    def shut(self) -> bool:
        """Whether the gate leaves nothing of the network."""
        return float(self.gate) == 0

    @property
    def replaced(self) -> bool:
        """Whether nothing is left of the linear scores."""
        return self.apart and float(self.gate) == 1 and not self.unjudged

    def get_extra_state(self) -> Tensor:
        """Save the unjudged classes with the weights: ones of shape ``(class,)``."""
        marks = torch.zeros(len(self.bias))
        marks[list(self.unjudged)] = 1
        return marks

    def set_extra_state(self, state: Tensor) -> None:
        """Load the unjudged classes."""
        self.unjudged = tuple(state.nonzero().flatten().tolist())

    def joined(self, cube: Tensor, scores: Tensor) -> Tensor:
        """Join the linear scores of a cube and a network's.

        Args:
            cube: Stored units, shape ``(batch, band, row, col)``.
            scores: The network's, shape ``(batch, class, row - 2 halo, ...)``.
        """
        linear: Tensor = self(cube)
        change = self.gate * (scores - linear if self.apart else scores)
        unjudged = self.unjudged
        if not unjudged:
            return linear + change
        judged = [k for k in range(len(self.bias)) if k not in unjudged]
        if not judged:
            return linear
        highest, other = (
            linear.index_select(1, torch.tensor(classes, device=linear.device)).amax(
                dim=1, keepdim=True
            )
            for classes in (judged, unjudged)
        )
        # No step: an engine that rounds otherwise would jump from map to map.
        heard = (highest - other).clamp(0, 1)
        return linear + heard * change

    def forward(self, cube: Tensor) -> Tensor:
        """Map a cube in stored units to linear scores, without the halo.

        Shape ``(batch, band, row, col)`` to ``(batch, class, row - 2 halo, ...)``.
        """
        reach = max(self.sides, default=1) // 2
        cube = trimmed(cube, self.halo - reach)
        products = []
        for weight, module in (
            (self.bands_weight, self.standardise),
            (self.shape_weight, self.brightness_free),
        ):
            if weight is not None:
                products.append(F.conv2d(module(cube), weight))
        if not products:
            return self.bias + torch.zeros_like(trimmed(cube[:, :1], reach))
        return self.averaged(reduce(torch.add, products), reach)

    def averaged(self, stacked: Tensor, margin: int) -> Tensor:
        """Average the scores of all views over their squares and add them up.

        Args:
            stacked: One after the other, shape ``(batch, side * class, row, col)``.
            margin: Rows and columns to drop on each side.
        """
        total = self.bias
        for scores, side in zip(
            stacked.chunk(len(self.sides), 1), self.sides, strict=True
        ):
            inner = trimmed(scores, margin - side // 2)
            total = total + (F.avg_pool2d(inner, side, 1) if side > 1 else inner)
        return total


class WithLinearPath(nn.Module):
    """Class scores: those of the linear path and of a network, joined by the gate."""

    def __init__(self, network: nn.Module, path: LinearPath) -> None:
        super().__init__()
        self.network = network
        self.path = path

    def forward(self, cube: Tensor) -> Tensor:
        """Map ``(batch, band, row, col)`` in stored units to class scores."""
        return self.path.joined(cube, self.network(cube))


def trimmed(features: Tensor, margin: int) -> Tensor:
    """Drop ``margin`` rows and columns on each side."""
    if margin == 0:
        return features
    return features[..., margin:-margin, margin:-margin]

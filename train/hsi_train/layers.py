"""Layers that more than one method uses."""

import torch
from torch import Tensor, nn


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
    """The only way from class scores to probabilities: ``softmax(scores / T)``.

    ``temperature`` is one until it is fitted; it is saved and exported with the method.
    """

    temperature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, scores: Tensor) -> Tensor:
        """Map scores ``(batch, class, row, col)`` to probabilities."""
        return class_softmax(scores / self.temperature)

"""What S2VNet minimises besides the cross-entropy of its classes."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hsi_train.method import IGNORED

MIXTURES = 256  # in a step
# Of the Dirichlet distribution of shares: most mixtures are nearly one material.
CONCENTRATION = 0.3
LIGHT = 0.2  # deviation of the logarithm of the light on a part of a mixture
MOST_LIGHT = 4.0  # beyond this, and below its inverse, brightness pulls no more


class Mixtures(NamedTuple):
    """Mixed spectra whose shares are known.

    Attributes:
        cube: Stored units, shape ``(1, band, 1, mixture)``.
        shares: Shape ``(1, class, 1, mixture)``.
    """

    cube: Tensor
    shares: Tensor


def mixtures(spectra: Tensor, classes: Tensor, count: int) -> Mixtures:
    """Mix pairs of labelled pixels at random; all classes are drawn alike.

    The two lie in different light, which is no part of the shares. Training on such
    mixtures was proposed for support vector regression by Okujeni, van der Linden,
    Tits, Somers, Hostert, Remote Sensing of Environment 137, 2013.

    Args:
        spectra: Stored units, shape ``(pixel, band)``; at least one pixel.
        classes: Class of each pixel.
        count: Number of classes.
    """
    rarity = 1 / torch.bincount(classes, minlength=count)[classes].float()
    drawn = torch.multinomial(rarity, 2 * MIXTURES, replacement=True)
    pairs = drawn.reshape(MIXTURES, 2)
    concentration = torch.full((MIXTURES, 2), CONCENTRATION, device=spectra.device)
    parts = torch._sample_dirichlet(concentration)
    light = torch.exp(LIGHT * torch.randn_like(parts))
    mixed = ((parts * light)[..., None] * spectra[pairs]).sum(dim=1)
    shares = parts.new_zeros(MIXTURES, count).scatter_add_(1, classes[pairs], parts)
    return Mixtures(mixed.T[None, :, None], shares.T[None, :, None])


def labelled(cube: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the spectra ``(pixel, band)`` of labelled pixels, and their classes.

    Args:
        cube: Shape ``(batch, band, row, col)``.
        classes: Class index or `IGNORED`, shape ``(batch, row, col)``.
    """
    known = classes != IGNORED
    return cube.movedim(1, -1)[known], classes[known]


def share_loss(codes: Tensor, shares: Tensor) -> Tensor:
    """Average the cross-entropy of shares; their mean minimises it.

    Args:
        codes: Logarithms of estimates up to a constant, ``(batch, class, ...)``.
        shares: True shares, of the same shape.
    """
    return -(shares * F.log_softmax(codes, dim=1)).sum(dim=1).mean()


def brightness(spectra: Tensor, mixture: Tensor) -> Tensor:
    """Return the squared logarithm of how much brighter a spectrum is than a mixture.

    Axis 1 is the band axis. Bounded, so that a spectrum without light pulls nothing.
    """
    lengths = [(x.square().sum(dim=1) + 1e-12).sqrt() for x in (spectra, mixture)]
    ratio = (lengths[0] / lengths[1]).clamp(1 / MOST_LIGHT, MOST_LIGHT)
    return ratio.log().square()


def roughness(abundances: Tensor) -> Tensor:
    """Average the squared steps of ``(batch, endmember, row, col)`` between pixels."""
    squares = [abundances.diff(dim=dim).square().sum(dim=1) for dim in (-2, -1)]
    return (squares[0].mean() + squares[1].mean()) / 2

"""The endmembers of S2VNet, and what mixes them in training.

Endmembers are computed in units of the scene's brightest values, so that dark
materials stay dark: axes ``(band, endmember)``.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LATENT, HIDDEN = 4, 96  # sizes in the variational network
PERTURBATION = 0.1  # largest shift of an endmember, as a share of its mean
FLOOR = 1e-4  # smallest initial W, so that softplus has a gradient there


def initial_theta(class_means: Tensor, unit: Tensor) -> Tensor:
    """Start at the class means: the inverse of softplus.

    Args:
        class_means: Shape ``(class, band)``, stored units.
        unit: Stored value that counts as one.

    Returns:
        Shape ``(band, endmember)``.
    """
    means = class_means.T.double() / unit
    return means.clamp(min=FLOOR).expm1().log().float()


def shapes(endmembers: Tensor) -> Tensor:
    """Scale endmembers ``(band, endmember)`` to a peak of one: brightness is gone."""
    peaks = endmembers.amax(dim=0).clamp(min=torch.finfo(torch.float32).tiny)
    return endmembers / peaks


class Variation(NamedTuple):
    """Variation of the endmembers; all of shape ``(band, ...)``.

    Attributes:
        scale: Factors of W, shape ``(band, endmember)``.
        shift: Addends to W, shape ``(band, endmember)``.
        mean: Mean of the latent distribution, shape ``(band, latent)``.
        log_variance: Log variance of the latent distribution, ``(band, latent)``.
    """

    scale: Tensor
    shift: Tensor
    mean: Tensor
    log_variance: Tensor


class Variability(nn.Module):
    """A variational network over the bands that scales and shifts endmembers."""

    def __init__(self, endmembers: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(endmembers, endmembers)
        self.mean = nn.Linear(endmembers, LATENT)
        self.log_variance = nn.Linear(endmembers, LATENT)
        self.scale = nn.Sequential(
            nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, endmembers)
        )
        self.shift = nn.Linear(endmembers, endmembers)
        for layer in (self.scale[-1], self.shift):  # scale 1, shift 0 at first
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, spectra: Tensor, sample: bool) -> Variation:
        """Vary ``(band, endmember)`` by a latent sample, or by the latent mean."""
        # Each column is standardised, a dark one like a bright one.
        rows = F.layer_norm(shapes(spectra).T, spectra.shape[:1]).T
        hidden = F.relu(self.hidden(rows))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        latent = mean
        if sample:
            latent = mean + torch.randn_like(mean) * torch.exp(log_variance / 2)
        scale = 2 * torch.sigmoid(self.scale(latent))
        shift = PERTURBATION * spectra.mean(dim=0) * torch.tanh(self.shift(rows))
        return Variation(scale, shift, mean, log_variance)


class NonlinearTerm(nn.Module):
    """The nonlinear part of a mixture; zero at first."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(bands, bands, 1), nn.Sigmoid(), nn.Conv2d(bands, bands, 1)
        )
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, mixture: Tensor) -> Tensor:
        """Keep the shape ``(batch, band, row, col)``."""
        term: Tensor = self.layers(mixture)
        return term


def spectral_angles(spectra: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the angles between spectra, rad; axis 1 is the band axis.

    Its gradient is finite at equality and for a spectrum of zeros.
    """
    product = (spectra * reconstruction).sum(dim=1)
    norms = spectra.norm(dim=1) * reconstruction.norm(dim=1)
    cosine = product / (norms + 1e-5)
    return torch.arccos(cosine.clamp(-1 + 1e-6, 1 - 1e-6))


def relative_sizes(term: Tensor, mixture: Tensor) -> Tensor:
    """Return the lengths of a term over those of its mixture; axis 1 is the band axis.

    Its gradient is finite for a term of zeros.
    """
    lengths = (term.square().sum(dim=1) + 1e-12).sqrt()
    ratio: Tensor = lengths / (mixture.norm(dim=1) + 1e-5)
    return ratio


def divergence(variation: Variation) -> Tensor:
    """Average over bands the divergence from the standard normal distribution."""
    mean, log_variance = variation.mean, variation.log_variance
    terms = 1 + log_variance - mean.square() - log_variance.exp()
    return -0.5 * terms.sum(dim=1).mean()

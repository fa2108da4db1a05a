"""Linear discriminant analysis with shrinkage, for several shrinkages at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Shares of the pooled covariance that are replaced by its mean variance.
SHRINKAGES = (1e-4, 1e-3, 1e-2, 1e-1, 0.5, 0.9)
ABSENT = -30.0  # log prior of a class without pixels


@dataclass(frozen=True)
class Discriminant:
    """Linear class scores: log posteriors up to a constant of each pixel.

    Attributes:
        centre: Mean training spectrum, shape ``(band,)``.
        weight: Weights of what differs from it, shape ``(class, band)``.
        bias: Shape ``(class,)``.
    """

    centre: NDArray[np.float64]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def scores(self, spectra: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map spectra ``(pixel, band)`` to scores ``(pixel, class)``."""
        return (spectra - self.centre) @ self.weight.T + self.bias


def fit(
    spectra: NDArray[np.float64],
    classes: NDArray[np.intp],
    counts: NDArray[np.intp],
    shrinkages: tuple[float, ...] = SHRINKAGES,
    changes: NDArray[np.float64] | None = None,
) -> list[Discriminant]:
    """Fit one discriminant for each shrinkage; they share one decomposition.

    The bands are standardised first; the covariance within the classes is then shrunk
    towards its mean variance (Friedman, JASA 84(405), 1989; common covariance only).

    Args:
        spectra: Training spectra, shape ``(pixel, band)``.
        classes: Class indices, shape ``(pixel,)``.
        counts: Pixels of each class, for the priors, shape ``(class,)``.
        shrinkages: Shares from 0 to 1.
        changes: Covariance to bear besides that within the classes, ``(band, band)``.
    """
    mean, std = spectra.mean(axis=0), spectra.std(axis=0)
    std = np.where(std > np.finfo(np.float32).eps * np.abs(mean), std, 1.0)
    standard = (spectra - mean) / std
    present = np.bincount(classes, minlength=len(counts)) > 0
    means = np.zeros((len(counts), spectra.shape[1]))
    for index in np.flatnonzero(present):
        means[index] = standard[classes == index].mean(axis=0)
    within = standard - means[classes]
    covariance = within.T @ within / max(len(standard) - present.sum(), 1)
    if changes is not None:
        covariance = covariance + changes / np.outer(std, std)
    variance, axes = np.linalg.eigh(covariance)
    variance = np.maximum(variance, 0)
    level = variance.mean() or 1.0  # one pixel of each class does not vary
    prior = np.where(present, np.log(np.maximum(counts, 1) / counts.sum()), ABSENT)
    along = axes.T @ means.T  # (direction, class)
    fitted = []
    for share in shrinkages:
        spread = (1 - share) * variance + share * level
        weight = (axes @ (along / spread[:, None])).T
        bias = prior - 0.5 * (means * weight).sum(axis=1)
        fitted.append(Discriminant(mean, weight / std, bias))
    return fitted

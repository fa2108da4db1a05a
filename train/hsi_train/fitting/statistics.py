"""Statistics of the training pixels, and of no others."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hsi_train.data.labelled_scene import LabelledData, LabelledScene
from hsi_train.data.roles import Role
from hsi_train.method import Problem

TOP_PERCENTILE = 99.9  # of all training values: a scale that a few spikes do not move


@dataclass(frozen=True)
class Statistics:
    """Statistics of the training pixels, stored units, shape ``(band,)``."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]


def training_statistics(data: LabelledData) -> Statistics:
    """Measure mean and standard deviation over training pixels, and no others.

    A band that never varies gets a standard deviation of one.
    """
    return spectral_statistics(_training_spectra(data.scenes)[0])


def spectral_statistics(spectra: NDArray[np.float64]) -> Statistics:
    """Measure spectra of shape ``(band, pixel)``."""
    mean, std = spectra.mean(axis=1), spectra.std(axis=1)
    return Statistics(mean, usable_deviation(mean, std))


def usable_deviation(
    mean: NDArray[np.float64], std: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Replace the standard deviation of bands that never vary by one."""
    # Less than float32 resolves is rounding, not variation.
    varies = std > np.finfo(np.float32).eps * np.abs(mean)
    return np.where(varies, std, 1.0)


def describe_problem(data: LabelledData) -> Problem:
    """Tell a method what it must know of the training pixels, and of no others."""
    spectra, classes = _training_spectra(data.scenes)
    class_count = len(data.classes)
    measured = spectral_statistics(spectra)
    means = [spectra[:, classes == k].mean(axis=1) for k in range(class_count)]
    return Problem(
        band_mean=torch.from_numpy(measured.mean),
        band_std=torch.from_numpy(measured.std),
        class_counts=torch.from_numpy(np.bincount(classes, minlength=class_count)),
        class_means=torch.from_numpy(np.stack(means)),
        top=torch.tensor(np.percentile(spectra, TOP_PERCENTILE), dtype=torch.float64),
    )


def _training_spectra(
    scenes: list[LabelledScene],
) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    """Collect spectra ``(band, pixel)`` and classes ``(pixel,)`` of training pixels."""
    chosen = [(s, s.roles == Role.TRAIN) for s in scenes]
    spectra = [s.cube[:, train].astype(np.float64) for s, train in chosen]
    classes = [s.classes[train] for s, train in chosen]
    return np.concatenate(spectra, axis=1), np.concatenate(classes)

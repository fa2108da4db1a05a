"""Statistics of the training pixels, and of no others."""

import numpy as np
import torch
from numpy.typing import NDArray

from hsi_train.data.labelled_scene import LabelledData, LabelledScene
from hsi_train.data.roles import Role
from hsi_train.method import Problem

TOP_PERCENTILE = 99.9  # of all training values: a scale that a few spikes do not move


def mean_and_deviation(
    spectra: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure spectra ``(band, pixel)``; a band that never varies has deviation one."""
    mean, std = spectra.mean(axis=1), spectra.std(axis=1)
    return mean, usable_deviation(mean, std)


def usable_deviation(
    mean: NDArray[np.float64], std: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Replace the standard deviation of bands that never vary by one."""
    # Less than float32 resolves is rounding, not variation.
    varies = std > np.finfo(np.float32).eps * np.abs(mean)
    return np.where(varies, std, 1.0)


def describe_problem(data: LabelledData) -> Problem:
    """Measure what a method must know of the training pixels, and of no others."""
    spectra, classes = _training_spectra(data.scenes)
    class_count = len(data.classes)
    mean, std = mean_and_deviation(spectra)
    means = [spectra[:, classes == k].mean(axis=1) for k in range(class_count)]
    return Problem(
        band_mean=torch.from_numpy(mean),
        band_std=torch.from_numpy(std),
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

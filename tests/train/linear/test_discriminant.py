from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hsi_train.linear import discriminant


def example(seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(3), (40, 25, 60))
    centres = rng.normal(size=(3, 8)) * 2
    spectra = centres[classes] + rng.normal(size=(len(classes), 8)) * rng.uniform(
        0.5, 2, 8
    )
    return spectra * 100 + 2000, classes


@pytest.mark.parametrize("share", [1e-4, 0.1, 0.9])
def test_scores_are_those_of_the_shrunk_covariance(share: float) -> None:
    spectra, classes = example(0)
    counts = np.bincount(classes)
    (fitted,) = discriminant.fit(spectra, classes, counts, (share,))
    standard = (spectra - spectra.mean(axis=0)) / spectra.std(axis=0)
    means = np.stack([standard[classes == k].mean(axis=0) for k in range(3)])
    within = standard - means[classes]
    covariance = within.T @ within / (len(within) - 3)
    level = np.trace(covariance) / 8
    shrunk = (1 - share) * covariance + share * level * np.eye(8)
    weight = np.linalg.solve(shrunk, means.T)
    bias = np.log(counts / counts.sum()) - 0.5 * np.einsum("kb,bk->k", means, weight)
    np.testing.assert_allclose(
        fitted.scores(spectra), standard @ weight + bias, rtol=1e-8, atol=1e-8
    )


def test_scale_and_offset_of_bands_do_not_matter() -> None:
    spectra, classes = example(1)
    counts = np.bincount(classes)
    changed = spectra * np.linspace(0.1, 9, 8) + np.arange(8)
    first = discriminant.fit(spectra, classes, counts)
    second = discriminant.fit(changed, classes, counts)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(
            one.scores(spectra), other.scores(changed), rtol=1e-6, atol=1e-6
        )


def test_a_constant_band_and_an_absent_class_are_no_trouble() -> None:
    spectra, classes = example(2)
    spectra[:, 3] = 7.0
    counts = np.append(np.bincount(classes), 0)
    for fitted in discriminant.fit(spectra, classes, counts):
        scores = fitted.scores(spectra)
        assert np.isfinite(scores).all()
        assert scores.argmax(axis=1).max() == 2

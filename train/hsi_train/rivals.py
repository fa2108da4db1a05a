"""Simple rivals of a network on the same pixels: what it has to be better than.

They see what the network sees: neighbours, by window means, and spectra without
brightness. Their variants are chosen by blocked folds of the training pixels.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting.predict import Scorer
from hsi_train.layers import LINEAR_SIDES, LinearPath
from hsi_train.linear import choice
from hsi_train.linear.choice import Choice, Variant
from hsi_train.linear.spectra import TrainingPixels, training_pixels
from hsi_train.measuring import metrics
from hsi_train.method import Problem

BLOCK = 32  # side of a block of test pixels, px
MIN_BLOCKS = 5  # with fewer an interval says nothing
RESAMPLES = 2000
Z = (2.5, 97.5)  # percentiles of a 95 % interval
HALO = LINEAR_SIDES[-1] // 2


@dataclass(frozen=True)
class Rival:
    """A rival's accuracy on the test pixels, and the network's beside it.

    Attributes:
        name: ``lda``, a single discriminant, or ``lda-sum``, method ``lda``.
        variant: How it sees spectra.
        overall_accuracy: Share of test pixels that are right.
        average_accuracy: Mean share over the classes.
        difference: Overall accuracy of the network less the rival's.
        interval: Its 95 % interval over blocks of test pixels; None with fewer than
            `MIN_BLOCKS` blocks.
        blocks: Number of blocks of test pixels.
    """

    name: str
    variant: str
    overall_accuracy: float
    average_accuracy: float
    difference: float
    interval: tuple[float, float] | None
    blocks: int


def measure(
    data: LabelledData,
    problem: Problem,
    network: Scorer,
    chosen: Choice | None = None,
) -> list[Rival]:
    """Fit the linear rivals on the training pixels; compare them on the test pixels.

    Args:
        data: Labelled scenes with the roles of their pixels.
        problem: Statistics of the training pixels.
        network: The trained network.
        chosen: The choice of discriminants, if it was made before.
    """
    pixels = training_pixels(data.scenes, problem.fill, len(data.classes))
    chosen = chosen or choice.choose(pixels)
    candidates = {
        "lda": ({chosen.best: 1.0}, _named(chosen.best)),
        "lda-sum": (chosen.shares, f"sum of {len(chosen.shares)}"),
    }
    truth = [np.where(s.roles == Role.TEST, s.classes, -1) for s in data.scenes]
    ours = [network.classes(s, t >= 0) for s, t in zip(data.scenes, truth, strict=True)]
    rivals = []
    for name, (shares, variant) in candidates.items():
        theirs = _classify(data, problem, pixels, shares, network.device)
        gain, counts = _by_block(truth, ours, theirs)
        matrix = metrics.confusion(
            np.concatenate([t[t >= 0] for t in truth]),
            np.concatenate([c[t >= 0] for t, c in zip(truth, theirs, strict=True)]),
            len(data.classes),
        )
        rivals.append(
            Rival(
                name=name,
                variant=variant,
                overall_accuracy=metrics.overall_accuracy(matrix),
                average_accuracy=metrics.average_accuracy(matrix),
                difference=float(gain.sum() / counts.sum()),
                interval=interval(gain, counts),
                blocks=len(counts),
            )
        )
    return rivals


def report(rivals: list[Rival]) -> list[dict[str, Any]]:
    """Return the rivals as ``metrics.json`` holds them."""
    return [asdict(rival) for rival in rivals]


def caveat(rivals: list[Rival]) -> str | None:
    """Return a sentence where a rival is better than the network."""
    best = max(rivals, key=lambda rival: rival.overall_accuracy)
    if best.difference >= 0:
        return None
    sure = best.interval is not None and best.interval[1] < 0
    certainty = "clearly" if sure else "within the uncertainty of the test blocks"
    return (
        f"A linear discriminant ({best.name}, {best.variant}) is {certainty} better on "
        f"the test pixels: {100 * best.overall_accuracy:.1f} % overall, the network "
        f"{-100 * best.difference:.1f} points less. Train method lda, or more labels."
    )


def interval(
    gain: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[float, float] | None:
    """Return the 95 % interval of a difference of accuracies, by resampled blocks.

    Args:
        gain: Pixels that one has right more than the other, shape ``(block,)``.
        counts: Pixels of each block, shape ``(block,)``.
    """
    if len(counts) < MIN_BLOCKS:
        return None
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(counts), (RESAMPLES, len(counts)))
    values = gain[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(values, Z)
    return float(low), float(high)


def _classify(
    data: LabelledData,
    problem: Problem,
    pixels: TrainingPixels,
    shares: dict[Variant, float],
    device: torch.device,
) -> list[NDArray[np.int16]]:
    """Classify the test pixels of each scene by a sum of discriminants."""
    fit = choice.fit(pixels, shares, problem)
    path = LinearPath(fit, problem.band_mean, problem.band_std, HALO)
    scorer = Scorer(path.to(device).eval(), problem.fill, HALO, device)
    return [scorer.classes(s, s.roles == Role.TEST) for s in data.scenes]


def _by_block(
    truth: list[NDArray[Any]], ours: list[NDArray[Any]], theirs: list[NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count for each block with test pixels what we have right more, and its pixels."""
    gains, counts = [], []
    for true, our, their in zip(truth, ours, theirs, strict=True):
        tested = true >= 0
        gain = (our == true).astype(float) - (their == true)
        for row in range(0, true.shape[0], BLOCK):
            for col in range(0, true.shape[1], BLOCK):
                part = np.s_[row : row + BLOCK, col : col + BLOCK]
                if tested[part].any():
                    gains.append(gain[part][tested[part]].sum())
                    counts.append(tested[part].sum())
    return np.array(gains, dtype=np.float64), np.array(counts, dtype=np.float64)


def _named(variant: Variant) -> str:
    side, brightness_free = variant.view
    spectra = "brightness-free spectra" if brightness_free else "spectra"
    return f"{spectra}, means of {side} x {side} px"

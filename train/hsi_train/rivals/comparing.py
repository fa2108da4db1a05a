"""Compares a network with its rivals on the same test pixels.

They see what the network sees: neighbours, by window means, and spectra without
brightness. What they are is chosen without any test pixel.
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting.predict import Scorer
from hsi_train.linear.choice import Linear
from hsi_train.measuring import metrics
from hsi_train.method import Problem
from hsi_train.rivals import classical, linear
from hsi_train.rivals.candidate import Candidate

BLOCK = 32  # side of a block of test pixels, px
MIN_BLOCKS = 5  # with fewer an interval says nothing
RESAMPLES = 2000
Z = (2.5, 97.5)  # percentiles of a 95 % interval

Counts = NDArray[np.int64]  # (block,)


@dataclass(frozen=True)
class Rival:
    """A rival's accuracy on the test pixels, and the network's beside it.

    Attributes:
        name: ``lda``, a single discriminant; ``lda-sum``, method ``lda``; or the name
            of a classical classifier.
        variant: How it sees spectra, and its settings.
        overall_accuracy: Share of test pixels that are right.
        average_accuracy: Mean share over the classes.
        difference: Overall accuracy of the network less the rival's.
        interval: Its 95 % interval over blocks of test pixels; None with fewer than
            `MIN_BLOCKS` blocks.
        blocks: Number of blocks of test pixels.
        right: Pixels of each block that the rival has right.
    """

    name: str
    variant: str
    overall_accuracy: float
    average_accuracy: float
    difference: float
    interval: tuple[float, float] | None
    blocks: int
    right: list[int]


class Blocks(NamedTuple):
    """Test pixels by block, in order of scene, row and column of the blocks.

    Attributes:
        pixels: Test pixels of each block.
        right: Those of them that the network has right.
    """

    pixels: list[int]
    right: list[int]


def measure(
    data: LabelledData,
    problem: Problem,
    network: Scorer,
    fitted: Linear | None = None,
    every: bool = False,
) -> tuple[list[Rival], Blocks]:
    """Fit the rivals on the training pixels; compare them on the test pixels.

    Args:
        data: Labelled scenes with the roles of their pixels.
        problem: Statistics of the training pixels.
        network: The trained network.
        fitted: The linear discriminants, if they were fitted before.
        every: Fit classical classifiers, too, in minutes.
    """
    candidates = linear.candidates(data, problem, fitted, network.device)
    if every:
        candidates += classical.candidates(data, problem)
    truth = [np.where(s.roles == Role.TEST, s.classes, -1) for s in data.scenes]
    ours = [network.classes(s, t >= 0) for s, t in zip(data.scenes, truth, strict=True)]
    corners = [(scene.row, scene.col) for scene in data.scenes]
    by_block = partial(_by_block, truth, corners=corners)
    pixels, right = by_block(truth), by_block(ours)
    rivals = [
        _compared(
            one,
            _confusion(truth, one.classes, len(data.classes)),
            pixels=pixels,
            ours=right,
            theirs=by_block(one.classes),
        )
        for one in candidates
    ]
    return rivals, Blocks(pixels.tolist(), right.tolist())


def _confusion(
    truth: list[NDArray[np.int16]], classes: list[NDArray[np.int16]], count: int
) -> metrics.Confusion:
    """Count the test pixels of all scenes by true and found class."""
    return metrics.confusion(
        np.concatenate([t[t >= 0] for t in truth]),
        np.concatenate([c[t >= 0] for t, c in zip(truth, classes, strict=True)]),
        count,
    )


def _compared(
    candidate: Candidate,
    matrix: metrics.Confusion,
    *,
    pixels: Counts,
    ours: Counts,
    theirs: Counts,
) -> Rival:
    """Compare a rival with the network, by the pixels that each has right."""
    gain = ours - theirs
    return Rival(
        name=candidate.name,
        variant=candidate.variant,
        overall_accuracy=metrics.overall_accuracy(matrix),
        average_accuracy=metrics.average_accuracy(matrix),
        difference=float(gain.sum() / pixels.sum()),
        interval=interval(gain, pixels),
        blocks=len(pixels),
        right=theirs.tolist(),
    )


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
    is_linear = best.name in (linear.SINGLE, linear.SUM)
    kind = "linear discriminant" if is_linear else "classical classifier"
    return (
        f"A {kind} ({best.name}, {best.variant}) is {certainty} better on "
        f"the test pixels: {100 * best.overall_accuracy:.1f} % overall, the network "
        f"{-100 * best.difference:.1f} points less. Train method lda, or more labels."
    )


def interval(gain: NDArray[Any], counts: NDArray[Any]) -> tuple[float, float] | None:
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


def _by_block(
    truth: list[NDArray[np.int16]],
    classes: list[NDArray[np.int16]],
    corners: list[tuple[int, int]],
) -> Counts:
    """Count the right pixels of each block with test pixels, shape ``(block,)``.

    Blocks are those of the whole scene: the part that was read depends on the method,
    whose blocks have to be those of another.

    Args:
        truth: Classes of each part, -1 where nothing is tested, ``(row, col)``.
        classes: Classes that were found, shaped like ``truth``.
        corners: First row and column of each part within its scene.
    """
    counts = []
    for true, found, (top, left) in zip(truth, classes, corners, strict=True):
        tested = true >= 0
        for row in range(-(top % BLOCK), true.shape[0], BLOCK):
            for col in range(-(left % BLOCK), true.shape[1], BLOCK):
                rows = slice(max(row, 0), row + BLOCK)
                part = np.s_[rows, max(col, 0) : col + BLOCK]
                if tested[part].any():
                    right = (found[part] == true[part])[tested[part]]
                    counts.append(int(right.sum()))
    return np.array(counts, dtype=np.int64)

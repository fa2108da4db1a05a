"""Decides how much of a network's scores is added to those of the linear path."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

GATES = (0.0, 0.25, 0.5, 0.75, 1.0)
MIN_PIXELS = 100  # held-out pixels below which nothing is told
MIN_ERRORS = 5  # of the path; with fewer there is nothing left to show
MIN_OF_CLASS = 5  # held-out pixels of a class below which they do not judge a network


class Gate(NamedTuple):
    """How much of the network counts, and how much it has learned.

    Attributes:
        factor: Factor of the network's scores, one of `GATES`.
        loss: Least loss of the held-out pixels with any factor but 0, whether it counts
            or not: by it, enough training is told from too little.
    """

    factor: float
    loss: float


def choose_gate(
    path: NDArray[np.floating],
    network: NDArray[np.floating],
    classes: NDArray[np.integer],
) -> Gate:
    """Choose the factor with the least loss on held-out pixels.

    The loss is the mean of two cross-entropies, over the pixels and over the classes:
    common and rare classes both count. The network has to show that it helps: a factor
    counts only if the first falls by more than its standard error, the second does not
    rise, and the pixels that are right do not become fewer by more than two of theirs:
    of a path that is too sure, scores that are only less sure lower the losses, and the
    map may be worse. It counts only where enough pixels are held out of which the path
    has enough wrong. Accuracies have no other say: of rare classes few pixels are held
    out, and theirs jump by tenths.

    Args:
        path: Scores of the linear path, shape ``(pixel, class)``.
        network: Scores of the network, shape ``(pixel, class)``.
        classes: Class indices, shape ``(pixel,)``.
    """
    scores = {f: path + f * network for f in GATES}
    pixels = {f: _losses(values, classes) for f, values in scores.items()}
    loss = {f: balanced_loss(values, classes) for f, values in pixels.items()}
    learned = min(loss[factor] for factor in GATES[1:])
    wrong = {f: _wrong(values, classes) for f, values in scores.items()}
    if len(classes) < MIN_PIXELS or wrong[0.0].sum() < MIN_ERRORS:
        return Gate(0.0, learned)
    by_class = {f: mean_over_classes(values, classes) for f, values in pixels.items()}
    allowed = [
        factor
        for factor in GATES[1:]
        if _clearly_less(pixels[factor], pixels[0.0])
        and by_class[factor] <= by_class[0.0]
        and not _clearly_less(wrong[0.0], wrong[factor], errors=2)
    ]
    return Gate(min(allowed, key=loss.__getitem__, default=0.0), learned)


def choose_share(
    path: NDArray[np.floating],
    head: NDArray[np.floating],
    classes: NDArray[np.integer],
) -> float:
    """Choose the share of a fitted head's scores; the path has the rest.

    That with the least loss of those, 0 among them, that have no fewer pixels right
    than the path alone. Labels are too few for standard errors to tell anything, but
    both were fitted in closed form: neither is here by chance of training.

    Args:
        path: Left-out scores of the linear path, shape ``(pixel, class)``.
        head: Left-out scores of the head, shape ``(pixel, class)``.
        classes: Class indices, shape ``(pixel,)``.
    """
    scores = {share: (1 - share) * path + share * head for share in GATES}
    wrong = {s: _wrong(values, classes).sum() for s, values in scores.items()}
    allowed = [share for share in GATES if wrong[share] <= wrong[0.0]]
    return min(allowed, key=lambda share: loss_of(scores[share], classes))


def unjudged_classes(pixels: NDArray[np.integer]) -> tuple[int, ...]:
    """List the classes of which too few pixels are held out to judge a network.

    It may never say them anywhere else, and no loss on held-out pixels would tell.

    Args:
        pixels: Held-out pixels of each class, shape ``(class,)``.
    """
    return tuple(np.flatnonzero(pixels < MIN_OF_CLASS).tolist())


def balanced_loss(losses: NDArray[np.float64], classes: NDArray[np.integer]) -> float:
    """Return the mean of the losses' means over pixels and over classes."""
    return (float(losses.mean()) + mean_over_classes(losses, classes)) / 2


def cross_entropy(scores: NDArray[np.floating], classes: NDArray[np.integer]) -> float:
    """Return the mean cross-entropy of scores ``(pixel, class)``."""
    return float(_losses(scores, classes).mean())


def loss_of(scores: NDArray[np.floating], classes: NDArray[np.integer]) -> float:
    """Return the balanced loss of scores ``(pixel, class)``."""
    return balanced_loss(_losses(scores, classes), classes)


def mean_over_classes(values: NDArray[Any], classes: NDArray[np.integer]) -> float:
    """Average the means of the classes that are present, of a value for each pixel."""
    return float(np.mean([values[classes == k].mean() for k in np.unique(classes)]))


def _losses(
    scores: NDArray[np.floating], classes: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return the cross-entropy of each pixel, shape ``(pixel,)``."""
    logs = log_softmax(scores.astype(np.float64), axis=1)
    losses: NDArray[np.float64] = -logs[np.arange(len(classes)), classes]
    return losses


def _wrong(
    scores: NDArray[np.floating], classes: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return 1 for each pixel whose greatest score is another class's, else 0."""
    wrong: NDArray[np.bool_] = scores.argmax(axis=1) != classes
    return wrong.astype(np.float64)


def _clearly_less(
    one: NDArray[np.float64], other: NDArray[np.float64], errors: float = 1
) -> bool:
    """Return True if a mean is less than another by more than its standard errors."""
    gain = other - one
    return bool(gain.mean() > errors * gain.std() / np.sqrt(len(gain)))

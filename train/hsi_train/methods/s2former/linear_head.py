"""Fits a linear classifier on fixed features, for a handful of labels."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hsi_train.method import Corner

ITERATIONS = 60  # L-BFGS iterations
MAX_FOLDS = 5
PENALTIES = (0.01, 0.1, 1.0)
LIMITS = (1e-4, 1e3)  # smallest and largest penalty of the search
UNCHECKED = 0.1  # penalty if a class has too few pixels for cross-validation
TINY = 1e-30  # variance of features that never differ
SHRINKAGE = 0.01  # share of the mean variance added to that of every direction


class LinearHead(NamedTuple):
    """A linear classifier.

    Attributes:
        weight: Shape ``(class, feature)``.
        bias: Shape ``(class,)``.
        penalty: Factor of the squared weights that was chosen.
    """

    weight: Tensor
    bias: Tensor
    penalty: float


def fit(features: Tensor, classes: Tensor, places: Sequence[Corner]) -> LinearHead:
    """Fit on all pixels, the penalty chosen by cross-validation among them.

    Args:
        features: Standardised, shape ``(pixel, feature)``.
        classes: Class indices from 0, all present, shape ``(pixel,)``.
        places: Positions of the pixels; neighbours stay together in a fold.
    """
    folds = spatial_folds(classes, places)
    penalty = UNCHECKED if folds is None else choose_penalty(features, classes, folds)
    weight, bias = solve(features, classes, int(classes.max()) + 1, penalty)
    return LinearHead(weight, bias, penalty)


def quietening(steps: Tensor) -> Tensor:
    """Return the map that whitens the differences between neighbours.

    Differences between neighbouring pixels are mostly noise and mixture. With a penalty
    on its weights, a classifier of the mapped features prefers directions in which
    neighbours agree. It corresponds to noise whitening in the minimum noise fraction
    (Green, Berman, Switzer, Craig, IEEE TGRS 26(1), 1988), with differences of features
    as the noise.

    Args:
        steps: Covariance of the differences of neighbours, ``(feature, feature)``.

    Returns:
        A symmetric matrix, shape ``(feature, feature)``, in the type of ``steps``.
    """
    variance, axes = torch.linalg.eigh(steps)
    gain = (variance + SHRINKAGE * variance.mean()).clamp(min=TINY).rsqrt()
    # As a whole neither larger nor smaller: the penalties keep their meaning.
    gain = gain / gain.square().mean().sqrt()
    mapped: Tensor = (axes * gain) @ axes.T
    return mapped


def spatial_folds(classes: Tensor, places: Sequence[Corner]) -> Tensor | None:
    """Divide the pixels of every class into strips, one for each fold.

    Returns:
        Fold of every pixel, shape ``(pixel,)``; None where a class has fewer than
        three pixels.
    """
    count = min(MAX_FOLDS, int(torch.bincount(classes).min()))
    if count < 3:
        return None
    folds = torch.empty_like(classes)
    for index in range(int(classes.max()) + 1):
        members = torch.nonzero(classes == index)[:, 0]
        order = sorted(members.tolist(), key=lambda i: places[i])
        for fold, part in enumerate(torch.tensor(order).tensor_split(count)):
            folds[part] = fold
    return folds


def choose_penalty(features: Tensor, classes: Tensor, folds: Tensor) -> float:
    """Return the penalty with the least cross-entropy on the pixels left out.

    The candidates go on beyond an end of the list as long as the end is the best.
    """
    count = int(classes.max()) + 1

    def left_out(penalty: float) -> float:
        total = 0.0
        for fold in range(int(folds.max()) + 1):
            out = folds == fold
            weight, bias = solve(features[~out], classes[~out], count, penalty)
            scores = F.linear(features[out], weight, bias)
            total += float(F.cross_entropy(scores, classes[out], reduction="sum"))
        return total

    losses = {penalty: left_out(penalty) for penalty in PENALTIES}
    while True:
        best = min(losses, key=losses.__getitem__)
        if best == max(losses) and best < LIMITS[1]:
            beyond = best * 10
        elif best == min(losses) and best > LIMITS[0]:
            beyond = best / 10
        else:
            return best
        losses[beyond] = left_out(beyond)


@torch.enable_grad()
def solve(
    features: Tensor, classes: Tensor, count: int, penalty: float
) -> tuple[Tensor, Tensor]:
    """Minimise mean cross-entropy plus ``penalty`` times the squared weights.

    Returns:
        Weight ``(class, feature)`` and bias ``(class,)``, in the features' type.
    """
    # Constants for L-BFGS, in the precision its line search needs. The best weights
    # are sums of the pixels' features, so few pixels mean few unknowns.
    basis, inputs = torch.linalg.qr(features.detach().double().T)
    inputs = inputs.T  # (pixel, direction)
    weight = inputs.new_zeros(count, inputs.shape[1], requires_grad=True)
    bias = inputs.new_zeros(count, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        scores = F.linear(inputs, weight, bias)
        loss = F.cross_entropy(scores, classes) + penalty * weight.square().sum()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return (weight.detach() @ basis.T).to(features), bias.detach().to(features)

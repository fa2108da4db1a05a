"""Chooses linear discriminants of window means by blocked folds of training pixels.

No test or validation pixel has a say. Where the folds can tell, discriminants are added
one by one, whichever lowers the loss of the left-out pixels most (greedy forward
selection with replacement; Caruana et al., ICML 2004). Where labels are few, every
discriminant is right on what is left out and the folds tell nothing: then two of five
folds train, and all views share the sum by their loss.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from hsi_train.layers import LINEAR_SIDES, LinearFit
from hsi_train.linear import discriminant
from hsi_train.linear.discriminant import SHRINKAGES
from hsi_train.linear.folds import FOLDS, blocked_folds
from hsi_train.linear.gate import cross_entropy
from hsi_train.linear.spectra import TrainingPixels, View
from hsi_train.method import Problem

MEMBERS = 4  # of a sum; the loss of the left-out pixels levels off there
SATURATED = 0.02  # loss of the best discriminant below which folds tell nothing
SCALES = (0.01, 3.0)  # limits; a covariance of few pixels makes scores too sure
SCALE_STEPS = 16  # of the search between them
UNCHECKED = 0.5  # shrinkage and scale where no pixel can be left out

Scores = NDArray[np.float64]


class Variant(NamedTuple):
    """One linear discriminant: how spectra are taken, and its shrinkage."""

    view: View
    shrinkage: float


@dataclass(frozen=True)
class Choice:
    """The chosen sum of discriminants.

    Attributes:
        shares: Factor of each variant's scores.
        best: The single variant with the least loss on left-out pixels.
        loss: Cross-entropy of the left-out pixels; None where none could be left out.
        accuracy: Share of the left-out pixels that are right, or None.
    """

    shares: dict[Variant, float]
    best: Variant
    loss: float | None
    accuracy: float | None


class Linear(NamedTuple):
    """What was chosen, fitted on all training pixels.

    Attributes:
        choice: The chosen discriminants.
        total: Their sum: method ``lda``, and the linear path of the networks.
        single: The best of them alone.
    """

    choice: Choice
    total: LinearFit
    single: LinearFit


Scales = dict[Variant, tuple[float, float]]  # best scale of scores, and their loss


class Held(NamedTuple):
    """Scores of left-out pixels by every variant.

    Attributes:
        scores: For each variant, shape ``(pixel, class)``.
        classes: Class indices, shape ``(pixel,)``.
    """

    scores: dict[Variant, Scores]
    classes: NDArray[np.intp]


def choose(pixels: TrainingPixels) -> Choice:
    """Choose the sum of discriminants for these training pixels, among their views."""
    folds = blocked_folds(pixels.places, pixels.classes)
    masks = [folds == fold for fold in range(FOLDS) if (folds == fold).any()]
    if len(masks) < 2:
        return _unchecked(pixels)
    held = _left_out(pixels, masks)
    scales = _scales(held)
    if min(loss for _, loss in scales.values()) < SATURATED:
        pairs = [(folds != a) & (folds != b) for a, b in combinations(range(FOLDS), 2)]
        # A class that cannot be divided trains every time.
        masks = [mask & (folds >= 0) for mask in pairs]
        held = _left_out(pixels, [mask for mask in masks if mask.any()])
        scales = _scales(held)
        shares = _weighted(scales)
    else:
        shares = _greedy(held, scales)
    total = sum(share * held.scores[v] for v, share in shares.items())
    assert not isinstance(total, int)
    scale, loss = _best_scale(total, held.classes)
    return Choice(
        shares={v: scale * share for v, share in shares.items()},
        best=min(scales, key=lambda v: scales[v][1]),
        loss=loss,
        accuracy=float((total.argmax(axis=1) == held.classes).mean()),
    )


def describe(choice: Choice) -> str:
    """Say in a sentence what was chosen."""
    views = {variant.view for variant in choice.shares}
    sides = sorted({view.side for view in views})
    free = sum(view.brightness_free for view in views)
    return (
        f"Linear path: {len(views)} views, {free} of them brightness-free, of squares "
        f"of {', '.join(map(str, sides))} px."
    )


def fit_chosen(pixels: TrainingPixels, problem: Problem) -> Linear:
    """Choose discriminants for these training pixels, and fit them."""
    chosen = choose(pixels)
    return Linear(
        choice=chosen,
        total=fit(pixels, chosen.shares, problem),
        single=fit(pixels, {chosen.best: 1.0}, problem),
    )


def fit(
    pixels: TrainingPixels, shares: dict[Variant, float], problem: Problem
) -> LinearFit:
    """Fit the chosen discriminants on all training pixels, as one linear layer.

    Args:
        pixels: Training pixels.
        shares: Factor of each variant's scores.
        problem: Statistics of the training pixels.
    """
    classes, bands = len(pixels.counts), len(problem.band_mean)
    alone = all(view.side == 1 for view in pixels.spectra)
    sides = LINEAR_SIDES[:1] if alone else LINEAR_SIDES
    mean, std = problem.band_mean.numpy(), problem.band_std.numpy()
    centre = pixels.seen(View(1, True)).mean(axis=0)  # a side that all fields hold
    weights = {free: np.zeros((len(sides), classes, bands)) for free in (0, 1)}
    bias = np.zeros(classes)
    for (view, shrinkage), share in shares.items():
        fitted = discriminant.fit(
            pixels.seen(view),
            pixels.classes,
            pixels.counts,
            (shrinkage,),
            changes=pixels.changes_of(view),
        )[0]
        free = view.brightness_free
        origin, unit = (centre, np.ones(bands)) if free else (mean, std)
        bias += share * (fitted.bias + fitted.weight @ (origin - fitted.centre))
        weights[free][sides.index(view.side)] += share * fitted.weight * unit
    parts = (weights[False], weights[True], centre, bias)
    return LinearFit(*(torch.from_numpy(part) for part in parts))


def _unchecked(pixels: TrainingPixels) -> Choice:
    """Share alike where no pixel can be left out: one of each class, say."""
    views = list(pixels.spectra)
    return Choice(
        shares={Variant(view, UNCHECKED): UNCHECKED / len(views) for view in views},
        best=Variant(views[0], UNCHECKED),
        loss=None,
        accuracy=None,
    )


def _left_out(pixels: TrainingPixels, masks: Sequence[NDArray[np.bool_]]) -> Held:
    """Fit every variant without the pixels of each mask, and score those."""
    scores: dict[Variant, Scores] = {}
    for view in pixels.spectra:
        spectra, changes = pixels.seen(view), pixels.changes_of(view)
        parts: dict[float, list[Scores]] = {share: [] for share in SHRINKAGES}
        for mask in masks:
            kept = pixels.classes[~mask]
            counts = np.bincount(kept, minlength=len(pixels.counts))
            fitted = discriminant.fit(spectra[~mask], kept, counts, changes=changes)
            for share, one in zip(SHRINKAGES, fitted, strict=True):
                parts[share].append(one.scores(spectra[mask]))
        scores |= {Variant(view, s): np.concatenate(p) for s, p in parts.items()}
    return Held(scores, np.concatenate([pixels.classes[mask] for mask in masks]))


def _scales(held: Held) -> Scales:
    """Return the best scale of every variant, and its loss."""
    return {v: _best_scale(s, held.classes) for v, s in held.scores.items()}


def _greedy(held: Held, scales: Scales) -> dict[Variant, float]:
    """Add `MEMBERS` discriminants, each at its own scale, some more than once."""
    scaled = {v: scales[v][0] * s for v, s in held.scores.items()}
    total: Scores = np.zeros_like(next(iter(scaled.values())))
    shares: dict[Variant, float] = {}
    for _ in range(MEMBERS):
        added = min(scaled, key=_loss_with(total, scaled, held.classes))
        total = total + scaled[added]
        shares[added] = shares.get(added, 0.0) + scales[added][0] / MEMBERS
    return shares


def _loss_with(
    total: Scores, scaled: dict[Variant, Scores], classes: NDArray[np.intp]
) -> Callable[[Variant], float]:
    return lambda variant: _best_scale(total + scaled[variant], classes)[1]


def _weighted(scales: Scales) -> dict[Variant, float]:
    """Share the sum among all views, each with its best shrinkage, by their loss."""
    best = [
        min((v for v in scales if v.view == view), key=lambda v: scales[v][1])
        for view in {variant.view: None for variant in scales}
    ]
    losses = np.array([scales[v][1] for v in best])
    weights = np.exp(-(losses - losses.min()) / max(losses.min(), SATURATED))
    weights /= weights.sum()
    return {v: scales[v][0] * float(w) for v, w in zip(best, weights, strict=True)}


def _best_scale(scores: Scores, classes: NDArray[np.intp]) -> tuple[float, float]:
    """Return the factor of scores with the least cross-entropy, and that.

    The cross-entropy is convex in the factor, so that a search by sections finds it.
    """
    found = minimize_scalar(
        lambda power: cross_entropy(np.exp(power) * scores, classes),
        bounds=np.log(SCALES),
        method="bounded",
        options={"maxiter": SCALE_STEPS, "xatol": 1e-2},
    )
    return float(np.exp(found.x)), float(found.fun)

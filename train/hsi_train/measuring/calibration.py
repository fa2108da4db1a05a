"""Makes probabilities mean what they say: temperature scaling, fitted and measured.

Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML 2017: one
number divides all class scores. It is fitted on validation pixels when training is
over, and never changes which class is best. Differs from the paper: the fit minimises
the Brier score, not the negative log likelihood, which a few pixels decide that are
surely wrong, as mixed and mislabelled ones are. It also has to show that it helps: the
validation pixels must hold every class, and on blocked folds of them the temperature of
the other folds must improve what is left out. Where it does not, probabilities stay as
they are. It is drawn towards one by as much as the folds leave it uncertain: the fewer
pixels there are, and the fewer places, the more.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from hsi_train.layers import Probabilities
from hsi_train.measuring.metrics import Scored

BINS = 15  # of equal width, as in the paper
MIN_PIXELS = 50  # fewer validation pixels say nothing of confidence
MIN_ERRORS = 10  # fewer wrong pixels tell no threshold, and no sharper temperature
MIN_COVERAGE = 0.5  # a map with more holes than classes is no map
MIN_GAIN = 0.002  # of the calibration error of left-out pixels
HALVED = 0.6  # share of the wrong pixels that a threshold may leave, left out
TEMPERATURES = (0.05, 20.0)  # beyond: a network that is always or never sure
GRID = 61  # temperatures that are tried

Folds = NDArray[np.intp]  # (pixel,)


def agreed_temperature(validation: Scored, folds: Folds) -> float:
    """Find a temperature that helps on pixels that did not fit it; one if none does.

    It helps if it lowers both the calibration error of all left-out pixels, by more
    than `MIN_GAIN`, and the Brier score in more than half of the folds.

    Args:
        validation: Scores that trained nothing.
        folds: Fold of each pixel, neighbours the same one; those below 0 are never
            left out. Shape ``(pixel,)``.
    """
    parts = [folds == fold for fold in np.unique(folds[folds >= 0])]
    if len(parts) < 2:
        return 1.0
    each = np.array([fit_temperature(_part(validation, ~part)) for part in parts])
    better, plain, scaled = [], [], []
    for part, temperature in zip(parts, each, strict=True):
        out = _part(validation, part)
        better.append(_brier(out, temperature) < _brier(out, 1.0))
        plain.append(_confidence(out, 1.0))
        scaled.append(_confidence(out, temperature))
    before, after = (
        expected_calibration_error(
            _bins(*map(np.concatenate, zip(*pairs, strict=True)))
        )
        for pairs in (plain, scaled)
    )
    if before - after <= MIN_GAIN or 2 * sum(better) <= len(parts):
        return 1.0
    logs = np.log(each)
    # The standard error of a jackknife over the folds.
    error = logs.std() * np.sqrt(len(logs) - 1)
    mean = np.log(fit_temperature(validation))
    drawn = float(np.exp(np.sign(mean) * max(abs(mean) - error, 0.0)))
    # What is drawn towards one is another temperature than those that helped.
    return drawn if _error(validation, drawn) < _error(validation, 1.0) else 1.0


def fit_temperature(validation: Scored) -> float:
    """Find the temperature of the smallest Brier score.

    With fewer than `MIN_ERRORS` wrong pixels it is at least one: pixels that are all
    right would ask for certainty, and neighbours are right together.

    Args:
        validation: Scores that trained nothing.
    """
    wrong = (validation.scores.argmax(axis=1) != validation.classes).sum()

    def brier(log_temperature: float) -> float:
        return _brier(validation, np.exp(log_temperature))

    # The score may have several valleys: look everywhere, then closer at the lowest.
    low, high = np.log(TEMPERATURES)
    grid = np.linspace(low if wrong >= MIN_ERRORS else 0.0, high, GRID)
    lowest = int(np.argmin([brier(t) for t in grid]))
    bounds = grid[max(lowest - 1, 0)], grid[min(lowest + 1, GRID - 1)]
    best = minimize_scalar(brier, bounds=bounds, method="bounded")
    return float(np.exp(best.x))


@dataclass(frozen=True)
class Bin:
    """Pixels of similar confidence.

    Attributes:
        confidence: Their mean best probability.
        accuracy: Share of them that are right.
        count: How many.
    """

    confidence: float
    accuracy: float
    count: int


def reliability(tested: Scored, temperature: float) -> list[Bin]:
    """Sort pixels into `BINS` bins of confidence; empty ones are left out."""
    return _bins(*_confidence(tested, temperature))


def _bins(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> list[Bin]:
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        Bin(float(confidence[inside].mean()), float(right[inside].mean()), int(n))
        for n, inside in ((m.sum(), m) for m in (number == k for k in range(BINS)))
        if n
    ]


def expected_calibration_error(bins: list[Bin]) -> float:
    """Average the gap between confidence and accuracy over the pixels: eq. (3)."""
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / total


class Rejection(NamedTuple):
    """A suggested threshold of confidence, with what it does to validation pixels.

    Attributes:
        below: Pixels of lower confidence are better left unclassified.
        accuracy: Accuracy of the pixels that stay, each fold by the threshold of the
            others.
        coverage: Share of pixels that stay, by the same.
    """

    below: float
    accuracy: float
    coverage: float


def suggest_rejection(
    validation: Scored, temperature: float, folds: Folds
) -> Rejection | None:
    """Find the smallest threshold that halves the share of wrong pixels.

    None where validation cannot tell: fewer than `MIN_ERRORS` wrong pixels, none of the
    thresholds 0.01 to 0.99 does it with half of the pixels left, or the thresholds of
    other folds leave more than the share `HALVED` of the wrong pixels.

    Args:
        validation: Scores that trained nothing.
        temperature: Temperature of the probabilities.
        folds: As for `agreed_temperature`.
    """
    confidence, right = _confidence(validation, temperature)
    below = _halving(confidence, right)
    parts = [folds == fold for fold in np.unique(folds[folds >= 0])]
    if below is None or len(parts) < 2:
        return None
    kept = np.ones(len(right), dtype=bool)
    for part in parts:
        others = _halving(confidence[~part], right[~part])
        kept[part] = others is None or confidence[part] >= others
    out = folds >= 0
    wrong, left = (~right[out]).mean(), (~right[out & kept]).mean()
    if left > HALVED * wrong:
        return None
    return Rejection(below, float(1 - left), float(kept[out].mean()))


def _halving(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float | None:
    if (~right).sum() < MIN_ERRORS:
        return None
    required = 1 - (1 - right.mean()) / 2
    for step in range(1, 100):
        kept = confidence >= step / 100
        if kept.mean() < MIN_COVERAGE:
            return None
        if right[kept].mean() >= required:
            return step / 100
    return None


def calibrate(
    probabilities: Probabilities, validation: Scored, tested: Scored, folds: Folds
) -> dict[str, Any] | None:
    """Fit the temperature of a method in place, and measure what it changes.

    Args:
        probabilities: Last layer of the method.
        validation: Scores that the temperature is fitted on.
        tested: Scores that the calibration error is measured on.
        folds: Fold of each validation pixel, as for `agreed_temperature`.

    Returns:
        The ``calibration`` table of ``metrics.json``; None, and nothing is changed,
        with fewer than `MIN_PIXELS` validation pixels.
    """
    pixels = len(validation.classes)
    if pixels < MIN_PIXELS:
        return None
    lacking = missing_classes(validation)
    fitted = 1.0 if lacking else agreed_temperature(validation, folds)
    probabilities.temperature.fill_(fitted)
    before, after = reliability(tested, 1.0), reliability(tested, fitted)
    reject = None if lacking else suggest_rejection(validation, fitted, folds)
    note = None
    if lacking:
        note = f"not fitted: validation pixels lack {lacking} of the classes"
    elif fitted == 1:
        note = "not fitted: it did not help on left-out folds of the validation pixels"
    return {
        "temperature": fitted,
        "note": note,
        "pixels": pixels,
        "expected_calibration_error": expected_calibration_error(after),
        "expected_calibration_error_uncalibrated": expected_calibration_error(before),
        "bins": [asdict(b) for b in after],
        "uncalibrated_bins": [asdict(b) for b in before],
        "reject": None if reject is None else reject.below,
        "reject_accuracy": None if reject is None else reject.accuracy,
        "reject_coverage": None if reject is None else reject.coverage,
    }


def missing_classes(validation: Scored) -> int:
    """Count the classes of the map of which no pixel validates."""
    present = np.unique(validation.classes)
    return int(validation.scores.shape[1]) - len(present)


def caveats(pixels: int) -> list[str]:
    """Warn about too few validation pixels."""
    if pixels >= MIN_PIXELS:
        return []
    return [
        f"{pixels} validation pixels are too few to calibrate probabilities (at least "
        f"{MIN_PIXELS}): confidence may be too high or too low. The default split "
        "keeps them where labels lie in enough places; in a --split FILE they are 2."
    ]


def _error(scored: Scored, temperature: float) -> float:
    return expected_calibration_error(reliability(scored, temperature))


def _part(scored: Scored, inside: NDArray[np.bool_]) -> Scored:
    return Scored(scored.scores[inside], scored.classes[inside])


def _brier(scored: Scored, temperature: float) -> float:
    """Return the sum of the squared errors of the probabilities."""
    shares = softmax(scored.scores.astype(np.float64) / temperature, axis=1)
    shares[np.arange(len(shares)), scored.classes] -= 1
    return float((shares**2).sum())


def _confidence(
    scored: Scored, temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Best probability of each pixel, and whether its class is right."""
    shares = softmax(scored.scores.astype(np.float64) / temperature, axis=1)
    return shares.max(axis=1), shares.argmax(axis=1) == scored.classes

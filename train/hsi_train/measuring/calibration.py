"""Makes probabilities mean what they say: temperature scaling, fitted and measured.

Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML 2017: one
number divides all class scores. It is fitted on validation pixels when training is
over, and never changes which class is best. Differs from the paper: the fit minimises
the Brier score, not the negative log likelihood, which a few pixels decide that are
surely wrong, as mixed and mislabelled ones are.
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
TEMPERATURES = (0.05, 20.0)  # beyond: a network that is always or never sure
GRID = 61  # temperatures that are tried


def fit_temperature(validation: Scored) -> float:
    """Find the temperature of the smallest Brier score.

    With fewer than `MIN_ERRORS` wrong pixels it is at least one: pixels that are all
    right would ask for certainty, and neighbours are right together.

    Args:
        validation: Scores that trained nothing.
    """
    scores = validation.scores.astype(np.float64)
    label = np.eye(scores.shape[1])[validation.classes]
    wrong = (scores.argmax(axis=1) != validation.classes).sum()

    def brier(log_temperature: float) -> float:
        shares = softmax(scores / np.exp(log_temperature), axis=1)
        return float(((shares - label) ** 2).sum())

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
    confidence, right = _confidence(tested, temperature)
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
        accuracy: Accuracy of the pixels that stay.
        coverage: Share of pixels that stay.
    """

    below: float
    accuracy: float
    coverage: float


def suggest_rejection(validation: Scored, temperature: float) -> Rejection | None:
    """Find the smallest threshold that halves the share of wrong pixels.

    None where validation cannot tell: fewer than `MIN_ERRORS` wrong pixels, or none
    of the thresholds 0.01 to 0.99 does it with half of the pixels left.
    """
    confidence, right = _confidence(validation, temperature)
    if (~right).sum() < MIN_ERRORS:
        return None
    required = 1 - (1 - right.mean()) / 2
    for step in range(1, 100):
        kept = confidence >= step / 100
        if kept.mean() < MIN_COVERAGE:
            return None
        accuracy = right[kept].mean()
        if accuracy >= required:
            return Rejection(step / 100, float(accuracy), float(kept.mean()))
    return None


def calibrate(
    probabilities: Probabilities, validation: Scored, tested: Scored
) -> dict[str, Any] | None:
    """Fit the temperature of a method in place, and measure what it changes.

    Args:
        probabilities: Last layer of the method.
        validation: Scores that the temperature is fitted on.
        tested: Scores that the calibration error is measured on.

    Returns:
        The ``calibration`` table of ``metrics.json``; None, and nothing is changed,
        with fewer than `MIN_PIXELS` validation pixels.
    """
    pixels = len(validation.classes)
    if pixels < MIN_PIXELS:
        return None
    fitted = fit_temperature(validation)
    probabilities.temperature.fill_(fitted)
    before, after = reliability(tested, 1.0), reliability(tested, fitted)
    reject = suggest_rejection(validation, fitted)
    return {
        "temperature": fitted,
        "pixels": pixels,
        "expected_calibration_error": expected_calibration_error(after),
        "expected_calibration_error_uncalibrated": expected_calibration_error(before),
        "bins": [asdict(b) for b in after],
        "uncalibrated_bins": [asdict(b) for b in before],
        "reject": None if reject is None else reject.below,
        "reject_accuracy": None if reject is None else reject.accuracy,
        "reject_coverage": None if reject is None else reject.coverage,
    }


def caveats(pixels: int) -> list[str]:
    """Warn about too few validation pixels."""
    if pixels >= MIN_PIXELS:
        return []
    return [
        f"{pixels} validation pixels are too few to calibrate probabilities (at least "
        f"{MIN_PIXELS}): confidence may be too high or too low. The default split "
        "keeps them where labels lie in enough places; in a --split FILE they are 2."
    ]


def _confidence(
    scored: Scored, temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Best probability of each pixel, and whether its class is right."""
    shares = softmax(scored.scores.astype(np.float64) / temperature, axis=1)
    return shares.max(axis=1), shares.argmax(axis=1) == scored.classes

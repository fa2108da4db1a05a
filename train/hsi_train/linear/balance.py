"""Finds how much rare classes may count for more than their pixels.

Menon, Jayasumana, Rawat, Jain, Veit, Sanjiv Kumar, Long-Tail Learning via Logit
Adjustment, ICLR 2021, the form that changes a trained classifier: a multiple of the
logarithm of its share of the training pixels is taken from the scores of each class.
Differs from the paper: the multiple is not one but the best on held-out pixels, and
only where none of the places that these lie in loses by it: shares differ from place to
place. Few labels or equal shares leave all as it is.
"""

import numpy as np
from numpy.typing import NDArray

from hsi_train.linear.gate import MIN_PIXELS, mean_over_classes

FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0)


def choose_factor(
    scores: NDArray[np.floating],
    classes: NDArray[np.integer],
    log_shares: NDArray[np.floating],
    folds: NDArray[np.integer],
) -> float:
    """Choose the factor with the highest average accuracy of held-out pixels.

    In no fold may fewer be right than without it. Of equal factors the smallest wins.

    Args:
        scores: Class scores, shape ``(pixel, class)``.
        classes: Class indices, shape ``(pixel,)``.
        log_shares: Logarithm of the classes' shares of the training pixels, shape
            ``(class,)``.
        folds: Fold of each pixel, neighbours the same one; those below 0 are in none.
            Shape ``(pixel,)``.
    """
    parts = [folds == fold for fold in np.unique(folds[folds >= 0])]
    if len(classes) < MIN_PIXELS or len(parts) < 2:
        return 0.0
    right = {
        factor: (scores - factor * log_shares).argmax(axis=1) == classes
        for factor in FACTORS
    }
    allowed = [
        factor
        for factor in FACTORS
        if all(right[factor][part].sum() >= right[0.0][part].sum() for part in parts)
    ]
    return max(allowed, key=lambda factor: mean_over_classes(right[factor], classes))

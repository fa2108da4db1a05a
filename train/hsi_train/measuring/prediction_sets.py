"""Thresholds for sets of classes that hold the right one as often as promised.

A class belongs to the set of a pixel if its probability reaches a threshold, and the
best class always does. The threshold is that of split conformal prediction (Sadinle,
Lei, Wasserman, JASA 114(525), 2019) on validation pixels. Neighbours are right or wrong
together, so blocks of pixels are counted, not pixels (Lee, Barber, Willett, Biometrika
112(1), 2025: hierarchical conformal prediction): each block has the same weight, and so
does the unseen one, which may hold anything. Few blocks therefore allow no high level.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from hsi_runtime.model.model_file import SetLevel
from hsi_train.measuring.calibration import missing_classes
from hsi_train.measuring.metrics import Scored

LEVELS = (0.8, 0.9, 0.95, 0.99)
BLOCK_SIDES = (32, 16, 8)  # pixels; the largest of which there are enough
ENOUGH_BLOCKS = 60
DIGITS = 1e6  # thresholds are rounded down to these


def set_levels(validation: Scored, temperature: float) -> list[SetLevel]:
    """Find the threshold of each level that validation can promise.

    Args:
        validation: Scores that trained nothing, with their places.
        temperature: Temperature of the probabilities.

    Returns:
        Lowest level first; none where validation lacks a class of the map.
    """
    if not len(validation.classes) or missing_classes(validation):
        return []
    shares = _shares(validation, temperature)
    right = shares[np.arange(len(shares)), validation.classes]
    blocks = _blocks(validation)
    sizes = np.bincount(blocks)
    unseen = 1 / (len(sizes) + 1)
    order = np.argsort(right)
    weights = unseen / sizes[blocks[order]]
    below = np.concatenate([[0.0], weights.cumsum()[:-1]])  # weight of lower ones
    levels = []
    for level in LEVELS:
        allowed = 1 - level - unseen
        if allowed <= 0:
            continue
        # All whose lower neighbours weigh no more may be left out.
        threshold = right[order][below <= allowed].max()
        rounded = float(np.floor(threshold * DIGITS) / DIGITS)
        levels.append(SetLevel(level=level, threshold=rounded))
    return levels


def measure(
    levels: list[SetLevel], tested: Scored, temperature: float
) -> list[dict[str, Any]]:
    """Measure the sets of the test pixels, as ``metrics.json`` holds them.

    Returns:
        For each level its threshold, the share of pixels whose set holds the right
        class, and the mean number of classes in a set.
    """
    shares = _shares(tested, temperature)
    pixels = np.arange(len(shares))
    out = []
    for one in levels:
        inside = shares >= one.threshold
        inside[pixels, shares.argmax(axis=1)] = True
        out.append(
            {
                "level": one.level,
                "threshold": one.threshold,
                "coverage": float(inside[pixels, tested.classes].mean()),
                "mean_size": float(inside.sum(axis=1).mean()),
            }
        )
    return out


def _shares(scored: Scored, temperature: float) -> NDArray[np.float64]:
    shares: NDArray[np.float64]
    shares = softmax(scored.scores.astype(np.float64) / temperature, axis=1)
    return shares


def _blocks(scored: Scored) -> NDArray[np.intp]:
    """Number the blocks, shape ``(pixel,)``."""
    assert scored.places is not None
    for side in BLOCK_SIDES:
        cells = np.column_stack([scored.places[:, 0], scored.places[:, 1:] // side])
        _, blocks = np.unique(cells, axis=0, return_inverse=True)
        if blocks.max() + 1 >= ENOUGH_BLOCKS:
            break
    return blocks.ravel()

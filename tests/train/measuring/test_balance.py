import numpy as np
import pytest
from numpy.typing import NDArray

from hsi_train.measuring.balance import FACTORS, choose_factor

COUNTS = np.array([900, 90, 10])
LOG_SHARES = np.log(COUNTS / COUNTS.sum())


def held_out(pixels: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores of an honest classifier that counts a pixel as its share says."""
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], [pixels // 2, pixels // 4, pixels // 4])
    seen = 1.5 * np.eye(3)[classes] + rng.normal(0, 0.5, (len(classes), 3))
    return seen + LOG_SHARES, classes


def test_rare_classes_count_for_more_where_nothing_is_lost() -> None:
    scores, classes = held_out(800)
    factor = choose_factor(scores, classes, LOG_SHARES)
    assert factor > 0
    before, after = (
        (scores - f * LOG_SHARES).argmax(axis=1) == classes for f in (0.0, factor)
    )
    assert after.sum() >= before.sum()
    assert after[classes == 2].mean() > before[classes == 2].mean() + 0.2


def test_common_classes_must_not_lose() -> None:
    # All are of the common class, and any factor takes some of them away.
    scores, _ = held_out(800)
    scores[:, 0] = scores[:, 1] + 0.1
    classes = np.zeros(800, dtype=int)
    assert choose_factor(scores, classes, LOG_SHARES) == 0


def test_equal_shares_change_nothing() -> None:
    scores, classes = held_out(800)
    assert choose_factor(scores, classes, np.log(np.full(3, 1 / 3))) == 0


def test_few_held_out_pixels_tell_nothing() -> None:
    assert choose_factor(*held_out(80), LOG_SHARES) == 0


@pytest.mark.parametrize("seed", range(20))
def test_no_fewer_held_out_pixels_are_right_whatever_they_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, classes = rng.normal(0, 2, (300, 3)), rng.integers(0, 3, 300)
    factor = choose_factor(scores, classes, LOG_SHARES)
    assert factor in FACTORS
    changed = (scores - factor * LOG_SHARES).argmax(axis=1) == classes
    assert changed.sum() >= (scores.argmax(axis=1) == classes).sum()

import numpy as np
import pytest
from numpy.typing import NDArray

from hsi_train.linear.balance import FACTORS, choose_factor

COUNTS = np.array([900, 90, 10])
LOG_SHARES = np.log(COUNTS / COUNTS.sum())


def held_out(pixels: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores of an honest classifier that counts a pixel as its share says."""
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], [pixels // 2, pixels // 4, pixels // 4])
    seen = 1.5 * np.eye(3)[classes] + rng.normal(0, 0.5, (len(classes), 3))
    return seen + LOG_SHARES, classes


def folds(classes: NDArray[np.int64]) -> NDArray[np.intp]:
    """Five places that are alike."""
    return np.arange(len(classes)) % 5


def test_rare_classes_count_for_more_where_nothing_is_lost() -> None:
    scores, classes = held_out(800)
    factor = choose_factor(scores, classes, LOG_SHARES, folds(classes))
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
    assert choose_factor(scores, classes, LOG_SHARES, folds(classes)) == 0


def test_no_place_must_lose() -> None:
    scores, classes = held_out(800)
    elsewhere, common = held_out(100)[0], np.zeros(100, dtype=int)
    elsewhere[:, 0] = elsewhere[:, 1] + 0.1
    scores, classes = np.concatenate([scores, elsewhere]), np.append(classes, common)
    mixed = folds(classes)
    assert choose_factor(scores, classes, LOG_SHARES, mixed) > 0
    apart = np.where(np.arange(900) < 800, mixed, 5)
    assert choose_factor(scores, classes, LOG_SHARES, apart) == 0


def test_equal_shares_change_nothing() -> None:
    scores, classes = held_out(800)
    equal = np.log(np.full(3, 1 / 3))
    assert choose_factor(scores, classes, equal, folds(classes)) == 0


def test_few_held_out_pixels_tell_nothing() -> None:
    scores, classes = held_out(80)
    assert choose_factor(scores, classes, LOG_SHARES, folds(classes)) == 0
    scores, classes = held_out(800)
    one_place = np.zeros(800, dtype=int)
    assert choose_factor(scores, classes, LOG_SHARES, one_place) == 0


@pytest.mark.parametrize("seed", range(20))
def test_no_fewer_held_out_pixels_are_right_whatever_they_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, classes = rng.normal(0, 2, (300, 3)), rng.integers(0, 3, 300)
    places = folds(classes)
    factor = choose_factor(scores, classes, LOG_SHARES, places)
    assert factor in FACTORS
    after = (scores - factor * LOG_SHARES).argmax(axis=1) == classes
    before = scores.argmax(axis=1) == classes
    for fold in range(5):
        assert after[places == fold].sum() >= before[places == fold].sum()

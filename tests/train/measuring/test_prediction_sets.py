import numpy as np
import pytest
from scipy.special import softmax

from hsi_runtime.model.model_file import SetLevel
from hsi_train.measuring import prediction_sets
from hsi_train.measuring.metrics import Scored
from hsi_train.measuring.prediction_sets import LEVELS, set_levels

CLASSES = 4


def honest(blocks: int, seed: int = 0, side: int = 8, temperature: float = 1) -> Scored:
    """Labels drawn from softmax(scores), in square blocks that lie apart."""
    random = np.random.default_rng(seed)
    pixels = blocks * side * side
    scores = random.normal(0, 3, (pixels, CLASSES))
    shares = softmax(scores, axis=1).cumsum(axis=1)
    labels = (random.uniform(size=(pixels, 1)) > shares).sum(axis=1)
    rows, cols = np.indices((side, side)).reshape(2, -1)
    places = np.concatenate(
        [np.column_stack([0 * rows, rows, cols + 32 * n]) for n in range(blocks)]
    )
    return Scored(
        (scores * temperature).astype(np.float32),
        labels.clip(max=CLASSES - 1).astype(np.int16),
        places,
    )


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_sets_hold_the_right_class_as_often_as_promised(temperature: float) -> None:
    """Whether or not probabilities are calibrated."""
    levels = set_levels(honest(200, temperature=temperature), 1.0)
    assert [one.level for one in levels] == list(LEVELS)
    tested = honest(300, seed=1, temperature=temperature)
    found = prediction_sets.measure(levels, tested, 1.0)
    for one in found:
        assert one["coverage"] >= one["level"] - 0.01
    at = {one["level"]: one for one in found}
    assert at[0.95]["coverage"] < 0.97
    sizes = [one["mean_size"] for one in found]
    assert sizes == sorted(sizes)
    assert 1 <= sizes[0] < sizes[-1] < CLASSES


def test_temperature_is_that_of_the_map() -> None:
    plain = set_levels(honest(200), 1.0)
    scaled = set_levels(honest(200, temperature=2.0), 2.0)
    for one, other in zip(plain, scaled, strict=True):
        assert one.threshold == pytest.approx(other.threshold, abs=1e-5)


@pytest.mark.parametrize(("blocks", "most"), [(3, None), (5, 0.8), (12, 0.9)])
def test_few_places_promise_no_high_level(blocks: int, most: float | None) -> None:
    levels = set_levels(honest(blocks), 1.0)
    assert max((one.level for one in levels), default=None) == most


def test_pixels_of_one_place_count_together() -> None:
    """Where one place is all wrong, its many pixels weigh as much as others' few."""
    scored = honest(30)
    bad = scored.places[:, 2] < 32  # type: ignore[index]
    scores = scored.scores.copy()
    scores[bad] = 0
    scores[bad, (scored.classes[bad] + 1) % CLASSES] = 30
    levels = {one.level: one.threshold for one in set_levels(scored, 1.0)}
    spoilt = set_levels(Scored(scores, scored.classes, scored.places), 1.0)
    after = {one.level: one.threshold for one in spoilt}
    assert after[0.8] > 0
    assert after[0.95] < levels[0.95]


def test_nothing_is_promised_where_validation_lacks_a_class() -> None:
    scored = honest(60)
    assert scored.places is not None
    kept = scored.classes != 1
    part = Scored(scored.scores[kept], scored.classes[kept], scored.places[kept])
    assert set_levels(part, 1.0) == []
    none = np.zeros(len(kept), dtype=bool)
    empty = Scored(scored.scores[none], scored.classes[none], scored.places[none])
    assert set_levels(empty, 1.0) == []


def test_the_best_class_is_always_in_the_set() -> None:
    tested = honest(2)
    (one,) = prediction_sets.measure([SetLevel(level=0.8, threshold=1.0)], tested, 1.0)
    right = tested.scores.argmax(axis=1) == tested.classes
    assert one["mean_size"] == 1
    assert one["coverage"] == right.mean()

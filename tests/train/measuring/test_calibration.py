from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax

from hsi_train.layers import Probabilities
from hsi_train.measuring import calibration
from hsi_train.measuring.metrics import Scored

CLASSES = 4


def folds_of(scored: Scored) -> NDArray[np.intp]:
    """Five folds, a pixel after the other."""
    return np.arange(len(scored.classes)) % 5


def honest(pixels: int, temperature: float, seed: int = 0) -> Scored:
    """Labels drawn from softmax(scores): calibrated, then sharpened by a factor."""
    random = np.random.default_rng(seed)
    scores = random.normal(0, 4, (pixels, CLASSES))
    shares = softmax(scores, axis=1).cumsum(axis=1)
    labels = (random.uniform(size=(pixels, 1)) > shares).sum(axis=1)
    return Scored(
        (scores * temperature).astype(np.float32),
        labels.clip(max=CLASSES - 1).astype(np.int16),
    )


def always_right(pixels: int) -> Scored:
    labels = np.arange(pixels) % CLASSES
    return Scored(
        np.eye(CLASSES, dtype=np.float32)[labels] * 3, labels.astype(np.int16)
    )


def error(scored: Scored, temperature: float) -> float:
    return calibration.expected_calibration_error(
        calibration.reliability(scored, temperature)
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_known_scores_is_found(temperature: float) -> None:
    found = calibration.fit_temperature(honest(20_000, temperature))
    assert found == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_the_error_falls_on_other_pixels(temperature: float) -> None:
    fitted = calibration.fit_temperature(honest(2_000, temperature, seed=1))
    tested = honest(20_000, temperature, seed=2)
    assert error(tested, 1.0) > 0.05
    assert error(tested, fitted) < 0.02


@pytest.mark.parametrize("pixels", [50, 5_000])
def test_pixels_that_are_all_right_sharpen_nothing(pixels: int) -> None:
    found = calibration.fit_temperature(always_right(pixels))
    assert found == pytest.approx(1, abs=0.02)


def test_a_few_hopeless_pixels_do_not_decide() -> None:
    """Their log likelihood, -3000 each, would flatten all others."""
    good = honest(3_000, 2.0)
    scores, labels = good.scores.copy(), good.classes.copy()
    scores[:9] = 0
    scores[:9, 1], labels[:9] = 3_000, 2
    found = calibration.fit_temperature(Scored(scores, labels))
    assert found == pytest.approx(calibration.fit_temperature(good), rel=0.05)


def test_probabilities_are_shares_and_keep_the_order() -> None:
    probabilities = Probabilities(torch.ones(CLASSES))
    scores = torch.randn(2, CLASSES, 3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(probabilities(scores), torch.softmax(scores, dim=1))
    probabilities.temperature.fill_(4.0)
    shares = probabilities(scores)
    torch.testing.assert_close(shares, torch.softmax(scores / 4, dim=1))
    assert torch.equal(shares.argsort(dim=1), scores.argsort(dim=1))
    assert list(probabilities.state_dict()) == ["temperature", "balance"]


def test_bins_by_hand() -> None:
    """Two pixels at 0.6, one of them right; one at 1, which is wrong."""
    scores = np.log([[0.6, 0.4], [0.6, 0.4], [1.0, 1e-30]])
    scored = Scored(scores.astype(np.float32), np.array([0, 1, 1], dtype=np.int16))
    bins = calibration.reliability(scored, 1.0)
    assert [(b.accuracy, b.count) for b in bins] == [(0.5, 2), (0.0, 1)]
    assert [b.confidence for b in bins] == pytest.approx([0.6, 1.0])
    found = calibration.expected_calibration_error(bins)
    assert found == pytest.approx(2 / 3 * 0.1 + 1 / 3 * 1, abs=1e-6)


def test_suggested_threshold_halves_the_wrong_pixels() -> None:
    scored = honest(4_000, 1.0)
    found = calibration.suggest_rejection(scored, 1.0, folds_of(scored))
    assert found is not None
    shares = softmax(scored.scores, axis=1)
    right = shares.argmax(axis=1) == scored.classes

    def wrong(threshold: float) -> float:
        return float(1 - right[shares.max(axis=1) >= threshold].mean())

    assert wrong(found.below) <= wrong(0) / 2 < wrong(found.below - 0.01)
    # The promise is that of folds whose threshold the others chose.
    assert found.accuracy == pytest.approx(1 - wrong(found.below), abs=0.01)
    kept = (shares.max(axis=1) >= found.below).mean()
    assert found.coverage == pytest.approx(kept, abs=0.02)


def test_no_threshold_that_left_out_places_do_not_confirm() -> None:
    """In one place, with as many pixels as all others, confidence says nothing."""
    good, bad = honest(1_000, 1.0), blind(1_000)
    scored = Scored(
        np.concatenate([good.scores, bad.scores]),
        np.concatenate([good.classes, bad.classes]),
    )
    places = np.repeat([0, 1], 1_000)
    assert calibration.suggest_rejection(good, 1.0, folds_of(good)) is not None
    assert calibration.suggest_rejection(scored, 1.0, places) is None


def blind(pixels: int) -> Scored:
    """Confidence that has nothing to do with being right."""
    random = np.random.default_rng(0)
    scores = random.normal(0, 2, (pixels, CLASSES)).astype(np.float32)
    return Scored(scores, random.integers(0, CLASSES, pixels).astype(np.int16))


@pytest.mark.parametrize(
    "make", [lambda: always_right(500), lambda: blind(500), lambda: honest(20, 1.0)]
)
def test_no_threshold_where_validation_cannot_tell(make: Callable[[], Scored]) -> None:
    scored = make()
    assert calibration.suggest_rejection(scored, 1.0, folds_of(scored)) is None


@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_folds_agree_on_a_temperature_that_helps(temperature: float) -> None:
    scored = honest(3_000, temperature, seed=1)
    agreed = calibration.agreed_temperature(scored, folds_of(scored))
    fitted = calibration.fit_temperature(scored)
    assert agreed == pytest.approx(temperature, rel=0.1)
    assert abs(np.log(agreed)) < abs(np.log(fitted))  # drawn towards one


def test_few_pixels_draw_the_temperature_further_towards_one() -> None:
    few, many = honest(150, 2.5, seed=3), honest(6_000, 2.5, seed=3)

    def drawn(scored: Scored) -> float:
        fitted = np.log(calibration.fit_temperature(scored))
        agreed = np.log(calibration.agreed_temperature(scored, folds_of(scored)))
        return float(fitted - agreed)

    assert drawn(few) > 4 * drawn(many) > 0


def test_places_that_disagree_change_nothing() -> None:
    """What is too sure in one place is not sure enough in the other."""
    sure, unsure = honest(1_000, 2.5), honest(1_000, 0.4, seed=1)
    scored = Scored(
        np.concatenate([sure.scores, unsure.scores]),
        np.concatenate([sure.classes, unsure.classes]),
    )
    places = np.repeat([0, 1], 1_000)
    assert calibration.agreed_temperature(scored, places) == 1
    one_place = np.zeros(2_000, dtype=np.intp)
    assert calibration.agreed_temperature(scored, one_place) == 1


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 5))
@example(465, 0.6875)
@settings(max_examples=30, deadline=None)
def test_left_out_error_never_rises(seed: int, temperature: float) -> None:
    """Whatever the scores: where folds do not agree, the temperature is one."""
    scored = honest(300, temperature, seed)
    folds = folds_of(scored)
    agreed = calibration.agreed_temperature(scored, folds)
    assert error(scored, agreed) <= error(scored, 1.0)


def test_a_class_that_does_not_validate_leaves_probabilities_as_they_are() -> None:
    probabilities = Probabilities(torch.ones(CLASSES))
    whole = honest(3_000, 3.0)
    kept = whole.classes != 2
    validation = Scored(whole.scores[kept], whole.classes[kept])
    found = calibration.calibrate(
        probabilities, validation, honest(1_000, 3.0), folds_of(validation)
    )
    assert found is not None
    assert float(probabilities.temperature) == found["temperature"] == 1
    assert found["note"] == "not fitted: validation pixels lack 1 of the classes"
    assert found["reject"] is None
    before = found["expected_calibration_error_uncalibrated"]
    assert found["expected_calibration_error"] == before


def test_calibrate_fits_in_place_and_measures_the_test_pixels() -> None:
    probabilities = Probabilities(torch.ones(CLASSES))
    validation, tested = honest(3_000, 3.0, seed=1), honest(5_000, 3.0, seed=2)
    folds = folds_of(validation)
    found = calibration.calibrate(probabilities, validation, tested, folds)
    assert found is not None
    assert found["note"] is None
    assert float(probabilities.temperature) == pytest.approx(found["temperature"])
    assert found["pixels"] == 3_000
    before = found["expected_calibration_error_uncalibrated"]
    assert before == error(tested, 1.0)
    assert found["expected_calibration_error"] < before / 2
    for key in ("bins", "uncalibrated_bins"):
        assert sum(b["count"] for b in found[key]) == 5_000
    rejection = calibration.suggest_rejection(validation, found["temperature"], folds)
    assert rejection is not None
    keys = ("reject", "reject_accuracy", "reject_coverage")
    assert tuple(found[k] for k in keys) == rejection


@pytest.mark.parametrize("pixels", [0, calibration.MIN_PIXELS - 1])
def test_too_few_validation_pixels_change_nothing(pixels: int) -> None:
    probabilities = Probabilities(torch.ones(CLASSES))
    few = honest(pixels, 3.0)
    found = calibration.calibrate(probabilities, few, honest(100, 3.0), folds_of(few))
    assert found is None
    assert float(probabilities.temperature) == 1
    assert f"{pixels} validation pixels are too few" in calibration.caveats(pixels)[0]
    assert calibration.caveats(calibration.MIN_PIXELS) == []

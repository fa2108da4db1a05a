from collections.abc import Callable

import numpy as np
import pytest

from hsi_runtime.model.model_file import ClassEntry
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.measuring import area_estimate

MakeData = Callable[..., LabelledData]

# Olofsson et al. (2014), tables 8 and 9: rows are the map's deforestation, forest gain,
# stable forest and stable non-forest; Landsat pixels of 30 m.
SAMPLE = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]).T
MAPPED = np.array([200_000, 150_000, 3_200_000, 6_450_000])
HECTARES = 0.09 * MAPPED.sum()


def half_width(interval: area_estimate.Interval | None) -> float:
    assert interval is not None
    return (interval.high - interval.low) / 2


def test_worked_example_of_the_paper() -> None:
    found = area_estimate.estimate(SAMPLE, MAPPED)
    overall = found.overall_accuracy
    assert (overall.estimate, half_width(overall)) == pytest.approx(
        (0.95, 0.02), abs=0.005
    )
    deforested = found.area_shares[0]
    # The paper rounds the area in pixels before it multiplies.
    assert deforested.estimate * HECTARES == pytest.approx(21_158, abs=1)
    assert half_width(deforested) * HECTARES == pytest.approx(6_158, abs=2)
    users = [(u.estimate, half_width(u)) for u in found.users_accuracy if u]
    producers = [(p.estimate, half_width(p)) for p in found.producers_accuracy if p]
    assert users[0] == pytest.approx((0.88, 0.07), abs=0.005)
    assert producers[0] == pytest.approx((0.75, 0.21), abs=0.005)
    assert sum(s.estimate for s in found.area_shares) == pytest.approx(1)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Draw 400 pixels at random from a known map, a thousand times."""
    random = np.random.default_rng(0)
    # Of the whole scene: (true class, mapped class)
    truth = np.array([[0.10, 0.05, 0.00], [0.02, 0.30, 0.08], [0.03, 0.02, 0.40]])
    mapped = np.rint(truth.sum(axis=0) * 1e6).astype(np.int64)
    inside = np.zeros(4)
    for _ in range(1000):
        drawn = random.multinomial(400, truth.ravel()).reshape(3, 3)
        found = area_estimate.estimate(drawn, mapped)
        intervals = [found.overall_accuracy, *found.area_shares]
        known = [np.trace(truth), *truth.sum(axis=1)]
        inside += [i.low <= k <= i.high for i, k in zip(intervals, known, strict=True)]
    assert (np.abs(inside / 1000 - 0.95) < 0.025).all(), inside


def test_a_perfect_sample_has_no_spread() -> None:
    found = area_estimate.estimate(np.diag([10, 20]), np.array([300, 700]))
    assert found.overall_accuracy == (1, 1, 1)
    assert found.area_shares == [(0.3, 0.3, 0.3), (0.7, 0.7, 0.7)]
    assert found.users_accuracy == found.producers_accuracy == [(1, 1, 1)] * 2


def test_classes_that_are_not_mapped_or_not_sampled() -> None:
    matrix = np.array([[8, 2, 0], [2, 8, 0], [0, 0, 0]])
    found = area_estimate.estimate(matrix, np.array([50, 50, 0]))
    assert found.area_shares[2] == (0, 0, 0)
    assert found.users_accuracy[2] is None
    assert found.producers_accuracy[2] is None


def test_a_mapped_class_without_samples_is_refused() -> None:
    matrix = np.array([[8, 2, 0], [2, 8, 1], [0, 0, 0]])
    mapped = np.array([50, 50, 7])
    assert area_estimate.unsampled(matrix, mapped) == [2]
    with pytest.raises(ValueError, match="too few sampled"):
        area_estimate.estimate(matrix, mapped)


def test_a_table_or_the_reason_why_there_is_none(make_data: MakeData) -> None:
    codes = np.array([[1, 2, 3], [1, 2, 3]])
    data, mapped = make_data(codes), np.array([3, 2, 1])
    found, said = area_estimate.measure(np.diag([4, 4, 4]), mapped, data)
    assert found is not None
    assert said == []
    assert found["classes"][0]["area_m2"] is None  # no resolution
    found, said = area_estimate.measure(np.diag([4, 4, 1]), mapped, data)
    assert found is None
    assert "fewer than 2 test pixels are mapped as class 3" in said[0]


def test_report_has_shares_and_areas() -> None:
    classes = [
        ClassEntry(code=k + 1, name=f"class {k}", color="#000000") for k in range(4)
    ]
    found = area_estimate.report(SAMPLE, MAPPED, classes, 900.0)
    entry = found["classes"][0]
    assert entry["code"] == 1
    assert entry["area_m2"][0] / 1e4 == pytest.approx(21_158, abs=1)
    shares = np.array(entry["area_share"]) * MAPPED.sum() * 900
    np.testing.assert_allclose(entry["area_m2"], shares)
    assert len(found["overall_accuracy"]) == len(entry["users_accuracy"]) == 3
    unknown = area_estimate.report(SAMPLE, MAPPED, classes, None)
    assert unknown["classes"][0]["area_m2"] is None

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from hsi_runtime.model.model_file import ClassEntry
from hsi_train.measuring import metrics

CLASSES = 4
INFO = [
    ClassEntry(code=10 + k, name=f"class {k}", color="#000000") for k in range(CLASSES)
]

labels = st.integers(0, CLASSES - 1)
pairs = st.lists(st.tuples(labels, labels), min_size=2, max_size=60)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_against_scikit_learn(sample: list[tuple[int, int]]) -> None:
    true, predicted = np.array(sample).T
    matrix = metrics.confusion(true, predicted, CLASSES)
    np.testing.assert_array_equal(
        matrix, reference.confusion_matrix(true, predicted, labels=range(CLASSES))
    )
    close = pytest.approx
    assert metrics.overall_accuracy(matrix) == close((true == predicted).mean())
    recalls = [(predicted[true == k] == k).mean() for k in np.unique(true)]
    assert metrics.average_accuracy(matrix) == close(np.mean(recalls))
    if len(set(true) | set(predicted)) > 1:
        expected = reference.cohen_kappa_score(true, predicted)
        assert metrics.kappa(matrix) == close(expected, abs=1e-12)
    found = metrics.report(matrix, INFO)["per_class"]
    expected = reference.precision_recall_fscore_support(
        true, predicted, labels=range(CLASSES), zero_division=0.0
    )
    for k, (precision, recall, f1, support) in enumerate(zip(*expected, strict=True)):
        entry = found[k]
        assert entry["support"] == support
        assert entry["code"] == 10 + k
        if support:
            assert entry["recall"] == close(recall)
            assert entry["f1"] == close(f1)
        else:
            assert entry["recall"] is None
            assert entry["f1"] is None
        if (predicted == k).any():
            assert entry["precision"] == close(precision)
        else:
            assert entry["precision"] is None


def test_average_accuracy_is_balanced_accuracy() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, CLASSES, (2, 500))
    matrix = metrics.confusion(true, predicted, CLASSES)
    assert metrics.average_accuracy(matrix) == pytest.approx(
        reference.balanced_accuracy_score(true, predicted)
    )


def test_one_class_all_right_measures_nothing_beyond_chance() -> None:
    matrix = metrics.confusion(np.zeros(5, int), np.zeros(5, int), 2)
    assert metrics.kappa(matrix) == 0
    assert metrics.overall_accuracy(matrix) == 1


def test_class_that_is_never_predicted() -> None:
    matrix = np.array([[5, 0, 0], [3, 0, 0], [0, 0, 0]])
    entries = metrics.report(matrix, INFO[:3])["per_class"]
    assert entries[1]["f1"] == 0
    assert entries[1]["precision"] is None
    assert entries[2]["f1"] is None
    assert metrics.average_accuracy(matrix) == 0.5


def test_counts_of_a_large_map_do_not_overflow() -> None:
    matrix = np.array([[10**9, 0], [0, 10**9]])
    assert metrics.kappa(matrix) == 1

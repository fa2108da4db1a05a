from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hsi_train.linear.folds import ALWAYS_TRAINED, FOLDS, blocked_folds


def places_of(side: int) -> NDArray[Any]:
    rows, cols = np.divmod(np.arange(side * side), side)
    return np.column_stack([np.zeros_like(rows), rows, cols])


@given(st.integers(6, 40), st.integers(1, 4), st.integers(0, 5))
def test_every_class_has_pixels_in_and_out_of_each_fold(
    side: int, classes: int, seed: int
) -> None:
    places = places_of(side)
    labels = (places[:, 2] * classes // side).astype(np.intp)
    folds = blocked_folds(places, labels, seed)
    assert folds.min() >= 0
    assert folds.max() < FOLDS
    for index in range(classes):
        assert len(np.unique(folds[labels == index])) == FOLDS


def test_neighbours_stay_together_where_there_is_room() -> None:
    places = places_of(96)
    folds = blocked_folds(places, np.zeros(len(places), np.intp)).reshape(96, 96)
    assert (folds[:, 1:] == folds[:, :-1]).mean() > 0.95


def test_a_class_of_one_pixel_always_trains() -> None:
    places = places_of(10)
    labels = np.zeros(100, np.intp)
    labels[37] = 1
    assert blocked_folds(places, labels)[37] == ALWAYS_TRAINED

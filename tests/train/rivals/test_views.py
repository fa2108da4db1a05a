from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hsi_train.data.labelled_scene import LabelledData
from hsi_train.linear.spectra import HALO
from hsi_train.rivals.views import (
    RAW,
    SHAPE,
    UNIT,
    VIEWS,
    View,
    classify,
    majority,
    see,
    spectra_at,
)

MakeData = Callable[..., LabelledData]


@pytest.fixture
def data(make_data: MakeData) -> LabelledData:
    codes = np.repeat(np.repeat([[1, 2], [3, 1]], 9, axis=0), 40, axis=1)
    return make_data(codes)


class Brightest:
    """Says in which of two bands a spectrum is higher."""

    def predict(self, spectra: NDArray[np.float32]) -> NDArray[Any]:
        best: NDArray[Any] = spectra[:, :2].argmax(axis=1)
        return best


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_the_mean_of_what_it_names(view: View, data: LabelledData) -> None:
    cube = data.scenes[0].cube[:, :11, :12]
    found = see(torch.from_numpy(cube)[None], view)[0].numpy()
    assert found.shape == (5, 11 - 2 * HALO, 12 - 2 * HALO)
    spectra = cube.astype(np.float64)
    if view.spectra == SHAPE:
        spectra = (spectra - spectra.mean(axis=0)) / spectra.std(axis=0)
    elif view.spectra == UNIT:
        spectra = spectra / np.linalg.norm(spectra, axis=0)
    first = slice(HALO - view.side // 2, HALO + view.side // 2 + 1)
    expected = spectra[:, first, first].mean(axis=(1, 2))
    np.testing.assert_allclose(found[:, 0, 0], expected, rtol=1e-5, atol=1e-6)


def test_training_and_the_map_see_the_same(data: LabelledData) -> None:
    """At edges, beside missing pixels and in the second tile, too."""
    scene = data.scenes[0]
    scene.valid[3, 70:74] = False
    fill = np.full(5, 400.0)
    places = np.array([[0, 0, 0], [0, 2, 72], [0, 17, 79]])
    seen: list[NDArray[np.float32]] = []

    class Spy:
        def predict(self, spectra: NDArray[np.float32]) -> NDArray[Any]:
            seen.append(spectra)
            return np.zeros(len(spectra), dtype=int)

    requested = np.zeros(scene.valid.shape, dtype=bool)
    requested[tuple(places[:, 1:].T)] = True
    view = View(SHAPE, 5)
    classify(Spy(), scene, requested, fill, view, filtered=False)
    expected = spectra_at(data.scenes, places, fill, VIEWS)[view]
    np.testing.assert_allclose(np.concatenate(seen), expected, rtol=1e-4, atol=1e-5)


def test_the_majority_decides_and_a_tie_changes_nothing() -> None:
    classes = np.zeros((7, 7), dtype=np.int16)
    classes[3, 3] = 1
    assert (majority(classes) == 0).all()
    pair = np.array([[2, 1, -1]], dtype=np.int16)
    np.testing.assert_array_equal(majority(pair), pair)


@pytest.mark.parametrize("filtered", [False, True])
def test_only_requested_pixels_get_a_class(data: LabelledData, filtered: bool) -> None:
    scene = data.scenes[0]
    scene.cube[:2] = 0
    scene.cube[1] = 1
    scene.cube[:2, 5, 5] = 1, 0  # one pixel unlike all around it
    requested = np.zeros(scene.valid.shape, dtype=bool)
    requested[5, 5], requested[12, 66] = True, True
    found = classify(
        Brightest(), scene, requested, np.zeros(5), View(RAW, 1), filtered=filtered
    )
    assert (found[~requested] == -1).all()
    assert (found[5, 5], found[12, 66]) == (1 if filtered else 0, 1)


def test_missing_pixels_have_no_vote(data: LabelledData) -> None:
    scene = data.scenes[0]
    scene.cube[:2] = 0
    scene.cube[1] = 1
    scene.cube[:2, 5, 5] = 1, 0
    scene.valid[:] = False
    scene.valid[5, 5] = True
    found = classify(
        Brightest(), scene, scene.valid, np.zeros(5), View(RAW, 1), filtered=True
    )
    assert found[5, 5] == 0

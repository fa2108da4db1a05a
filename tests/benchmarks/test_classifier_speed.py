"""That rivals classify the pixels they are asked about, in the order of the scene."""

from pathlib import Path
from typing import Any

import classifier_speed
import numpy as np
import pytest

from hsi_train.data.labelled_scene import LabelledScene
from hsi_train.rivals.choosing import Chosen
from hsi_train.rivals.classical import C, Fitted, linear_svm
from hsi_train.rivals.views import RAW, View

SIDE = 12


@pytest.fixture
def cube() -> np.ndarray:
    """Two materials, left and right; shape ``(band, row, col)``."""
    noise = np.random.default_rng(0).integers(0, 50, (20, SIDE, SIDE))
    noise[:10, :, SIDE // 2 :] += 1000
    return noise.astype(np.int16)


@pytest.fixture
def truth() -> np.ndarray:
    return np.broadcast_to(np.arange(SIDE) >= SIDE // 2, (SIDE, SIDE)).astype(int)


@pytest.mark.parametrize("name", ["svm", "3-D CNN"])
def test_rivals_learn_and_answer_pixel_by_pixel(
    name: str, cube: Any, truth: Any
) -> None:
    train, classes = np.arange(0, SIDE * SIDE, 5), truth.ravel()
    if name == "3-D CNN":
        rival = classifier_speed.plain_3d(cube, train, classes[train])
    else:
        chosen = Chosen(View(RAW, 1), {C: 1.0}, False)
        model = linear_svm(chosen.settings, len(cube))
        model.fit(classifier_speed.spectra_of(cube)[train], classes[train])
        valid = np.ones((SIDE, SIDE), bool)
        scene: Any = LabelledScene(None, 0, 0, cube, valid, valid, valid)  # type: ignore[arg-type]
        fitted = Fitted("svm", "", chosen, model, np.zeros(len(cube)))
        rival = classifier_speed.classical_rival(fitted, scene)
    assert (rival(cube) == classes).mean() > 0.95
    assert (rival(cube[:, :, ::-1]) == classes).mean() < 0.05


def test_a_model_answers_densely_as_by_patches(trained: Any) -> None:
    side = 20
    sample = np.random.default_rng(1).integers(1000, 3000, (30, side, side))
    cube = sample.astype(np.uint16)
    found = classifier_speed.dense(trained.model, None)(cube)
    assert found.shape == (side * side,)
    np.testing.assert_array_equal(
        found, classifier_speed.by_patches(trained.model)(cube)
    )


def test_gaps_are_filled_with_pixels_that_are_there(cube: Any) -> None:
    valid = np.ones((SIDE, SIDE), bool)
    valid[3:6, 2:] = False
    scene: Any = LabelledScene(None, 0, 0, cube, valid, valid, valid)  # type: ignore[arg-type]
    filled = classifier_speed.without_gaps(scene)
    np.testing.assert_array_equal(filled[:, valid], cube[:, valid])
    there = {tuple(s) for s in cube[:, valid].T.tolist()}
    assert {tuple(s) for s in filled[:, ~valid].T.tolist()} <= there


def test_the_table_has_a_part_for_each_scene(tmp_path: Path) -> None:
    row = {"pixels_per_second": 1234, "overall_accuracy": 0.5}
    figures = {
        "train": 3806,
        "rivals": {"svm": row, "ours": row | {"pixels_per_second": 9999}},
    }
    text = classifier_speed.table({"enmap_potsdam": figures})
    assert "### EnMAP Potsdam, 3,806 training pixels" in text
    assert text.index("| ours | 9,999 | 50.00% |") < text.index("| svm | 1,234")

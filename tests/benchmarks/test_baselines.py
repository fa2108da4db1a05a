from pathlib import Path

import baselines
import numpy as np
import pytest

from hsi_train import recipe
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.splitting import split
from hsi_train.training import read_data


@pytest.fixture
def content(scene: Path) -> dict[str, object]:
    few = {"mode": "per-class", "samples_per_class": 8}
    return recipe.load(str(scene)) | {"split": few}


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_it_beats_chance_and_repeats(name: str, content: dict[str, object]) -> None:
    wanted = recipe.parse(content | {"method": name})
    one, two = (baselines.classify(wanted) for _ in range(2))
    assert one["confusion"] == two["confusion"]
    assert one["overall_accuracy"] > 0.7
    assert one["counts"]["train"] == 24
    assert np.sum(one["confusion"]) == one["counts"]["test"]
    if name != "forest":
        assert one["settings"]["svc__C"] > 0


def test_pixels_of_a_role(content: dict[str, object]) -> None:
    data: LabelledData = read_data(recipe.parse(content | {"method": "svm"}), 0)
    data = split.per_class(data, 8, 0)
    spectra, classes = baselines.spectra_of(data, Role.TRAIN)
    (scene,) = data.scenes
    row, col = np.argwhere(scene.roles == Role.TRAIN)[5]
    np.testing.assert_array_equal(spectra[5], scene.cube[:, row, col])
    assert classes[5] == scene.classes[row, col]
    assert spectra.shape == (24, 12)


@pytest.mark.parametrize("name", ["svm", "linear_svm"])
def test_settings_come_from_training_pixels_standardised(name: str) -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(3), 6).astype(np.int16)
    spectra = rng.normal(size=(18, 4)) + classes[:, None]
    # A band of another scale must not drown the others.
    spectra[:, 0] = 1e6 * rng.normal(size=18)
    model = baselines.BASELINES[name](spectra, classes, 0)
    assert model.cv.n_splits == 5
    assert baselines.BASELINES[name](spectra[:-4], classes[:-4], 0).cv.n_splits == 2
    model.fit(spectra, classes)
    scaler = model.best_estimator_.named_steps["standardscaler"]
    np.testing.assert_allclose(scaler.mean_, spectra.mean(axis=0))
    assert (model.predict(spectra) == classes).mean() > 0.6


def test_one_pixel_of_a_class_cannot_be_cross_validated() -> None:
    classes = np.array([0, 0, 0, 1], dtype=np.int16)
    with pytest.raises(SystemExit, match="two training pixels of each class"):
        baselines.svm(np.zeros((4, 2)), classes, 0)

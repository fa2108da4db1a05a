from collections.abc import Callable

import numpy as np
import pytest

from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting.statistics import describe_problem
from hsi_train.rivals import choosing, classical
from hsi_train.rivals.choosing import Judges

MakeData = Callable[..., LabelledData]


def shaded(make_data: MakeData, share: float, validation: float = 0) -> LabelledData:
    """Three materials of like shape, under light that varies from pixel to pixel."""
    rng = np.random.default_rng(3)
    codes = np.kron(rng.integers(1, 4, (8, 8)), np.ones((6, 6), dtype=int))
    codes[:2, :3] = 1, 2, 3
    shapes = np.array([[3, 4, 5, 6, 7, 6.0], [3, 5, 5, 6, 6, 6], [4, 4, 5, 7, 6, 6]])
    cube = (shapes[codes - 1] * rng.uniform(0.4, 1.6, (*codes.shape, 1))).transpose(
        2, 0, 1
    )
    cube = cube + rng.normal(0, 0.1, cube.shape)
    data = make_data(codes, bands=6, cubes=[cube.astype(np.float32)])
    drawn = rng.random(codes.shape)
    roles = np.where(drawn < share, Role.TRAIN, Role.TEST)
    roles[drawn > 1 - validation] = Role.VALIDATION
    return data.divided([roles.astype(np.uint8)])


def test_each_classifier_finds_what_the_light_hides(make_data: MakeData) -> None:
    data = shaded(make_data, 0.2)
    found = list(classical.candidates(data, describe_problem(data)))
    assert [c.name for c in found] == ["linear-svm", "rbf-svm", "random-forest"]
    scene = data.scenes[0]
    tested = scene.roles == Role.TEST
    for candidate in found:
        (classes,) = candidate.classes
        assert (classes[tested] == scene.classes[tested]).mean() > 0.9
        assert (classes[~tested] == -1).all()
    assert not found[-1].variant.startswith("spectra")  # trees cut along single bands


@pytest.mark.parametrize("validation", [0.0, 0.3])
def test_no_test_pixel_has_a_say(make_data: MakeData, validation: float) -> None:
    data = shaded(make_data, 0.2, validation)
    problem, family = describe_problem(data), classical.FAMILIES[1]
    before = Judges(data, problem).choose(family)
    assert before is not None
    scene = data.scenes[0]
    scene.classes[scene.roles == Role.TEST] = 0
    assert Judges(data, problem).choose(family) == before


def test_validation_judges_only_where_it_holds_every_class(
    make_data: MakeData,
) -> None:
    data = shaded(make_data, 0.2, 0.3)
    problem = describe_problem(data)
    assert len(Judges(data, problem)._splits) == 1
    scene = data.scenes[0]
    lacking = (scene.roles == Role.VALIDATION) & (scene.classes == 2)
    scene.roles[lacking] = Role.TEST
    assert len(Judges(data, problem)._splits) == 5


def test_pixels_that_choose_are_bounded(
    make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "MOST", 50)
    monkeypatch.setattr(choosing, "LEAST_OF_CLASS", 5)
    data = shaded(make_data, 0.4, 0.4)
    judges = Judges(data, describe_problem(data))
    (judged,) = judges._splits
    assert (judged.sum(), (~judged).sum()) == pytest.approx((50, 50), abs=2)


def test_a_pixel_of_each_class_chooses_nothing_and_is_told(
    make_data: MakeData,
) -> None:
    data = shaded(make_data, 0)
    scene = data.scenes[0]
    for index in range(3):
        row, col = np.argwhere(scene.classes == index)[0]
        scene.roles[row, col] = Role.TRAIN
    found = list(classical.candidates(data, describe_problem(data)))
    assert len(found) == 3
    assert all("too few labels to choose" in c.variant for c in found)


def test_one_class_has_no_rivals(make_data: MakeData) -> None:
    data = make_data(np.ones((20, 20), dtype=int))
    data = data.divided([np.full((20, 20), Role.TRAIN, dtype=np.uint8)])
    assert list(classical.candidates(data, describe_problem(data))) == []

import elsewhere
import numpy as np
import pytest
from labelled import labelled_data, labelled_scene
from scipy.spatial.distance import cdist

from hsi_train.data.labelled_scene import LabelledScene
from hsi_train.data.roles import Role

FIELD, SIDE = 9, 80


def patchwork(row: int = 0, col: int = 0, name: str = "memory.tif") -> LabelledScene:
    """Two classes in fields of 10 x 10 pixels; the part of a larger scene."""
    rows, cols = np.indices((SIDE, SIDE))
    classes = ((rows // 10 + cols // 10) % 2).astype(np.int16)
    return labelled_scene(classes, row, col, name)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("reverse", [False, True])
def test_sides_of_a_line_are_a_receptive_field_apart(axis: int, reverse: bool) -> None:
    cut = 100 + 40
    places = elsewhere.across(axis, cut, FIELD, reverse)
    data = labelled_data(2, patchwork(row=100, col=100))
    divide = elsewhere.divided(places, FIELD)
    roles = divide(data, 0).scenes[0].roles
    used = {r: np.argwhere(roles == r) for r in (Role.TRAIN, Role.VALIDATION)}
    tested = np.argwhere(roles == Role.TEST)
    for at in used.values():
        assert len(at) > 100
        assert cdist(at, tested, "chebyshev").min() >= FIELD
    side = tested[:, axis] < 40
    assert (side == reverse).all()
    assert len(tested) == SIDE * (40 - FIELD + 1)
    # Windows of training pixels show no validation pixel.
    apart = cdist(used[Role.TRAIN], used[Role.VALIDATION], "chebyshev").min()
    assert apart > FIELD // 2
    assert (divide(data, 1).scenes[0].roles != roles).any()


def test_scenes_of_another_site_are_tested_whole() -> None:
    here = patchwork(name="A_1.tif")
    far = patchwork(row=5000, name="B_1.tif")
    divide = elsewhere.divided(elsewhere.site("A"), FIELD)
    divided = divide(labelled_data(2, here, far), 0)
    first, second = (scene.roles for scene in divided.scenes)
    assert (second == Role.TEST).all()
    assert {*np.unique(first)} == {Role.TRAIN, Role.VALIDATION, Role.BUFFER}

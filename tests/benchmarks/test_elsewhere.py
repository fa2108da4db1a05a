from dataclasses import replace
from pathlib import Path

import elsewhere
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from hsi_runtime.model.model_file import ClassEntry
from hsi_runtime.scenes.scene import SceneInfo
from hsi_train.data.labelled_scene import LabelledData, LabelledScene
from hsi_train.data.roles import Role

FIELD, SIDE = 9, 80


def patchwork(row: int = 0, col: int = 0, name: str = "memory.tif") -> LabelledScene:
    """Two classes in fields of 10 x 10 pixels; the part of a larger scene."""
    rows, cols = np.indices((SIDE, SIDE))
    classes = ((rows // 10 + cols // 10) % 2).astype(np.int16)
    return LabelledScene(
        info=SceneInfo(
            path=Path(name),
            driver="memory",
            bands=1,
            rows=row + SIDE,
            cols=col + SIDE,
            dtype=np.dtype("float32"),
            nodata=np.full(1, np.nan),
            good=np.ones(1, dtype=bool),
            block=(SIDE, SIDE),
        ),
        row=row,
        col=col,
        cube=np.zeros((1, SIDE, SIDE), dtype=np.float32),
        valid=np.ones((SIDE, SIDE), dtype=bool),
        classes=classes,
        roles=np.zeros((SIDE, SIDE), np.uint8),
    )


def data_of(*scenes: LabelledScene) -> LabelledData:
    kinds = [ClassEntry(code=k, name=f"class {k}", color="#808080") for k in (1, 2)]
    return LabelledData([*scenes], kinds, np.arange(1), [], [True] * len(scenes))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("reverse", [False, True])
def test_sides_of_a_line_are_a_receptive_field_apart(axis: int, reverse: bool) -> None:
    cut = 100 + 40
    places = elsewhere.across(axis, cut, FIELD, reverse)
    data = data_of(patchwork(row=100, col=100))
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
    here, there = patchwork(name="A_1.tif"), patchwork(name="B_1.tif")
    far = replace(there, row=5000, info=replace(there.info, rows=5000 + SIDE))
    divided = elsewhere.divided(elsewhere.site("A"), FIELD)(data_of(here, far), 0)
    first, second = (scene.roles for scene in divided.scenes)
    assert (second == Role.TEST).all()
    assert {*np.unique(first)} == {Role.TRAIN, Role.VALIDATION, Role.BUFFER}

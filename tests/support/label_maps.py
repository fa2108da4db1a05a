"""Maps of labels, and what holds for every division of them."""

import numpy as np

from hsi_train.data.labelled_scene import UNLABELLED, LabelledData
from hsi_train.data.roles import Role, Roles


def fields(rows: int, cols: int, classes: int, side: int, seed: int = 0) -> np.ndarray:
    """Square fields of random classes; a quarter of them has no label."""
    rng = np.random.default_rng(seed)
    shape = (-(-rows // side), -(-cols // side))
    codes = rng.integers(1, classes + 1, shape) * (rng.random(shape) > 0.25)
    return np.kron(codes, np.ones((side, side), dtype=int))[:rows, :cols]


def roles_of(data: LabelledData) -> list[Roles]:
    return [scene.roles for scene in data.scenes]


def check_partition(data: LabelledData) -> None:
    for scene in data.scenes:
        roles = scene.roles
        assert roles.shape == scene.classes.shape
        assert roles.dtype == np.uint8
        np.testing.assert_array_equal(roles == Role.NONE, scene.classes == UNLABELLED)
    counts = data.pixels_by_role()
    assert counts.sum(axis=1).tolist() == data.counts()
    assert (counts[:, Role.NONE] == 0).all()

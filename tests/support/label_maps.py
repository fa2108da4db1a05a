"""Maps of labels, and what holds for every division of them."""

import numpy as np

from hsi_train.data.labelled_scene import UNLABELLED, LabelledData
from hsi_train.splitting import split
from hsi_train.splitting.split import Role, Roles


def fields(rows: int, cols: int, classes: int, side: int, seed: int = 0) -> np.ndarray:
    """Square fields of random classes; a quarter of them has no label."""
    rng = np.random.default_rng(seed)
    shape = (-(-rows // side), -(-cols // side))
    codes = rng.integers(1, classes + 1, shape) * (rng.random(shape) > 0.25)
    return np.kron(codes, np.ones((side, side), dtype=int))[:rows, :cols]


def check_partition(data: LabelledData, splits: list[Roles]) -> None:
    assert len(splits) == len(data.scenes)
    for scene, roles in zip(data.scenes, splits, strict=True):
        assert roles.shape == scene.classes.shape
        assert roles.dtype == np.uint8
        np.testing.assert_array_equal(roles == Role.NONE, scene.classes == UNLABELLED)
    counts = split.count(data, splits)
    assert counts.sum(axis=1).tolist() == data.counts()
    assert (counts[:, Role.NONE] == 0).all()

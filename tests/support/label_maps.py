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


def label_map(kind: str, classes: int, seed: int) -> np.ndarray:
    """Labels as users have them; every class that is there has two pixels or more."""
    rng = np.random.default_rng(seed)
    rows, cols = rng.integers(40, 110, 2)
    codes = np.zeros((rows, cols), dtype=int)
    if kind == "fields":
        codes = fields(rows, cols, classes, int(rng.integers(4, 25)), seed)
    elif kind == "one class nearly everywhere":
        codes = fields(rows, cols, classes, int(rng.integers(4, 20)), seed)
        codes[(codes > 0) & (rng.random(codes.shape) < 0.8)] = 1
    elif kind == "one place":
        codes[5:35, 5:35] = fields(30, 30, classes, 4, seed)[:rows, :cols]
    else:
        small = kind == "crowns"
        for _ in range(classes * int(rng.integers(2, 9))):
            size = rng.integers(1, 4, 2) if small else rng.integers(2, 35, 2)
            row, col = rng.integers(0, (rows, cols))
            codes[row : row + size[0], col : col + size[1]] = rng.integers(
                1, classes + 1
            )
    for code, count in zip(*np.unique(codes, return_counts=True), strict=True):
        codes[(codes == code) & (count < 2)] = 0
    return codes


KINDS = ("fields", "one class nearly everywhere", "one place", "crowns", "polygons")

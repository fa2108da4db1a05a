from collections.abc import Callable

import numpy as np
import pytest
from label_maps import check_partition, fields, roles_of
from scipy.spatial.distance import cdist

from hsi_runtime.errors import SceneError
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.measuring.calibration import MIN_PIXELS
from hsi_train.splitting import blocks, split
from hsi_train.splitting.blocks import spatial

MakeData = Callable[..., LabelledData]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Smallest Chebyshev distance between the pixels of two masks."""
    if not a.any() or not b.any():
        return float("inf")
    return float(cdist(np.argwhere(a), np.argwhere(b), "chebyshev").min())


@pytest.mark.parametrize("receptive_field", [3, 5, 9])
@pytest.mark.parametrize("seed", [0, 1])
def test_spatial_keeps_roles_one_receptive_field_apart(
    make_data: MakeData, receptive_field: int, seed: int
) -> None:
    data = make_data(fields(64, 60, 3, 6, seed), fields(50, 70, 3, 6, seed + 7))
    divided = spatial(data, receptive_field, seed)
    check_partition(divided)
    for roles in roles_of(divided):
        train, validation, test = (
            roles == r for r in (Role.TRAIN, Role.VALIDATION, Role.TEST)
        )
        assert distance(train, test) >= receptive_field
        assert distance(train, validation) >= receptive_field
        assert distance(validation, test) >= receptive_field
    counts = divided.pixels_by_role()
    assert counts[:, Role.TRAIN].all()
    assert counts[:, Role.TEST].all()
    assert split.seen_in_training(divided, receptive_field // 2)[0] == 0
    said = split.caveats(divided, receptive_field // 2)
    assert not any("flattered" in sentence for sentence in said)
    again = spatial(data, receptive_field, seed)
    for one, two in zip(roles_of(divided), roles_of(again), strict=True):
        np.testing.assert_array_equal(one, two)


def test_no_training_window_contains_a_held_out_pixel(make_data: MakeData) -> None:
    r = 7
    data = make_data(fields(70, 80, 3, 7, 3))
    (roles,) = roles_of(spatial(data, r, 5))
    halo = r // 2
    for row, col in np.argwhere(roles == Role.TRAIN):
        window = roles[
            max(row - halo, 0) : row + halo + 1, max(col - halo, 0) : col + halo + 1
        ]
        assert not np.isin(window, (Role.TEST, Role.VALIDATION)).any()


def test_spatial_serves_every_role_when_there_is_room(make_data: MakeData) -> None:
    data = make_data(fields(150, 150, 4, 8, 1))
    counts = spatial(data, 5, 0).pixels_by_role()
    shares = counts / counts.sum(axis=1, keepdims=True)
    assert shares[:, Role.TRAIN].min() > 0.25
    assert shares[:, Role.TEST].min() > 0.08
    assert counts[:, Role.VALIDATION].sum() > 0


@pytest.mark.parametrize("seed", range(3))
def test_spatial_keeps_validation_pixels_for_calibration(
    make_data: MakeData, seed: int
) -> None:
    # Labels in three places, each with a small patch of a rare class: training and
    # test are served best where validation has no pixel at all.
    codes = np.zeros((150, 130), dtype=int)
    for number, (row, col) in enumerate([(0, 0), (60, 95), (95, 20)]):
        codes[row : row + 30, col : col + 30] = fields(30, 30, 3, 4, number)
        codes[row + 2 : row + 4, col + 2 : col + 4] = 4
    data = make_data(codes)
    counts = spatial(data, 13, seed).pixels_by_role()
    assert counts[:, Role.VALIDATION].sum() >= MIN_PIXELS


def test_validation_makes_up_for_no_class_without_test_pixels() -> None:
    # (class, role): none, train, validation, test, buffer
    possible = np.array([[0, 500, 0, 20, 480], [0, 20, 0, 600, 380]])
    untested = np.array([[0, 500, 250, 250, 0], [0, 500, 500, 0, 0]])
    assert blocks._score(untested) < blocks._score(possible)
    validated = possible + np.array([0, 0, 100, 0, -100])
    assert blocks._score(possible) < blocks._score(validated)


def test_impossible_spatial_split_names_the_class_and_the_way_out(
    make_data: MakeData,
) -> None:
    codes = np.ones((40, 40), dtype=int)
    codes[20:22, 20:22] = 9  # one small place: it cannot be in two blocks
    with pytest.raises(
        SceneError, match=r"class 9: \d+ train, .* of 4\. Remedy: label a second place"
    ):
        spatial(make_data(codes), 13, 0)

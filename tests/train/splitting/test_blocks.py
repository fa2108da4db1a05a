from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from label_maps import KINDS, check_partition, fields, label_map, roles_of
from scipy.spatial.distance import cdist

from hsi_runtime.errors import SceneError
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting.windows import Windows
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
        assert distance(train, validation) > receptive_field // 2
        assert distance(validation, test) > receptive_field // 2
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
    assert blocks._rate(untested) < blocks._rate(possible)
    validated = possible + np.array([0, 0, 100, 0, -100])
    assert blocks._rate(possible) < blocks._rate(validated)


def test_class_of_one_pixel_is_named_alone_with_what_to_paste(
    make_data: MakeData,
) -> None:
    codes = fields(64, 60, 3, 6)
    codes[20, 20] = 9
    with pytest.raises(SceneError) as refused:
        spatial(make_data(codes), 5, 0)
    assert str(refused.value) == (
        "One labelled pixel cannot both train and test a class: class 9. Label more of "
        "it, or leave it out: --set 'data.exclude=[\"class 9\"]'."
    )


@pytest.mark.parametrize("size", [(1, 2), (2, 2), (3, 7), (9, 9), (30, 4)])
@pytest.mark.parametrize("receptive_field", [5, 13, 25])
def test_class_in_one_place_is_cut_there_and_others_keep_their_buffer(
    make_data: MakeData, size: tuple[int, int], receptive_field: int
) -> None:
    codes = fields(150, 140, 3, 10, 1)
    codes[60 : 60 + size[0], 70 : 70 + size[1]] = 9
    data = spatial(make_data(codes), receptive_field, 3)
    check_partition(data)
    counts = data.pixels_by_role()
    assert counts[:, Role.TRAIN].all()
    assert counts[:, Role.TEST].all()
    halo = receptive_field // 2
    assert split.seen_in_training(data, halo)[0] == 0
    (scene,) = data.scenes
    others = np.where(scene.classes == 3, Role.NONE, scene.roles)
    assert distance(others == Role.TRAIN, others == Role.TEST) >= receptive_field
    caveats = " ".join(split.caveats(data, halo))
    cut = distance(
        (scene.roles == Role.TRAIN) & (scene.classes == 3),
        (scene.roles == Role.TEST) & (scene.classes == 3),
    )
    assert ("Labels of class 9 lie in one place" in caveats) == (cut <= halo)


def test_training_windows_do_not_show_the_held_out_pixels_of_a_cut_class(
    make_data: MakeData,
) -> None:
    codes = fields(80, 90, 3, 10, 1)
    codes[40:44, 40:44] = 9
    bands, r = 4, 13
    data = make_data(codes, cubes=[np.ones((bands, 80, 90), dtype=np.float32)])
    data = spatial(data, r, 0)
    (scene,) = data.scenes
    held_out = np.isin(scene.roles, (Role.TEST, Role.VALIDATION))
    scene.cube[:, held_out] = 1000
    windows = Windows(data.scenes, r // 2, np.zeros(bands))
    for corner in windows.training_pixels():
        assert windows.cut(corner, 1)[0].max() == 1


@pytest.mark.parametrize("receptive_field", [5, 13, 25])
def test_shares_stay_within_their_bounds_for_every_seed(
    make_data: MakeData, receptive_field: int
) -> None:
    # Long fields of very different size, two of them in one place only.
    codes = np.zeros((120, 120), dtype=int)
    for number, (row, col, rows, cols) in enumerate(
        [(0, 0, 50, 40), (0, 50, 30, 70), (60, 0, 60, 30), (60, 40, 25, 80),
         (90, 40, 30, 35), (90, 80, 6, 8), (40, 60, 12, 12), (110, 100, 10, 20),
         (40, 100, 15, 20)]
    ):  # fmt: skip
        codes[row : row + rows, col : col + cols] = [1, 2, 3, 1, 2, 4, 5, 3, 3][number]
    data = make_data(codes)
    for seed in range(8):
        counts = spatial(data, receptive_field, seed).pixels_by_role()
        assert counts[:, Role.TRAIN].all()
        assert counts[:, Role.TEST].all()
        shares = counts.sum(axis=0) / counts.sum()
        for role, (low, high) in blocks.BOUNDS.items():
            assert low <= shares[role] <= high


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    kind=st.sampled_from(KINDS),
    classes=st.integers(2, 12),
    receptive_field=st.sampled_from([9, 11, 19, 25]),
    seed=st.integers(0, 10**6),
)
def test_what_every_division_promises(
    make_data: MakeData, kind: str, classes: int, receptive_field: int, seed: int
) -> None:
    codes = label_map(kind, classes, seed)
    assume(len(np.unique(codes[codes > 0])) > 1)
    assume((codes > 0).sum() >= 60)  # a share of a few pixels is anything
    data = spatial(make_data(codes), receptive_field, seed)
    check_partition(data)
    counts, halo = data.pixels_by_role(), receptive_field // 2
    assert counts[:, [Role.TRAIN, Role.TEST]].all()
    assert split.seen_in_training(data, halo)[0] == 0
    shares = counts.sum(axis=0) / counts.sum()
    for role, (low, high) in blocks.BOUNDS.items():
        assert low <= shares[role] <= high
    unseen = [
        c.name
        for c, n in zip(data.classes, counts[:, Role.VALIDATION], strict=True)
        if n == 0
    ]
    message = f"No validation pixel of {', '.join(unseen)}: "
    told = any(m.startswith(message) for m in split.caveats(data, halo))
    assert told == bool(unseen)


def test_a_receptive_field_too_large_for_the_ground_hides_test_pixels(
    make_data: MakeData,
) -> None:
    codes = label_map("one place", classes=4, seed=0)
    receptive_field = 25
    data = spatial(make_data(codes), receptive_field, 0)
    (told,) = data.warnings
    assert told.startswith("One receptive field (25 px) between training and test")
    (roles,) = roles_of(data)
    assert distance(roles == Role.TRAIN, roles == Role.TEST) < receptive_field
    assert split.seen_in_training(data, receptive_field // 2)[0] == 0
    assert spatial(make_data(codes), 5, 0).warnings == []


def test_validation_is_cut_from_training_pixels_of_a_class_without_any(
    make_data: MakeData,
) -> None:
    codes = fields(150, 140, 3, 10, 1)
    codes[10:20, 10:16] = 9
    codes[120:130, 120:126] = 9  # two places: one trains, one tests
    data = spatial(make_data(codes), 13, 0)
    trained, validated, tested = (
        (data.scenes[0].roles == role) & (data.scenes[0].classes == 3)
        for role in (Role.TRAIN, Role.VALIDATION, Role.TEST)
    )
    assert validated.sum() == 12
    assert trained.sum() == 45
    assert tested.sum() == 60
    assert distance(trained, validated) <= 2
    told = " ".join(split.caveats(data, 6))
    assert "Validation pixels of class 9 are neighbours of training pixels" in told
    assert "in one place" not in told

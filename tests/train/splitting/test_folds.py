from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from label_maps import KINDS, check_partition, fields, label_map, roles_of

from hsi_runtime.errors import SceneError
from hsi_train.data.labelled_scene import UNLABELLED, LabelledData
from hsi_train.data.roles import Role
from hsi_train.splitting import folds, split

MakeData = Callable[..., LabelledData]


def times_tested(divided: list[LabelledData]) -> np.ndarray:
    """How many folds test each pixel of the first scene."""
    tested = np.stack([roles_of(one)[0] == Role.TEST for one in divided])
    counts: np.ndarray = tested.sum(axis=0)
    return counts


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    kind=st.sampled_from(KINDS),
    count=st.integers(2, 5),
    receptive_field=st.sampled_from([9, 11, 19]),
    seed=st.integers(0, 10**6),
)
@example(kind="polygons", count=4, receptive_field=11, seed=273)  # all others validate
def test_every_pixel_is_tested_once_and_never_seen(
    make_data: MakeData, kind: str, count: int, receptive_field: int, seed: int
) -> None:
    codes = label_map(kind, 5, seed)
    assume(len(np.unique(codes[codes > 0])) > 1)
    data = make_data(codes)
    try:
        divided = folds.spatial(data, receptive_field, count, seed)
    except SceneError:
        assume(False)
    assert len(divided) == count
    halo = receptive_field // 2
    for one in divided:
        check_partition(one)
        counts = one.pixels_by_role()
        assert counts[:, Role.TEST].any()
        assert counts[:, Role.TRAIN].all()
        assert split.seen_in_training(one, halo)[0] == 0
    times = times_tested(divided)
    classes = data.scenes[0].classes
    for index in range(len(data.classes)):
        of_class = times[classes == index]
        assert (of_class == 1).all() or (of_class == 0).all()
    untested = [
        c.name for k, c in enumerate(data.classes) if not times[classes == k].any()
    ]
    message = f"Labels of {', '.join(untested)} lie in one block: every fold trains on"
    assert any(w.startswith(message) for w in divided[0].warnings) == bool(untested)
    again = folds.spatial(data, receptive_field, count, seed)
    for a, b in zip(divided, again, strict=True):
        np.testing.assert_array_equal(roles_of(a)[0], roles_of(b)[0])


def test_class_in_one_block_trains_in_every_fold(make_data: MakeData) -> None:
    codes = fields(120, 120, 3, 10, 1)
    codes[50:56, 50:56] = 9
    divided = folds.spatial(make_data(codes), 11, 4, 0)
    for one in divided:
        counts = one.pixels_by_role()[3]
        assert counts[Role.TRAIN] + counts[Role.VALIDATION] > 0
        assert counts[Role.TEST] == 0
        assert any("class 9 lie in one block" in w for w in one.warnings)


def test_folds_are_of_similar_size_and_train_on_most(make_data: MakeData) -> None:
    data = make_data(fields(150, 150, 4, 8, 1))
    divided = folds.spatial(data, 11, 5, 3)
    counts = np.stack([one.pixels_by_role().sum(axis=0) for one in divided])
    shares = counts / counts[0].sum()
    assert shares[:, Role.TEST].min() > 0.15
    assert shares[:, Role.TEST].max() < 0.25
    assert shares[:, Role.TRAIN].min() > folds.MIN_TRAIN
    assert (shares[:, Role.VALIDATION] > 0.03).all()


def test_too_few_places_for_the_folds(make_data: MakeData) -> None:
    codes = np.zeros((40, 40), dtype=int)
    codes[4:8, 4:8], codes[4:8, 8:12] = 1, 2
    with pytest.raises(SceneError, match=r"fewer than 5 blocks of 11 px, so that 5"):
        folds.spatial(make_data(codes), 11, 5, 0)


def test_all_labels_train(make_data: MakeData) -> None:
    data = split.all_train(make_data(fields(30, 30, 3, 6)))
    (scene,) = data.scenes
    np.testing.assert_array_equal(
        scene.roles, np.where(scene.classes == UNLABELLED, Role.NONE, Role.TRAIN)
    )

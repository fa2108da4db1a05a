import contextlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hsi_runtime.errors import SceneError
from hsi_train.data.labelled_scene import LabelledData, Spectra
from hsi_train.data.roles import Role
from hsi_train.splitting import objects

MakeData = Callable[..., LabelledData]


def spectra(
    make_data: MakeData, classes: list[int], groups: list[int] | None = None
) -> LabelledData:
    data = make_data(np.array(classes)[:, None])
    own = np.arange(len(classes)) if groups is None else np.array(groups)
    names = [str(n) for n in range(len(classes))]
    return replace(data, spectra=Spectra(names, own, groups is not None))


def of_test(data: LabelledData) -> list[int]:
    counts: list[int] = data.pixels_by_role()[:, Role.TEST].tolist()
    return counts


def test_a_third_of_each_class_tests(make_data: MakeData) -> None:
    data = objects.held_out(spectra(make_data, [1] * 12 + [2] * 6 + [0] * 3), seed=0)
    assert of_test(data) == [4, 2]
    assert data.pixels_by_role()[:, Role.TRAIN].tolist() == [8, 4]


def test_another_seed_tests_others(make_data: MakeData) -> None:
    data = spectra(make_data, [1] * 12 + [2] * 12)
    one, same, other = (objects.held_out(data, seed).scenes[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.roles, same.roles)
    assert (one.roles != other.roles).any()


def test_small_classes_train_with_all_and_are_named(make_data: MakeData) -> None:
    data = objects.held_out(spectra(make_data, [1] * 9 + [2] * 3), seed=0)
    assert of_test(data) == [3, 0]
    told = "\n".join(objects.caveats(data))
    assert "train and are not tested: class 2 (3)" in told
    assert "--group-field" in told


def test_all_train_where_every_class_is_small(make_data: MakeData) -> None:
    data = objects.held_out(spectra(make_data, [1, 2, 2, 3, 3, 3]), seed=0)
    assert of_test(data) == [0, 0, 0]
    (told,) = objects.caveats(data)
    assert "all spectra train and no accuracy is measured" in told


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 9)), min_size=2, max_size=60
    ),
    count=st.integers(2, 5),
    seed=st.integers(0, 5),
)
def test_objects_are_never_parted_and_classes_are_learned(
    make_data: MakeData, pairs: list[tuple[int, int]], count: int, seed: int
) -> None:
    groups = np.array([group for _, group in pairs])
    data = spectra(make_data, [kind for kind, _ in pairs], groups.tolist())
    divided = [objects.held_out(data, seed)]
    with contextlib.suppress(SceneError):  # too few objects
        divided += objects.cross_validated(data, count, seed)
    for one in divided:
        roles = one.scenes[0].roles[:, 0]
        assert all(len(set(roles[groups == group])) == 1 for group in groups)
        assert one.pixels_by_role()[:, Role.TRAIN].all()
    folds = [one.scenes[0].roles == Role.TEST for one in divided[1:]]
    assert np.max(np.sum(folds, axis=0)) <= 1  # none is tested twice


def test_folds_test_every_object_once(make_data: MakeData) -> None:
    data = spectra(make_data, [1] * 7 + [2] * 5 + [3])
    divided = objects.cross_validated(data, 3, seed=0)
    total = sum((one.scenes[0].roles == Role.TEST).astype(int) for one in divided)
    assert np.ravel(total).tolist() == [1] * 12 + [0]
    sizes = np.array([of_test(one) for one in divided])
    assert (np.ptp(sizes, axis=0) <= 1).all()
    with pytest.raises(SceneError, match="fill 4 of 5 folds"):
        objects.cross_validated(spectra(make_data, [1, 1, 2, 2]), 5, seed=0)

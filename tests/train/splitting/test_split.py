from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from label_maps import check_partition, fields, roles_of

from hsi_runtime.errors import SceneError
from hsi_train.data import loading
from hsi_train.data.labelled_scene import UNLABELLED, LabelledData
from hsi_train.data.roles import Role
from hsi_train.splitting import split

MakeData = Callable[..., LabelledData]
WriteTif = Callable[..., Path]

# A fixture that only builds values may be shared by the examples of one test.
quick = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


labelled_maps = arrays(
    np.int64,
    st.tuples(st.integers(3, 12), st.integers(3, 12)),
    elements=st.integers(0, 4),
)


@quick
@given(
    maps=st.lists(labelled_maps, min_size=1, max_size=3),
    samples=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_per_class_draws_exactly_so_many(
    make_data: MakeData, maps: list[np.ndarray], samples: int, seed: int
) -> None:
    data = make_data(*maps, bands=1)
    if not data.classes or min(data.counts()) <= samples:
        return
    drawn = split.per_class(data, samples, seed)
    check_partition(drawn)
    counts = drawn.pixels_by_role()
    assert (counts[:, Role.TRAIN] == samples).all()
    assert (counts[:, Role.TEST] == np.array(data.counts()) - samples).all()
    again = split.per_class(data, samples, seed)
    for one, two in zip(roles_of(drawn), roles_of(again), strict=True):
        np.testing.assert_array_equal(one, two)


@quick
@given(maps=st.lists(labelled_maps, min_size=1, max_size=2), share=st.floats(0.05, 0.6))
def test_fraction_draws_its_share_of_each_class(
    make_data: MakeData, maps: list[np.ndarray], share: float
) -> None:
    data = make_data(*maps, bands=1)
    if not data.classes or min(data.counts()) < 3:
        return
    drawn = split.fraction(data, share, 0)
    check_partition(drawn)
    counts = drawn.pixels_by_role()[:, Role.TRAIN]
    for count, total in zip(counts, data.counts(), strict=True):
        assert count == max(1, round(share * total))


@quick
@given(codes=labelled_maps, seed=st.integers(0, 99), dropped=st.integers(1, 4))
def test_another_class_more_or_less_leaves_a_draw_as_it_is(
    make_data: MakeData, codes: np.ndarray, seed: int, dropped: int
) -> None:
    data = make_data(codes, bands=1)
    if not data.classes or min(data.counts()) <= 2:
        return
    (whole,) = roles_of(split.per_class(data, 2, seed))
    fewer_classes = make_data(codes * (codes != dropped), bands=1)
    (fewer,) = roles_of(split.per_class(fewer_classes, 2, seed))
    kept = (codes != dropped) & (codes > 0)
    np.testing.assert_array_equal(whole[kept], fewer[kept])


def test_seed_changes_the_draw(make_data: MakeData) -> None:
    data = make_data(fields(30, 30, 3, 5))
    one, two = (roles_of(split.per_class(data, 10, s))[0] for s in (0, 1))
    assert not np.array_equal(one, two)


def test_pixels_of_all_scenes_have_the_same_chance(make_data: MakeData) -> None:
    codes = np.ones((10, 10), dtype=int)
    codes[:, 5:] = 2
    data = split.per_class(make_data(codes, codes), 30, 0)
    drawn = [int((s.roles == Role.TRAIN).sum()) for s in data.scenes]
    assert sum(drawn) == 60
    assert min(drawn) > 15


@pytest.mark.parametrize("samples", [3, 4, 50])
def test_too_few_pixels_for_the_draw(make_data: MakeData, samples: int) -> None:
    codes = np.ones((10, 10), dtype=int)
    codes[0, :3] = 2
    with pytest.raises(SceneError, match=r"class 2 has 3.*at most 2"):
        split.per_class(make_data(codes), samples, 0)


def test_class_of_one_pixel_is_to_be_merged_or_dropped(make_data: MakeData) -> None:
    codes = np.ones((10, 10), dtype=int)
    codes[0, 0] = 2
    with pytest.raises(SceneError, match=r"class 2 has 1") as caught:
        split.per_class(make_data(codes), 5, 0)
    assert "at most 0" not in str(caught.value)
    assert "drop" in str(caught.value)
    with pytest.raises(
        SceneError, match=r"class 2: 1 train, 0 validation, 0 test of 1"
    ):
        split.fraction(make_data(codes), 0.5, 0)


def test_fraction_that_leaves_nothing_to_test(make_data: MakeData) -> None:
    codes = np.ones((10, 10), dtype=int)
    codes[0, :3] = 2
    with pytest.raises(SceneError, match=r"class 2: 3 train.*smaller --train-fraction"):
        split.fraction(make_data(codes), 0.9, 0)


def test_split_from_a_file(
    make_data: MakeData, tmp_path: Path, write_tif: WriteTif
) -> None:
    codes = fields(12, 14, 2, 3)
    roles = np.random.default_rng(0).integers(0, 5, codes.shape).astype(np.uint8)
    data = make_data(codes)
    path = write_tif(tmp_path / "split.tif", roles)
    (found,) = roles_of(split.from_files(data, [str(path)]))
    np.testing.assert_array_equal(found, np.where(codes > 0, roles, 0))


def test_split_file_of_the_whole_scene_is_cropped_like_the_labels(
    tmp_path: Path, write_tif: WriteTif
) -> None:

    codes = np.zeros((30, 30), dtype=np.uint8)
    codes[10:14, 12:18] = 1
    codes[14:18, 12:18] = 2
    roles = np.random.default_rng(0).integers(1, 4, codes.shape).astype(np.uint8)
    scene = write_tif(tmp_path / "s.tif", np.ones((2, 30, 30), dtype=np.int16))
    labels = write_tif(tmp_path / "l.tif", codes)
    data = loading.load([str(scene)], [str(labels)], 2)
    (found,) = roles_of(
        split.from_files(data, [str(write_tif(tmp_path / "r.tif", roles))])
    )
    np.testing.assert_array_equal(found[2:-2, 2:-2], roles[10:18, 12:18])
    assert not found[:2].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r, c: np.where(r == 1, 7, r),
            r"holds 7; a split has 0 unused, 1 train",
        ),
        (lambda r, c: np.where(r == 3, 2, r), r"no labelled pixel is test"),
        (
            lambda r, c: np.where(c == 2, 3, r),
            r"class 2: 0 train.*training pixels \(1\)",
        ),
        (lambda r, c: r[:-1], r"11 x 14 pixels.*12 x 14"),
        (lambda r, c: r.astype("int16") - 1, r"from -1"),
    ],
)
def test_split_files_that_do_not_fit(
    make_data: MakeData,
    tmp_path: Path,
    write_tif: WriteTif,
    change: Callable[[Any, Any], Any],
    message: str,
) -> None:
    codes = fields(12, 14, 2, 3)
    roles = np.random.default_rng(0).integers(0, 4, codes.shape).astype(np.uint8)
    path = write_tif(tmp_path / "split.tif", change(roles, codes))
    with pytest.raises(SceneError, match=message):
        split.from_files(make_data(codes), [str(path)])


def test_one_split_file_for_each_scene(make_data: MakeData) -> None:
    codes = fields(12, 14, 2, 3)
    with pytest.raises(SceneError, match=r"1 split raster\(s\) for 2 scene"):
        split.from_files(make_data(codes, codes), ["one.tif"])


@pytest.mark.parametrize("mode", ["file", "test-labels"])
def test_a_scene_without_labels_takes_its_raster_with_it(
    tmp_path: Path, write_tif: WriteTif, mode: str
) -> None:

    codes = np.repeat(fields(12, 12, 2, 3)[None], 3, axis=0).astype(np.uint8)
    codes[1] = 0
    first = np.zeros((12, 12), bool)
    first[:, :6] = True
    cube = np.ones((2, 12, 12), dtype=np.int16)

    def write(kind: str, values: Any) -> list[str]:
        return [
            str(write_tif(tmp_path / f"{kind}{n}.tif", v, origin=(5e5 + 99 * n, 6e6)))
            for n, v in enumerate(values)
        ]

    scenes = write("s", [cube] * 3)
    if mode == "file":
        roles = np.where(codes > 0, np.where(first, 1, 3), 0).astype(np.uint8)
        data = loading.load(scenes, write("l", codes), 1)
        files = write("r", roles)
        again = split.from_files(data, [files[0], files[2]])  # as a run writes them
        data = split.from_files(data, files)
        np.testing.assert_array_equal(roles_of(data), roles_of(again))
    else:
        train, test = (write(k, codes * m) for k, m in (("a", first), ("b", ~first)))
        data = loading.load(scenes, train, 1, test_label_paths=test)
        data = split.from_test_labels(data, test)
    assert data.labelled == [True, False, True]
    assert len(data.scenes) == 2
    for scene in data.scenes:
        left = np.arange(scene.roles.shape[1]) + scene.col < 6
        known = scene.classes != UNLABELLED
        np.testing.assert_array_equal(scene.roles, known * np.where(left, 1, 3))


def test_a_probability_sample_lacks_no_label(
    make_data: MakeData, tmp_path: Path, write_tif: WriteTif
) -> None:
    """Where the scene has no data there is no map, so no sample either."""
    codes = np.ones((8, 8), dtype=int)
    codes[4:] = 2
    codes[0, :3] = 0
    roles = np.full((8, 8), Role.TEST, dtype=np.uint8)
    roles[:, :2] = Role.TRAIN
    path = [str(write_tif(tmp_path / "r.tif", roles))]
    with pytest.raises(SceneError, match=r"1 of the 48 pixels.*have no label"):
        split.from_files(make_data(codes), path, sampled=True)
    (found,) = roles_of(split.from_files(make_data(codes), path))
    assert (found == Role.TEST).sum() == 47
    valid = np.ones((8, 8), bool)
    valid[0, 2] = False
    split.from_files(make_data(codes, valid=valid), path, sampled=True)


def test_class_that_a_file_does_not_test_is_reported(
    make_data: MakeData, tmp_path: Path, write_tif: WriteTif
) -> None:
    codes = fields(30, 30, 2, 3)
    roles = np.where(codes == 2, 1, np.indices(codes.shape)[0] // 15 * 2 + 1)
    data = make_data(codes)
    path = write_tif(tmp_path / "split.tif", roles.astype(np.uint8))
    said = split.caveats(split.from_files(data, [str(path)]), 0)
    assert said == ["No test pixel of class 2: it is not in the averages."]


@pytest.mark.parametrize("halo", [0, 1, 6])
def test_seen_in_training_against_brute_force(make_data: MakeData, halo: int) -> None:
    data = make_data(fields(30, 25, 2, 4, 1), fields(20, 30, 2, 4, 2))
    data = split.per_class(data, 5, 0)
    seen = total = 0
    for roles in roles_of(data):
        train = np.argwhere(roles == Role.TRAIN)
        for pixel in np.argwhere(roles == Role.TEST):
            total += 1
            near = np.abs(train - pixel).max(axis=1) if len(train) else np.array([99])
            seen += bool((near <= halo).any())
    assert split.seen_in_training(data, halo) == (seen, total)
    said = split.caveats(data, halo)
    assert bool(said) == (seen > 0)
    if said:
        assert f"{seen} of {total} test pixels" in said[0]
        assert "--split disjoint" in said[0]


@pytest.mark.parametrize(("trained", "tested"), [(5, 10), (4, 10), (5, 9), (1, 1)])
def test_tiny_classes_are_named(make_data: MakeData, trained: int, tested: int) -> None:
    codes = np.ones((3, 60), dtype=int)
    codes[1] = 2
    roles = np.full(codes.shape, Role.TEST, dtype=np.uint8)
    roles[0, :30] = Role.TRAIN
    roles[1] = Role.NONE
    roles[1, :trained] = Role.TRAIN
    roles[1, 60 - tested :] = Role.TEST
    said = " ".join(split.caveats(make_data(codes).divided([roles]), 0))
    assert (f"training pixels: class 2 ({trained})" in said) == (trained < 5)
    assert (f"test pixels: class 2 ({tested})" in said) == (tested < 10)
    assert "class 1" not in said


def test_published_split_of_indian_pines_is_reproduced(
    make_data: MakeData, data_dir: Path, tmp_path: Path, write_tif: WriteTif
) -> None:
    with np.load(data_dir / "gt_and_splits.npz") as published:
        codes = published["indian_pines_gt"].astype(int)
        train, test = published["indian_gcn_tr"], published["indian_gcn_te"]
    order = [2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16, 1, 7, 9]
    roles = np.where(train > 0, Role.TRAIN, np.where(test > 0, Role.TEST, 0))
    path = write_tif(tmp_path / "split.tif", roles.astype(np.uint8))
    data = make_data(codes, bands=1)
    (found,) = roles_of(split.from_files(data, [str(path)]))
    known = codes > 0
    np.testing.assert_array_equal(found == Role.TRAIN, (train > 0) & known)
    np.testing.assert_array_equal(found == Role.TEST, (test > 0) & known)
    # 695 + 9671 pixels were published; 256 of them have no label in the usual map.
    assert int((roles > 0).sum()) == 695 + 9671
    assert int((found > 0).sum()) == 695 + 9671 - 256
    published_codes = np.array([0, *order])[np.where(train > 0, train, test)]
    agree = published_codes[found > 0] == codes[found > 0]
    assert agree.mean() > 0.99

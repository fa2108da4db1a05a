from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting import windows as patches
from hsi_train.fitting.statistics import describe_problem
from hsi_train.fitting.windows import Windows
from hsi_train.method import IGNORED, Batch, Corner, Problem
from hsi_train.splitting import split

MakeData = Callable[..., LabelledData]

HALO = 3


def half_labelled(make_data: MakeData) -> LabelledData:
    rng = np.random.default_rng(1)
    codes = [rng.integers(0, 3, shape) for shape in ((17, 23), (9, 12))]
    return split.per_class(make_data(*codes), 12, 0)


def windows_of(data: LabelledData, halo: int = HALO) -> Windows:
    trained = [s.cube[:, s.roles == Role.TRAIN] for s in data.scenes]
    fill = np.concatenate(trained, axis=1).mean(axis=1, dtype=np.float64)
    return Windows(data.scenes, halo, fill)


@pytest.mark.parametrize("outputs", [1, 4, 40])
def test_cut_equals_reflected_padding(make_data: MakeData, outputs: int) -> None:
    codes = np.random.default_rng(0).integers(1, 3, (17, 23))
    data = make_data(codes)
    data = data.divided([np.full(codes.shape, Role.TRAIN, dtype=np.uint8)])
    windows = windows_of(data)
    cube = data.scenes[0].cube
    reach = (HALO + outputs, HALO + outputs)
    padded = np.pad(cube, ((0, 0), reach, reach), mode="reflect")
    for row, col in ((0, 0), (16, 22), (5, 9), (1 - outputs, 2), (12, 1 - outputs)):
        found, classes = windows.cut(Corner(0, row, col), outputs)
        side = outputs + 2 * HALO
        top, left = row - HALO + sum(reach) // 2, col - HALO + sum(reach) // 2
        expected = padded[:, top : top + side, left : left + side]
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.float32
        bounds = np.full((17 + 2 * outputs, 23 + 2 * outputs), IGNORED)
        bounds[outputs:-outputs, outputs:-outputs] = data.scenes[0].classes
        want = bounds[
            row + outputs : row + 2 * outputs, col + outputs : col + 2 * outputs
        ]
        np.testing.assert_array_equal(classes, want)


def test_missing_values_are_filled_with_the_mean(make_data: MakeData) -> None:
    valid = np.ones((11, 11), dtype=bool)
    valid[4, 6] = False
    data = make_data(np.indices((11, 11)).sum(0) % 2 + 1, valid=valid)
    data.scenes[0].cube[:, 4, 6] = np.nan
    data = split.per_class(data, 20, 0)
    problem = describe_problem(data)
    assert problem.band_mean.isfinite().all()
    windows = windows_of(data)
    cube, _ = windows.cut(Corner(0, 4, 6), 1)
    np.testing.assert_array_equal(
        cube[:, HALO, HALO], problem.band_mean.float().numpy()
    )
    assert np.isfinite(cube).all()


def test_statistics_are_those_of_the_training_pixels(make_data: MakeData) -> None:
    data = half_labelled(make_data)
    pixels = np.concatenate(
        [s.cube[:, s.roles == Role.TRAIN] for s in data.scenes],
        axis=1,
    ).astype(np.float64)
    problem = describe_problem(data)
    np.testing.assert_allclose(problem.band_mean, pixels.mean(axis=1))
    np.testing.assert_allclose(problem.band_std, pixels.std(axis=1))


@pytest.mark.parametrize("value", [0, 5000, 0.1, 1e-9, -123.456])
def test_constant_band_has_a_deviation_of_one(
    make_data: MakeData, value: float
) -> None:
    codes = np.indices((10, 13)).sum(0) % 2 + 1
    cube = np.random.default_rng(0).normal(100, 5, (3, 10, 13))
    cube[1] = value
    data = make_data(codes, bands=3, cubes=[cube])
    for samples in (7, 11, 13):
        problem = describe_problem(split.per_class(data, samples, 0))
        assert problem.band_std[1] == 1
        assert problem.band_std[0] != 1


@pytest.mark.parametrize("outputs", [1, 6])
def test_other_pixels_have_no_influence(make_data: MakeData, outputs: int) -> None:
    data = half_labelled(make_data)
    clean = windows_of(data)
    poisoned = []
    for scene in data.scenes:
        near = np.zeros(scene.roles.shape, dtype=bool)
        for row, col in np.argwhere(scene.roles == Role.TRAIN):
            near[
                max(row - HALO, 0) : row + HALO + 1, max(col - HALO, 0) : col + HALO + 1
            ] = True
        cube = np.where(near, scene.cube, np.float32(1e9))
        poisoned.append(replace(scene, cube=cube))
    everywhere = replace(data, scenes=poisoned)
    np.testing.assert_array_equal(
        describe_problem(everywhere).fill,
        describe_problem(data).fill,
    )
    dirty = windows_of(everywhere)
    places = clean.training_pixels() if outputs == 1 else clean.grid(outputs, None)
    assert len(places) > 3
    for place in places:
        for one, two in zip(
            clean.cut(place, outputs), dirty.cut(place, outputs), strict=True
        ):
            np.testing.assert_array_equal(one, two)


def test_statistics_ignore_the_context_too(make_data: MakeData) -> None:
    data = half_labelled(make_data)
    before = describe_problem(data)
    for scene in data.scenes:
        scene.cube[:, scene.roles != Role.TRAIN] = 1e9
    after = describe_problem(data)
    np.testing.assert_array_equal(before.band_mean, after.band_mean)
    np.testing.assert_array_equal(before.band_std, after.band_std)


def test_targets_are_training_pixels_only(make_data: MakeData) -> None:
    data = half_labelled(make_data)
    windows = windows_of(data)
    for scene, target in zip(data.scenes, windows.targets, strict=True):
        train = scene.roles == Role.TRAIN
        np.testing.assert_array_equal(target[train], scene.classes[train])
        assert (target[~train] == IGNORED).all()
    assert len(windows.training_pixels()) == 24


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(outputs=st.integers(2, 30), seed=st.none() | st.integers(0, 10_000))
def test_grid_holds_each_training_pixel_once(
    make_data: MakeData, outputs: int, seed: int | None
) -> None:
    data = half_labelled(make_data)
    windows = windows_of(data)
    seen = [np.zeros(s.roles.shape, dtype=int) for s in data.scenes]
    rng = None if seed is None else np.random.default_rng(seed)
    for place in windows.grid(outputs, rng):
        _, classes = windows.cut(place, outputs)
        assert (classes != IGNORED).any()
        for row, col in np.argwhere(classes != IGNORED):
            seen[place.scene][place.row + row, place.col + col] += 1
    for count, scene in zip(seen, data.scenes, strict=True):
        np.testing.assert_array_equal(count, scene.roles == Role.TRAIN)


def test_window_of_outputs_holds_the_patches_of_its_pixels(
    make_data: MakeData,
) -> None:
    data = half_labelled(make_data)
    windows = windows_of(data)
    for place in windows.grid(8, np.random.default_rng(2)):
        cube, classes = windows.cut(place, 8)
        for row, col in np.argwhere(classes != IGNORED):
            patch, one = windows.cut(
                Corner(place.scene, place.row + int(row), place.col + int(col)), 1
            )
            assert one[0, 0] == classes[row, col]
            side = 2 * HALO + 1
            np.testing.assert_array_equal(
                patch, cube[:, row : row + side, col : col + side]
            )


@pytest.mark.parametrize("role", [Role.TEST, Role.VALIDATION])
def test_unlabelled_windows_show_nothing_of_tested_patches(
    make_data: MakeData, role: Role
) -> None:
    codes = np.random.default_rng(0).integers(0, 3, (30, 40))
    roles = np.full(codes.shape, Role.NONE, dtype=np.uint8)
    roles[:, 30:] = role
    roles[5, 5:8] = Role.TRAIN
    valid = np.ones(codes.shape, bool)
    valid[20, 10] = False
    data = make_data(codes, valid=valid).divided([roles])
    outputs = 8

    def cut() -> list[tuple[np.ndarray, np.ndarray]]:
        windows = windows_of(data)
        return list(windows.unlabelled(outputs, 99, np.random.default_rng(0)))

    before = cut()
    # Columns from 27 on lie in patches of tested pixels; patches of 24 on reach them.
    data.scenes[0].cube[:, :, 30 - HALO :] += 1
    after = cut()
    whole = sum(known.sum() for _, known in before)
    assert whole == 30 * (30 - 2 * HALO) - (2 * HALO + 1) ** 2
    assert len(before) == 4 * 3  # windows of 8 x 8 that hold such a patch
    for (cube, known), (other, same) in zip(before, after, strict=True):
        np.testing.assert_array_equal(cube, other)
        np.testing.assert_array_equal(known, same)
        assert cube.shape[1:] == (outputs + 2 * HALO, outputs + 2 * HALO)
    few = windows_of(data).unlabelled(outputs, 5, np.random.default_rng(0))
    assert len(list(few)) == 5
    roles[:, ::3] = role
    assert cut() == []


def test_unlabelled_windows_show_nothing_that_an_overlapping_scene_tests(
    make_data: MakeData,
) -> None:
    shape, shift = (20, 30), 10  # columns that the second scene lies to the right
    data = make_data(*np.random.default_rng(0).integers(0, 3, (2, *shape)))
    crs = CRS.from_epsg(32633).to_wkt()
    scenes = [
        replace(scene, info=replace(scene.info, transform=(x, 1, 0, 9, 0, -1), crs=crs))
        for scene, x in zip(data.scenes, (0, shift), strict=True)
    ]
    data = replace(data, scenes=scenes)
    roles = [scene.roles for scene in scenes]
    roles[0][:, 20:] = Role.TEST
    roles[1][:, 25] = Role.TRAIN
    roles[1][4, 25] = Role.VALIDATION

    def cut() -> list[np.ndarray]:
        windows = windows_of(data)
        found = windows.unlabelled(8, 99, np.random.default_rng(0))
        return [cube for cube, _ in found]

    before = cut()
    tested = slice(20 - shift - HALO, 30 - shift + HALO)  # columns of the second
    data.scenes[1].cube[:, :, tested] += 1
    for one, other in zip(before, cut(), strict=True):
        np.testing.assert_array_equal(one, other)
    data.scenes[1].cube[:, :, : tested.start] += 1
    assert any((one != other).any() for one, other in zip(before, cut(), strict=True))


@settings(max_examples=40, deadline=None)
@given(count=st.integers(2, 200), size=st.integers(2, 60), seed=st.integers(0, 99))
def test_shuffled_yields_each_place_once_in_even_steps(
    count: int, size: int, seed: int
) -> None:
    steps = list(
        patches.shuffled(list(range(count)), size, np.random.default_rng(seed))
    )
    assert sorted(place for step in steps for place in step) == list(range(count))
    assert len(steps) == -(-count // size)
    lengths = {len(s) for s in steps}
    assert max(lengths) <= size
    # A step of one patch has no batch statistics.
    assert max(lengths) - min(lengths) <= 1


def framed(outputs: int) -> Batch:
    """Windows whose centre pixels tell their class in every band."""
    classes = torch.arange(6 * outputs**2).reshape(6, outputs, outputs)
    cube = torch.nn.functional.pad(classes.float(), (2, 2, 2, 2), value=-7.0)
    return Batch(cube[:, None].repeat(1, 3, 1, 1), classes)


def units(mean: list[float], std: list[float]) -> Problem:
    """A problem of two classes of which only the bands' units matter."""
    bands = torch.tensor(mean), torch.tensor(std)
    return Problem(
        band_mean=bands[0],
        band_std=bands[1],
        class_counts=torch.ones(2),
        class_means=bands[0].repeat(2, 1),
        top=bands[0].max(),
    )


UNIT = units([0.0] * 3, [1.0] * 3)


def test_augmentation_turns_cube_and_classes_together() -> None:
    batch = framed(4)
    generator = torch.Generator().manual_seed(0)
    turns = set()
    for _ in range(20):
        out = patches.augment(batch, UNIT, 0.0, 0.0, generator)
        assert torch.equal(out.cube[:, 0, 2:-2, 2:-2].long(), out.classes)
        assert torch.equal(out.cube[:, 0], out.cube[:, 2])
        for before, after in zip(batch.classes, out.classes, strict=True):
            assert torch.equal(before.flatten().sort()[0], after.flatten().sort()[0])
            turns.add(tuple((after - before.min()).flatten().tolist()))
    assert len(turns) == 8  # every element of D4


def test_augmentation_leaves_its_input_alone() -> None:
    batch = framed(3)
    cube, classes = batch.cube.clone(), batch.classes.clone()
    patches.augment(batch, UNIT, 0.2, 0.1, torch.Generator().manual_seed(0))
    assert torch.equal(batch.cube, cube)
    assert torch.equal(batch.classes, classes)


def test_augmentation_is_determined_by_its_generator() -> None:
    one, two, other = (
        patches.augment(framed(3), UNIT, 0.2, 0.1, torch.Generator().manual_seed(s))
        for s in (4, 4, 5)
    )
    assert torch.equal(one.cube, two.cube)
    assert torch.equal(one.classes, two.classes)
    assert not torch.equal(one.cube, other.cube)


def test_gain_and_noise_are_in_units_of_a_band() -> None:
    stats = units([100.0, 1000.0], [1.0, 50.0])
    mean = torch.tensor([100.0, 1000.0])[:, None, None]
    std = torch.tensor([1.0, 50.0])[:, None, None]
    flat = Batch(
        (mean + 2 * std).expand(64, 2, 20, 20).clone(),
        torch.zeros(64, 20, 20, dtype=torch.int64),
    )
    generator = torch.Generator().manual_seed(0)
    gained = (patches.augment(flat, stats, 0.1, 0.0, generator).cube - mean) / std / 2
    assert torch.allclose(gained[:, 0], gained[:, 1], atol=1e-3)
    assert 0.9 - 1e-3 <= gained.min() < 0.92
    assert 1.08 < gained.max() <= 1.1 + 1e-3
    noisy = (patches.augment(flat, stats, 0.0, 0.04, generator).cube - mean) / std - 2
    for band in range(2):
        assert float(noisy[:, band].std()) == pytest.approx(0.04, rel=0.05)


def test_hidden_pixels_are_the_mean_of_every_band() -> None:
    stats = units([100.0, 1000.0], [1.0, 50.0])
    cube = torch.full((64, 2, 20, 20), 7.0)
    windows = Batch(cube, torch.zeros(64, 20, 20, dtype=torch.int64))
    generator = torch.Generator().manual_seed(0)
    out = patches.augment(windows, stats, 0.0, 0.0, generator, masked=0.3).cube
    hidden = out[:, 0] == 100
    assert torch.equal(hidden, out[:, 1] == 1000)
    assert torch.allclose(out[:, 0][~hidden], torch.tensor(7.0))
    assert float(hidden.float().mean()) == pytest.approx(0.3, abs=0.01)

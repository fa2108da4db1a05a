from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from labelled import labelled_data, labelled_scene

from hsi_runtime.errors import SceneError
from hsi_train.data.labelled_scene import UNLABELLED, LabelledScene
from hsi_train.fitting.statistics import (
    check_differ,
    check_extremes,
    dark_labels,
    extreme_pixels,
    units_apart,
)

EVERY = np.ones((9, 11), dtype=bool)


def cube_of(scale: float = 0.3, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(0).uniform(0, scale, (4, 9, 11)).astype(dtype)


@pytest.mark.parametrize("value", [1e30, 3e38, 9.96921e36, -3.4e38, 1e7])
@pytest.mark.parametrize("band", [0, 3])
def test_one_wild_value_is_named(value: float, band: int) -> None:
    cube = cube_of()
    cube[band, 4, 5] = value
    message = rf"a\.tif holds 1 pixel.* in used band {band + 1}, .*nodata"
    with pytest.raises(SceneError, match=message):
        check_extremes("a.tif", cube, EVERY)
    valid = EVERY.copy()
    valid[4, 5] = False
    check_extremes("a.tif", cube, valid)


def scene_of(name: str, cube: Any, labelled: int = 99) -> LabelledScene:
    classes = np.where(np.arange(99) < labelled, 0, UNLABELLED).astype(np.int16)
    scene = labelled_scene(classes.reshape(9, 11), name=name)
    return replace(scene, cube=cube)


@pytest.mark.parametrize("dark", [2, 17, 40])
def test_labels_where_the_scene_is_zero_are_told(dark: int) -> None:
    cube = cube_of()
    cube.reshape(4, 99)[:, :dark] = 0
    told = dark_labels(labelled_data(1, scene_of("a.tif", cube, 50)))
    if dark == 2:
        assert told == []
        return
    assert told[0].startswith(f"{dark} of 50 labelled pixels of a.tif are 0 in all")
    assert dark_labels(labelled_data(1, scene_of("a.tif", cube_of()))) == []


def test_values_too_large_to_compute_with_are_refused() -> None:
    cube = cube_of() * np.float32(1e36)
    with pytest.raises(SceneError, match=r"values such as .*e\+35, too large"):
        check_extremes("a.tif", cube, EVERY)
    check_extremes("a.tif", cube, ~EVERY)
    check_extremes("a.tif", cube_of() * np.float32(1e20), EVERY)


@pytest.mark.parametrize("factor", [100, 1e4, 0.01])
def test_scenes_in_other_units_are_told(factor: float) -> None:
    first, second = cube_of(), cube_of() * np.float32(factor)
    second[:, 5:] = 0.3  # unlabelled, and no reason to be silent
    data = labelled_data(1, scene_of("a.tif", first), scene_of("b.tif", second, 44))
    (told,) = units_apart(data)
    low, high = ("a.tif", "b.tif") if factor > 1 else ("b.tif", "a.tif")
    assert f"Labelled values of {low} are usually " in told
    assert f"those of {high} " in told
    assert "units seem to differ" in told


def test_scenes_in_one_unit_are_not() -> None:
    scenes = [scene_of("a.tif", cube_of()), scene_of("b.tif", cube_of() * 10)]
    assert units_apart(labelled_data(1, *scenes)) == []
    scenes[1] = scene_of("b.tif", cube_of() * 0)
    assert units_apart(labelled_data(1, *scenes)) == []
    assert units_apart(labelled_data(1, scenes[1])) == []


def test_pixels_that_are_all_alike_teach_nothing() -> None:
    flat = cube_of() * 0 + 7
    same = labelled_data(1, scene_of("a.tif", flat), scene_of("b.tif", flat))
    with pytest.raises(SceneError, match="All labelled pixels have the same values"):
        check_differ(same)
    flat[2, 8, 10] = 8
    check_differ(labelled_data(1, scene_of("a.tif", flat)))
    with pytest.raises(SceneError, match="All labelled pixels have the same values"):
        check_differ(labelled_data(1, scene_of("a.tif", flat, 98)))


def test_usual_scenes_pass() -> None:
    assert not check_extremes("a.tif", cube_of(), EVERY)
    assert not check_extremes("a.tif", cube_of(2e5, np.int32), EVERY)
    assert not check_extremes("a.tif", np.full((4, 9, 11), 65534, np.uint16), EVERY)
    assert not check_extremes("a.tif", np.zeros((4, 9, 11), np.float32), EVERY)
    assert not check_extremes("a.tif", cube_of(), ~EVERY)


def test_a_wild_value_in_a_scene_that_is_mostly_zero_is_named() -> None:
    cube = cube_of()
    cube[:, :, :8] = 0
    cube[2, 4, 9] = 1e30
    with pytest.raises(SceneError, match=r"1 pixel.* 1e\+30 in used band 3"):
        check_extremes("a.tif", cube, EVERY)


def test_values_that_may_be_an_undeclared_fill_are_told() -> None:
    cube = cube_of()
    cube[:, :2, :2] = -9999
    (told,) = check_extremes("a.tif", cube, EVERY)
    assert "4 pixel(s) with values such as -9999" in told
    assert "declare them as nodata" in told


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32"])
@pytest.mark.parametrize("fill", [-9999, -999, -32768])
def test_whole_spectra_of_a_fill_value_are_told(fill: int, dtype: str) -> None:
    cube = cube_of(9000, dtype)
    cube[:, :2, :2] = fill
    cube[0, 5, 5] = fill
    (message,) = check_extremes("a.tif", cube, EVERY)
    assert f"4 pixel(s) whose whole spectrum is {fill}, a fill value" in message
    valid = EVERY.copy()
    valid[:2, :2] = False
    assert not check_extremes("a.tif", cube, valid)


def test_pixels_that_would_be_refused() -> None:
    cube, wild = cube_of(), ~EVERY
    cube[1, 3, 4], cube[0, 5, 6], cube[2, 7, 8] = 1e30, -1e20, 2.0
    wild[3, 4] = wild[5, 6] = True
    np.testing.assert_array_equal(extreme_pixels(cube, EVERY), wild)
    assert not extreme_pixels(cube, ~EVERY).any()


def test_bands_of_very_different_size_pass() -> None:
    """Such as principal components, or bands that are zero nearly everywhere."""
    cube = cube_of() * np.array([1e6, 1, 1e-4, 0], np.float32)[:, None, None]
    cube[3, 0, 0] = 5.0
    check_extremes("a.tif", cube - cube.mean(axis=(1, 2), keepdims=True), EVERY)

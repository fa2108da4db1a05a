"""Frames that a camera lost become nodata lines, in a batch and live."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camera import Camera, tall_cube
from hypothesis import given
from hypothesis import strategies as st

from hsi_runtime.camera.frames import FrameCounter, FramedScene
from hsi_runtime.camera.opening import open_camera_scene
from hsi_runtime.errors import OptionError, SceneError
from hsi_runtime.follow.sources.ring import RingShape, RingWriter
from hsi_runtime.request import Options
from hsi_runtime.scenes.array_scene import ArrayScene
from hsi_runtime.scenes.geotiff import open_tiff

LOST = [0, 17, 18, 19, 60, 99]


def cube_with_numbers(rows: int, first: int = 1) -> Any:
    cube = tall_cube(rows)
    cube[1, :, 4] = (np.arange(rows) + first) % 2**16
    return cube


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(0, 65535))
def test_steps_are_counted_across_the_wrap(steps: list[int], start: int) -> None:
    counter = FrameCounter(ArrayScene(tall_cube(9)).info, (0, 0))
    counter.lost(start)
    for step in steps:
        start += step + 1
        assert counter.lost(start % 2**16) == step


def test_a_counter_that_begins_anew_is_no_gap() -> None:
    counter = FrameCounter(ArrayScene(tall_cube(9)).info, (0, 0))
    assert [counter.lost(n) for n in (40_000, 0, 1, 1, 5)] == [0, 0, 0, 0, 3]


def test_a_scene_with_its_gaps() -> None:
    whole = cube_with_numbers(100)
    kept = np.delete(whole, LOST, axis=1)
    scene = FramedScene(ArrayScene(kept), (4, 1))
    assert scene.info.rows == 98  # the first and the last one are nobody's gap
    expected = whole[:, 1:99].copy()
    expected[:, [row - 1 for row in LOST if 1 <= row < 99]] = 65535
    bands = np.arange(4)
    for rows in ((0, 98), (15, 22), (16, 18), (17, 18), (30, 31), (50, 98)):
        made = scene.read(rows, (2, 20), bands)
        assert (made == expected[:, slice(*rows), 2:20]).all()
    assert scene.lost == 4


@pytest.mark.parametrize("kind", ["measurements", "constant", "twice", "backwards"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
def test_numbers_that_do_not_count_are_refused(
    kind: str, dtype: str, tmp_path: Path
) -> None:
    """Each would put thousands of lines into the map, or none where some were lost."""
    cube = tall_cube(60).astype(dtype)
    cube[1, :, 3] = {
        "measurements": np.random.default_rng(0).integers(40, 250, 60),
        "constant": np.full(60, 7),
        "twice": np.repeat(np.arange(30), 2),
        "backwards": np.arange(60)[::-1],
    }[kind]
    Camera(tmp_path, cube).finish()
    with pytest.raises(SceneError, match=r"Column 3 and band 1 of flight\.bil hold"):
        open_camera_scene(tmp_path / "flight.bil", frame_counter=(3, 1))


def test_lost_lines_are_said_and_a_counter_may_begin_anew(tmp_path: Path) -> None:
    cube = tall_cube(60)
    cube[1, :, 3] = np.r_[5:25, 27:37, 0:30]
    Camera(tmp_path, cube).finish()
    scene = open_camera_scene(tmp_path / "flight.bil", frame_counter=(3, 1))
    scene.close()
    assert scene.info.rows == 62
    assert scene.info.notes[-1] == (
        "2 lines were lost by the frame counter; they are nodata."
    )


def test_bytes_get_room_for_nodata() -> None:
    cube = (cube_with_numbers(20) % 256).astype(np.uint8)
    scene = FramedScene(ArrayScene(np.delete(cube, 5, axis=1)), (4, 1))
    assert scene.info.dtype == np.uint16
    assert (scene.read((5, 6), (0, 31), np.arange(4)) == 65535).all()


def test_follow_gives_the_bytes_of_a_batch_run(
    tmp_path: Path,
    start_following: Callable[..., Any],
    assert_as_batch: Callable[..., None],
) -> None:
    kept = np.delete(cube_with_numbers(150, 65500), LOST, axis=1)
    camera = Camera(tmp_path, kept)
    follower = start_following(frame_counter=(4, 1))
    camera.write(60)
    follower.wait_for_row(50)
    camera.finish()
    result = follower.result()
    assert result["rows"] == 149
    assert result["follow"]["dropped_lines"] == 5
    assert follower.events[-2]["dropped"] == 5
    assert_as_batch(frame_counter=(4, 1))
    with open_tiff(tmp_path / "live.tif") as raster:
        codes = raster.read(1)
    rows = [row - 1 for row in LOST[1:]]
    assert (codes[rows] == 255).all()
    others = np.delete(codes, 4, axis=1)  # a number of 65535 is a saturated pixel
    assert (np.delete(others, rows, axis=0) != 255).all()


def test_a_header_may_say_where_the_number_is(
    tmp_path: Path,
    start_following: Callable[..., Any],
    assert_as_batch: Callable[..., None],
) -> None:
    """A batch run reads it, too, or the map of the flight is another one."""
    kept = np.delete(cube_with_numbers(100), 50, axis=1)
    Camera(tmp_path, kept, frame_counter="{4, 1}").finish()
    assert start_following().result()["rows"] == 100
    assert_as_batch()


def test_a_final_header_with_another_counter(
    tmp_path: Path, start_following: Callable[..., Any]
) -> None:
    camera = Camera(tmp_path, np.delete(cube_with_numbers(100), 50, axis=1))
    follower = start_following()
    camera.write(99)
    follower.wait_for_row(40)
    camera.header(99, frame_counter="{4, 1}")
    with pytest.raises(SceneError, match="rewritten with another frame counter"):
        follower.result()


@pytest.mark.parametrize("rows", [40, 150])
@pytest.mark.parametrize("scene", ["flight.bil", "flight.fifo"])
def test_numbers_that_do_not_count_are_refused_while_they_come(
    scene: str, rows: int, tmp_path: Path, start_following: Callable[..., Any]
) -> None:
    """They made a map of as many lines as a measurement happened to leap over."""
    camera = Camera(tmp_path, tall_cube(rows))
    if scene == "flight.bil":
        camera.finish()
        follower = start_following(frame_counter=(4, 1))
    else:
        camera.path.unlink()
        os.mkfifo(tmp_path / scene)
        follower = start_following(scene, frame_counter=(4, 1))
        with contextlib.suppress(BrokenPipeError):
            (tmp_path / scene).write_bytes(camera.bytes_of(slice(None)))
    with pytest.raises(SceneError, match=r"Column 4 and band 1 of flight.* hold no"):
        follower.result()
    assert not (tmp_path / "live.tif").exists()


def test_lines_that_a_ring_lost_are_not_counted_twice(
    tmp_path: Path, start_following: Callable[..., Any]
) -> None:
    """Their numbers are missing, too: each became two lines of the map."""
    cube = cube_with_numbers(60)
    Camera(tmp_path, cube).path.unlink()
    shape = RingShape(31, 4, 12, "bil", 64)
    with RingWriter(tmp_path / "flight.ring", shape) as ring:
        for row in [row for row in range(60) if row not in (30, 31)]:
            ring.write(cube[:, row].tobytes())
        for damaged in (10, 11, 32):
            ring._map[4096 + damaged * shape.slot_bytes + 40] ^= 1
    result = start_following("flight.ring", frame_counter=(4, 1)).result()
    assert result["rows"] == 60
    assert result["follow"]["dropped_lines"] == 5


@pytest.mark.parametrize("place", [(31, 0), (0, 4)])
def test_a_place_outside(place: tuple[int, int]) -> None:
    with pytest.raises(SceneError, match="has 31 columns and 4 bands"):
        FramedScene(ArrayScene(tall_cube(9)), place)


def test_no_whole_numbers() -> None:
    with pytest.raises(SceneError, match="a whole number, not float32"):
        FramedScene(ArrayScene(tall_cube(9).astype(np.float32)), (0, 0))


@pytest.mark.parametrize("value", [(1,), (-1, 0), "a", (1.5, 2)])
def test_option_out_of_range(value: Any) -> None:
    with pytest.raises(OptionError):
        Options(frame_counter=value)


def test_the_final_header_counts_lines_not_frames(
    tmp_path: Path,
    start_following: Callable[..., Any],
    assert_as_batch: Callable[..., None],
) -> None:
    kept = np.delete(cube_with_numbers(150), LOST, axis=1)
    camera = Camera(tmp_path, kept)
    follower = start_following(frame_counter=(4, 1))
    camera.write(kept.shape[1])
    follower.wait_for_row(140)
    camera.header(100)
    follower.stop.set()
    result = follower.result()
    assert result["rows"] == 105  # the hundredth line has the number of 105 frames
    assert result["follow"]["dropped_lines"] == 5
    assert_as_batch(frame_counter=(4, 1))

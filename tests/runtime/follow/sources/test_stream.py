"""Lines that come once: stdin, FIFOs and rings give the map of the same lines."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camera import Camera, tall_cube
from numpy.typing import NDArray

from hsi_runtime.cli import main
from hsi_runtime.errors import OptionError, OutputError, SceneError
from hsi_runtime.follow.sources.ring import (
    NUMBER,
    WRITTEN_AT,
    RingReader,
    RingShape,
    RingWriter,
)
from hsi_runtime.follow.sources.stream import PipeFeed
from hsi_runtime.follow_options.options import Following
from hsi_runtime.scenes.geotiff import open_tiff

ROWS, COLS = 90, 31
SHAPE = RingShape(COLS, 4, 12, "bil", 512)


def batch_map(folder: Path, cube: NDArray[Any], invoke: Any) -> NDArray[Any]:
    """Classify lines as a file."""
    place = folder / "batch"
    place.mkdir()
    Camera(place, cube).finish()
    given = ["-m", folder / "model.onnx", "-o", place / "b.tif"]
    assert invoke(main, place / "flight.bil", *given).code == 0
    with open_tiff(place / "b.tif") as raster:
        return np.asarray(raster.read(1))


@pytest.fixture
def place(tmp_path: Path, write_model: Callable[..., Path]) -> Path:
    write_model(tmp_path / "model.onnx")
    return tmp_path


def header_of(folder: Path, **fields: Any) -> Path:
    camera = Camera(folder, tall_cube(1), **fields)
    camera.path.unlink()
    return camera.header_path


@pytest.mark.parametrize("described", ["header", "options"])
def test_stdin(place: Path, invoke: Any, described: str) -> None:
    cube = tall_cube(ROWS)
    given = ["--header", str(header_of(place))]
    if described == "options":
        given = ["--shape", "31,4", "--dtype", "uint16", "--interleave", "bil"]
    script = "from hsi_runtime.cli import main; main()"
    done = subprocess.run(
        [
            *(sys.executable, "-c", script, "-", "--follow", *given),
            *("-m", "model.onnx", "-o", "o.tif"),
        ],
        cwd=place,
        input=cube.transpose(1, 0, 2).tobytes(),
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    with open_tiff(place / "o.tif") as raster:
        assert (raster.read(1) == batch_map(place, cube, invoke)).all()
        assert raster.tags()["HSI_SCENE"] == "stdin"
        assert len(raster.tags()["HSI_SCENE_SHA256"]) == 64
    assert not list(place.glob("*.hsi-*"))


def test_a_fifo_with_its_header(
    place: Path, invoke: Any, start_following: Callable[..., Any]
) -> None:
    cube = tall_cube(ROWS)
    header_of(place)
    os.mkfifo(place / "flight.fifo")
    follower = start_following("flight.fifo", probabilities=True)
    with (place / "flight.fifo").open("wb", buffering=0) as pipe:
        data = cube.transpose(1, 0, 2).tobytes()
        half = 40 * COLS * 8 + 99
        pipe.write(data[:half])
        follower.wait_for_row(30)
        pipe.write(data[half:])
    assert follower.result()["rows"] == ROWS
    with open_tiff(place / "live.tif") as raster:
        assert (raster.read(1) == batch_map(place, cube, invoke)).all()
        assert raster.transform.c == 400000


def piped(place: Path, start_following: Callable[..., Any], data: bytes) -> Any:
    """Follow a pipe into which all these bytes go; return the follower."""
    header_of(place)
    os.mkfifo(place / "flight.fifo")
    follower = start_following("flight.fifo")
    with (place / "flight.fifo").open("wb", buffering=0) as pipe:
        pipe.write(data)
    return follower


def test_a_pipe_that_ends_within_a_line(
    place: Path, start_following: Callable[..., Any]
) -> None:
    follower = piped(place, start_following, b"12345" * COLS)
    with pytest.raises(SceneError, match="ends within a line: 155 of 248 bytes"):
        follower.result()


def test_whole_lines_before_a_torn_one_are_kept(
    place: Path, invoke: Any, start_following: Callable[..., Any]
) -> None:
    """They come once, and were given up for the one behind them."""
    cube = tall_cube(60)
    follower = piped(place, start_following, cube.transpose(1, 0, 2).tobytes() + b"123")
    with pytest.raises(SceneError, match="publishes the lines before"):
        follower.result()
    assert start_following("flight.fifo").result()["rows"] == 60
    with open_tiff(place / "live.tif") as raster:
        assert (raster.read(1) == batch_map(place, cube, invoke)).all()


def test_lines_of_another_type_do_not_follow_those_of_the_first(
    place: Path, start_following: Callable[..., Any]
) -> None:
    """A header that is corrected between two runs left both kinds in one map."""
    follower = piped(
        place, start_following, tall_cube(60).transpose(1, 0, 2).tobytes() + b"123"
    )
    with pytest.raises(SceneError):
        follower.result()
    header_of(place, interleave="bip")
    with pytest.raises(OutputError, match="with another header"):
        start_following("flight.fifo").result()


def test_closed_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SceneError, match="stdin is closed"):
        PipeFeed(Path("-"), 248)


def test_an_idle_pipe_ends(place: Path, start_following: Callable[..., Any]) -> None:
    header_of(place)
    os.mkfifo(place / "flight.fifo")
    follower = start_following("flight.fifo", follow=Following(idle_s=0.3))
    with (place / "flight.fifo").open("wb", buffering=0) as pipe:
        pipe.write(tall_cube(20).transpose(1, 0, 2).tobytes())
        assert follower.result()["rows"] == 20


def ring_of(folder: Path, shape: RingShape = SHAPE) -> RingWriter:
    return RingWriter(folder / "ring", shape)


def test_a_ring(place: Path, invoke: Any, start_following: Callable[..., Any]) -> None:
    cube = tall_cube(ROWS)
    header_of(place).rename(place / "ring.hdr")
    with ring_of(place) as ring:
        follower = start_following("ring")
        for row in range(ROWS):
            ring.write(cube[:, row].tobytes())
    assert follower.result()["rows"] == ROWS
    with open_tiff(place / "live.tif") as raster:
        assert (raster.read(1) == batch_map(place, cube, invoke)).all()


def test_lines_that_a_ring_lost_are_nodata_and_counted(
    place: Path, invoke: Any, start_following: Callable[..., Any]
) -> None:
    """A damaged line is none: its CRC does not fit."""
    cube = tall_cube(ROWS)
    header_of(place).rename(place / "ring.hdr")
    with ring_of(place) as ring:
        for row in range(ROWS):
            ring.write(cube[:, row].tobytes())
        with (place / "ring").open("r+b") as file:
            file.seek(4096 + 50 * SHAPE.slot_bytes + 32 + 7)
            file.write(b"\xff\xfe")
        follower = start_following("ring")
        follower.wait_for_row(60)
    result = follower.result()
    assert result["follow"]["dropped_lines"] == 1
    assert result["pixels"]["nodata"] == COLS
    cube[:, 50] = 65535
    with open_tiff(place / "live.tif") as raster:
        codes = raster.read(1)
    assert (codes[50] == 255).all()
    assert (codes == batch_map(place, cube, invoke)).all()


def test_a_stream_goes_on_after_a_kill(
    place: Path, invoke: Any, start_following: Callable[..., Any]
) -> None:
    """Lines that were not classified are lost; the map of the others is kept."""
    cube = tall_cube(ROWS)
    header_of(place).rename(place / "ring.hdr")
    with ring_of(place) as ring:
        follower = start_following("ring")
        for row in range(60):
            ring.write(cube[:, row].tobytes())
        follower.wait_for_row(40)
        shutil.copytree(place / "live.tif.hsi-live", place / "left")
    follower.result()
    for path in place.glob("live*"):
        path.unlink()
    (place / "left").rename(place / "live.tif.hsi-live")
    journal = (place / "live.tif.hsi-live" / "journal.jsonl").read_text()
    kept = json.loads(journal.splitlines()[-1])["rows"][1]
    with ring_of(place) as ring:
        for row in range(60, ROWS):
            ring.write(cube[:, row].tobytes())
        follower = start_following("ring")
    result = follower.result()
    assert 40 <= kept < 60
    assert result["rows"] == kept + ROWS - 60
    with open_tiff(place / "live.tif") as raster:
        codes = raster.read(1)
    whole = batch_map(place, cube, invoke)
    assert (codes[:kept] == whole[:kept]).all()
    assert (codes[kept + 2 :] == whole[62:]).all()  # but where context was lost


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({}, "shape"),
        ({"shape": (31, 4)}, "dtype"),
        ({"shape": (31, 4), "dtype": "uint16"}, "interleave"),
    ],
)
def test_lines_must_be_described(
    place: Path, start_following: Callable[..., Any], given: Any, option: str
) -> None:
    os.mkfifo(place / "f")
    with pytest.raises(OptionError, match="are not known") as error:
        start_following("f", follow=Following(**given)).result()
    assert error.value.option == option


@pytest.mark.parametrize(
    "given",
    [
        {"shape": (0, 4)},
        {"dtype": "complex64"},
        {"interleave": "bsq"},
    ],
)
def test_descriptions_out_of_range(given: Any) -> None:
    with pytest.raises(OptionError):
        Following(**given)


def test_header_and_options_must_agree(
    place: Path, start_following: Callable[..., Any]
) -> None:
    header_of(place)
    os.mkfifo(place / "flight.fifo")
    follower = start_following("flight.fifo", follow=Following(shape=(30, 4)))
    with pytest.raises(SceneError, match="says that samples is 31, the options say 30"):
        follower.result()


def test_a_file_has_its_own_header(
    place: Path, start_following: Callable[..., Any]
) -> None:
    Camera(place, tall_cube(9)).finish()
    with pytest.raises(OptionError, match="a file has its header"):
        start_following(follow=Following(shape=(31, 4))).result()


def test_stdin_needs_an_output(invoke: Any) -> None:
    code, _, err = invoke(main, "-", "--follow")
    assert code == 2
    assert "give -o" in err


def test_a_writer_waits_for_a_slow_engine(
    place: Path, start_following: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe's lines are never lost: its writer blocks while too many wait."""
    monkeypatch.setattr("hsi_runtime.follow.sources.stream.KEPT_BYTES", 1)
    monkeypatch.setattr("hsi_runtime.follow.sources.stream.LEAST_LINES", 160)
    cube = tall_cube(400)
    header_of(place)
    os.mkfifo(place / "flight.fifo")
    follower = start_following("flight.fifo")
    with (place / "flight.fifo").open("wb", buffering=0) as pipe:
        data = memoryview(cube.transpose(1, 0, 2).tobytes())
        while data:
            data = data[pipe.write(data) :]
    assert follower.result()["rows"] == 400
    assert follower.result()["follow"]["dropped_lines"] == 0


def test_threads_end_with_the_flight(
    place: Path, start_following: Callable[..., Any]
) -> None:
    header_of(place)
    os.mkfifo(place / "flight.fifo")
    follower = start_following("flight.fifo", follow=Following(idle_s=0.05))
    with pytest.raises(SceneError, match="no line yet"):
        follower.result()
    assert not [t for t in threading.enumerate() if t.name == "stream"]


def test_a_ring_that_is_begun_anew(
    place: Path, invoke: Any, start_following: Callable[..., Any]
) -> None:
    """The follower was killed, or took lines of the second flight for the first's."""
    header_of(place).rename(place / "ring.hdr")
    cube = tall_cube(ROWS)
    with ring_of(place) as ring:
        follower = start_following("ring")
        for row in range(60):
            ring.write(cube[:, row].tobytes())
        follower.wait_for_row(30)
        with ring_of(place) as second:
            second.write(cube[:, 60].tobytes())
            with pytest.raises(SceneError, match="begun anew while it was followed"):
                follower.result()
    assert (place / "live.tif.hsi-live").is_dir()


def test_a_ring_that_another_program_cleared(tmp_path: Path) -> None:
    with ring_of(tmp_path) as ring:
        reader = RingReader(tmp_path / "ring")
        ring.write(bytes(SHAPE.line_bytes))
        assert reader.read() is not None
        assert not reader.begun_anew
        (tmp_path / "ring").rename(tmp_path / "moved")
        assert not reader.begun_anew
        NUMBER.pack_into(ring._map, WRITTEN_AT, 0)
        assert reader.begun_anew
        reader.close()

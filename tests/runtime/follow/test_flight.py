import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import rasterio
from camera import Camera, tall_cube

from hsi_runtime import pipeline
from hsi_runtime.api import classify
from hsi_runtime.engines.onnxruntime_cpu import OnnxruntimeCpu
from hsi_runtime.errors import OptionError, OutputError, SceneError
from hsi_runtime.follow import flight
from hsi_runtime.follow_options.options import Alert, Following
from hsi_runtime.model.model_file import ModelDocument, ModelFile
from hsi_runtime.model.training import Training
from hsi_runtime.request import Options
from hsi_runtime.walk.windows import Window

ROWS = 150


@pytest.mark.parametrize("interleave", ["bil", "bip"])
@pytest.mark.parametrize("promised", [0, ROWS, ROWS + 1000])
def test_ends_in_the_bytes_of_a_batch_run(
    tmp_path: Path,
    start_following: Callable[..., Any],
    assert_as_batch: Callable[..., None],
    interleave: str,
    promised: int,
) -> None:
    camera = Camera(tmp_path, tall_cube(ROWS), interleave, promised)
    camera.write(10, part=0.5)
    options = {"confidence": True, "probabilities": True, "reject_below": 0.4}
    follower = start_following(**options)
    camera.write(50, part=0.3)
    follower.wait_for_row(40)
    camera.write(50)
    follower.wait_for_row(90)
    camera.finish()
    result = follower.result()
    assert (result["rows"], result["cols"]) == (ROWS, 31)
    assert result["resumed_windows"] == 0
    assert result["seconds"]["infer"] == 0  # nothing was computed twice
    assert_as_batch(**options)


def test_a_flight_tells_how_far_it_was_from_training(
    tmp_path: Path,
    document: ModelDocument,
    write_model: Callable[..., Path],
) -> None:
    """Of the lines that were classified in flight; nothing was left to compute."""
    training = Training(mean=[4000.0] * 4, deviation=[2000.0] * 4, known=None)
    known = msgspec.structs.replace(document, training=training)
    path = write_model(tmp_path / "known.onnx", known)
    Camera(tmp_path, tall_cube(ROWS)).finish()
    scene = tmp_path / "flight.bil"
    plain = classify(scene, path, tmp_path / "plain.tif")["training_distance"]
    result = classify(scene, path, tmp_path / "l.tif", follow=Following(idle_s=1.0))
    assert result["seconds"]["infer"] == 0
    flown = result["training_distance"]
    assert flown["pixels"] >= 16
    assert flown["median_shift"] == pytest.approx(plain["median_shift"], abs=0.3)


def test_every_line_is_told_once_and_in_order(
    tmp_path: Path, start_following: Callable[..., Any]
) -> None:
    camera = Camera(tmp_path, tall_cube(ROWS))
    follower = start_following()
    camera.write(70)
    follower.wait_for_row(60)
    camera.finish()
    result = follower.result()
    blocks = [e for e in follower.events if e["event"] == "classified"]
    edges = [0, *(e["rows"][1] for e in blocks)]
    assert [e["rows"][0] for e in blocks] == edges[:-1]
    assert edges[-1] == ROWS
    told = np.sum([list(e["classes"].values()) for e in blocks], axis=0)
    assert told.tolist() == [c["pixels"] for c in result["classes"]]
    assert all(e["lag_ms"] >= 0 and e["lag_lines"] >= 0 for e in blocks)
    assert follower.events[-1]["event"] == "end"
    assert result["follow"]["blocks"] == len(blocks)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 9])
def test_few_lines(
    tmp_path: Path,
    start_following: Callable[..., Any],
    assert_as_batch: Callable[..., None],
    rows: int,
) -> None:
    camera = Camera(tmp_path, tall_cube(rows))
    follower = start_following()
    camera.finish()
    assert follower.result()["rows"] == rows
    assert_as_batch()


def test_a_camera_that_is_ready_but_does_not_write_yet(
    tmp_path: Path,
    start_following: Callable[..., Any],
    assert_as_batch: Callable[..., None],
) -> None:
    """Header and empty file are there for longer than a complete file is quiet."""
    camera = Camera(tmp_path, tall_cube(ROWS))
    follower = start_following()
    time.sleep(0.5)  # more than SETTLE_S of tests
    assert not follower.stop.is_set()
    camera.finish()
    assert follower.result()["rows"] == ROWS
    assert_as_batch()


def test_the_final_header_counts(
    tmp_path: Path,
    start_following: Callable[..., Any],
    assert_as_batch: Callable[..., None],
) -> None:
    """Lines beyond those of the final header are left out, as in a batch run."""
    camera = Camera(tmp_path, tall_cube(ROWS))
    follower = start_following()
    camera.write(ROWS)
    follower.wait_for_row(ROWS - 2)
    camera.header(ROWS - 20)
    follower.stop.set()
    assert follower.result()["rows"] == ROWS - 20
    assert_as_batch()


def test_values_that_are_no_measurement_are_nodata_as_in_a_batch(
    tmp_path: Path,
    document: ModelDocument,
    write_model: Callable[..., Path],
) -> None:
    """Nothing declares them; what the model has seen of its values tells."""
    values = msgspec.structs.replace(
        document.values, dtype="float32", scale=None, offset=None
    )
    document = msgspec.structs.replace(document, values=values)
    model = write_model(tmp_path / "model.onnx", document)
    cube = tall_cube(ROWS).astype(np.float32)
    cube[:, 40:60, 5:9] = 1e15
    Camera(tmp_path, cube, reflectance_scale_factor=None).finish()
    scene = tmp_path / "flight.bil"
    result = classify(scene, model, tmp_path / "batch.tif")
    assert result["pixels"]["nodata"] == 80
    live = tmp_path / "live.tif"
    result = classify(scene, model, live, follow=Following(idle_s=1.0))
    assert result["seconds"]["infer"] == 0
    assert live.read_bytes() == (tmp_path / "batch.tif").read_bytes()


def test_a_header_that_changes_what_values_mean(
    tmp_path: Path,
    start_following: Callable[..., Any],
    assert_as_batch: Callable[..., None],
) -> None:
    """The live map was of other values: all is computed again, as the end has it."""
    camera = Camera(tmp_path, tall_cube(ROWS))
    follower = start_following()
    camera.write(60)
    follower.wait_for_row(40)
    camera.fields["reflectance_scale_factor"] = 9000
    camera.finish()
    assert follower.result()["seconds"]["infer"] > 0
    assert_as_batch()


def test_a_place_that_comes_with_the_final_header(
    tmp_path: Path,
    start_following: Callable[..., Any],
    assert_as_batch: Callable[..., None],
) -> None:
    camera = Camera(tmp_path, tall_cube(ROWS), map_info=None)
    follower = start_following()
    camera.write(60)
    follower.wait_for_row(40)
    camera.fields["map_info"] = "{UTM, 1, 1, 1000, 2000, 2, 2, 33, North, WGS-84}"
    camera.finish()
    assert follower.result()["seconds"]["infer"] == 0
    assert_as_batch()
    with rasterio.open(tmp_path / "live.tif") as raster:
        assert raster.transform.c == 1000


class Rounding(OnnxruntimeCpu):
    """A FAKE of an engine whose last bits depend on the window."""

    def predict(self, cube: Any, outputs: Any = ("probabilities",)) -> Any:
        answer = super().predict(cube, outputs)
        shift = np.float32(1e-5 * (cube.shape[2] % 7))
        return {name: values + shift for name, values in answer.items()}


def test_an_inexact_engine_is_found_out(
    tmp_path: Path,
    start_following: Callable[..., Any],
    assert_as_batch: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("hsi_runtime.engines.onnxruntime_cpu.OnnxruntimeCpu", Rounding)
    camera = Camera(tmp_path, tall_cube(ROWS))
    follower = start_following(probabilities=True)
    camera.finish()
    assert follower.result()["seconds"]["infer"] > 0
    assert "rounds by the shape of its windows" in caplog.text
    assert_as_batch(probabilities=True)


def test_bsq_is_refused(tmp_path: Path, start_following: Callable[..., Any]) -> None:
    Camera(tmp_path, tall_cube(9), "bsq").finish()
    follower = start_following(follow=Following(idle_s=0.01))
    with pytest.raises(SceneError, match=r"band sequential \(bsq\)"):
        follower.result()


def test_no_line_at_all(tmp_path: Path, start_following: Callable[..., Any]) -> None:
    Camera(tmp_path, tall_cube(9))
    follower = start_following(follow=Following(idle_s=0.05))
    with pytest.raises(SceneError, match="has no line yet"):
        follower.result()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flight.bil", "flight.hdr"]


def test_no_header(tmp_path: Path, start_following: Callable[..., Any]) -> None:
    (tmp_path / "flight.bil").write_bytes(b"12345678")
    follower = start_following(follow=Following(idle_s=0.05))
    with pytest.raises(SceneError, match="no ENVI header beside it"):
        follower.result()


def test_files_may_come_later(
    tmp_path: Path,
    start_following: Callable[..., Any],
    assert_as_batch: Callable[..., None],
) -> None:
    follower = start_following(follow=Following(idle_s=5.0))
    Camera(tmp_path, tall_cube(ROWS)).finish()
    assert follower.result()["rows"] == ROWS
    assert_as_batch()


def test_stop_takes_what_is_there(
    tmp_path: Path,
    start_following: Callable[..., Any],
    assert_as_batch: Callable[..., None],
) -> None:
    camera = Camera(tmp_path, tall_cube(ROWS))
    follower = start_following()
    camera.write(80, part=0.5)
    follower.wait_for_row(60)
    follower.stop.set()
    assert follower.result()["rows"] == 80
    camera.header(80)
    with rasterio.open(tmp_path / "live.tif") as raster:
        live = raster.read(1)
    (tmp_path / "live.tif").unlink()
    follower = start_following(overwrite=True)
    follower.result()
    assert_as_batch()
    with rasterio.open(tmp_path / "live.tif") as raster:
        assert (raster.read(1) == live).all()


def truncated(camera: Camera) -> None:
    with camera.path.open("r+b") as file:
        file.truncate(7 * camera.line_bytes)


def replaced(camera: Camera) -> None:
    other = camera.path.with_suffix(".new")
    other.write_bytes(camera.bytes_of(slice(0, 100)))
    other.replace(camera.path)  # at no time is there no file


def another_layout(camera: Camera) -> None:
    camera.header(0, samples=30)


def begun_again(camera: Camera) -> None:
    """Overwrite the file from its first line on, without making it shorter."""
    with camera.path.open("r+b") as file:
        file.write(camera.cube[:, ::-1].transpose(1, 0, 2).tobytes()[: 60 * 31 * 8])
    camera.write(60)


def one_line_changed(camera: Camera) -> None:
    """Change a line within a block, then go on as if nothing had been."""
    with camera.path.open("r+b") as file:
        file.seek(21 * camera.line_bytes)
        file.write(bytes(range(8)))
    camera.finish()


def removed(camera: Camera) -> None:
    camera.path.unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (truncated, "shrank while it was followed: 80 lines were there, 7 are"),
        (replaced, "was replaced by another file"),
        (another_layout, "was rewritten with other samples"),
        (one_line_changed, "Line 21 of .* was rewritten after it was classified"),
        (begun_again, "was rewritten after it was classified"),
        (removed, "cannot be read any more"),
    ],
)
def test_lines_that_change_are_an_error(
    tmp_path: Path,
    start_following: Callable[..., Any],
    harm: Callable[[Camera], None],
    message: str,
) -> None:
    camera = Camera(tmp_path, tall_cube(ROWS))
    follower = start_following()
    camera.write(80)
    follower.wait_for_row(70)
    harm(camera)
    with pytest.raises(SceneError, match=message):
        follower.result()
    assert not (tmp_path / "live.tif").exists()
    assert (tmp_path / "live.tif.hsi-live").is_dir()


@pytest.mark.parametrize(
    ("promised", "part", "message"),
    [
        (200, 0.4, "promises 200 lines; the map has the 60 that came whole"),
        (40, 0.0, "has 20 lines more than its header promises; the map leaves them"),
    ],
)
def test_lines_that_the_header_counts_otherwise_are_told(
    promised: int,
    part: float,
    message: str,
    tmp_path: Path,
    start_following: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A camera that died in mid-flight left a short map, without a word."""
    camera = Camera(tmp_path, tall_cube(ROWS), lines=promised)
    camera.write(60, part)
    follower = start_following(follow=Following(idle_s=0.3))
    assert follower.result()["rows"] == min(promised, 60)
    assert message in caplog.text


def test_lines_that_come_after_the_end_are_told(
    tmp_path: Path,
    start_following: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    camera = Camera(tmp_path, tall_cube(ROWS), lines=60)
    camera.write(60)
    run = pipeline.run

    def late(*given: Any) -> Any:
        camera.write(10)
        return run(*given)

    monkeypatch.setattr(pipeline, "run", late)
    assert start_following().result()["rows"] == 60
    assert "grew after its end was found" in caplog.text


@pytest.mark.parametrize(
    "changed",
    [
        {"data_ignore_value": 700},
        {"byte_order": 1},
        {"wavelength": "{450,550,660,850}"},
    ],
)
def test_a_header_that_changes_between_two_runs(
    changed: dict[str, Any],
    tmp_path: Path,
    start_following: Callable[..., Any],
    assert_as_batch: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Lines from before a kill kept classes that the old header gave their bytes."""
    cube = tall_cube(ROWS)
    cube[:, 10:20, 5] = 700
    camera = Camera(tmp_path, cube)
    follower = start_following()
    camera.write(80)
    follower.wait_for_row(70)
    wait_for_state(tmp_path, 50 * camera.line_bytes)
    place = camera.path.rename(tmp_path / "kept")
    with pytest.raises(SceneError):
        follower.result()
    place.rename(camera.path)
    camera.fields |= changed
    camera.finish()
    start_following().result()
    assert "The scene has changed since the interrupted run" in caplog.text
    assert_as_batch()


def test_lines_rewritten_between_two_runs(
    tmp_path: Path, start_following: Callable[..., Any]
) -> None:
    """Whichever line it is: the whole file is hashed once more."""
    camera = Camera(tmp_path, tall_cube(ROWS))
    follower = start_following()
    camera.write(80)
    follower.wait_for_row(70)
    wait_for_state(tmp_path, 50 * camera.line_bytes)
    truncated_to = camera.path.read_bytes()
    camera.path.unlink()
    with pytest.raises(SceneError):
        follower.result()
    changed = bytearray(truncated_to)
    changed[30 * camera.line_bytes + 5] ^= 1
    camera.path.write_bytes(changed)
    with pytest.raises(SceneError, match="were rewritten after they were classified"):
        start_following().result()
    camera.path.write_bytes(truncated_to)
    camera.header(80)
    assert start_following().result()["rows"] == 80


def wait_for_state(folder: Path, size: int) -> None:
    """Wait until the hash of so many bytes is kept."""
    import json
    import time

    path = folder / "live.tif.hsi-live" / "classes.states.jsonl"
    for _ in range(6000):
        if path.is_file():
            lines = path.read_bytes().splitlines()
            if any(json.loads(line)["bytes"] >= size for line in lines):
                return
        time.sleep(0.01)
    raise AssertionError("no state")


def test_an_output_that_is_there_is_refused_first(
    tmp_path: Path, start_following: Callable[..., Any]
) -> None:
    Camera(tmp_path, tall_cube(9))
    (tmp_path / "live.tif").touch()
    with pytest.raises(OutputError, match="exists"):
        start_following().result()


def test_two_followers_of_one_output(
    tmp_path: Path, start_following: Callable[..., Any]
) -> None:
    camera = Camera(tmp_path, tall_cube(ROWS))
    first = start_following()
    camera.write(60)
    first.wait_for_row(40)
    with pytest.raises(OutputError, match="Another hsi-run is writing"):
        start_following().result()
    camera.finish()
    first.result()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"latency_s": 0}, "latency_s"),
        ({"latency_s": float("nan")}, "latency_s"),
        ({"idle_s": -1}, "idle_s"),
        ({"on_class": (Alert("a", 2),)}, "on_class"),
        ({"command": ("true",)}, "command"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], name: str) -> None:
    with pytest.raises(OptionError) as error:
        Following(**options)
    assert error.value.option == name


def test_a_part_cannot_be_followed() -> None:
    with pytest.raises(OptionError, match="classified whole"):
        Options(follow=Following(), window=Window(0, 0, 1, 1))


def test_python_follows_too(
    tmp_path: Path, model: ModelFile, assert_as_batch: Callable[..., None]
) -> None:
    Camera(tmp_path, tall_cube(ROWS)).finish()
    result = classify(
        tmp_path / "flight.bil",
        model.path,
        tmp_path / "live.tif",
        follow=Following(idle_s=0.2),
    )
    assert result["follow"]["blocks"] > 1
    assert_as_batch()


class Gated(OnnxruntimeCpu):
    """A FAKE of an engine that is slower than the sensor: it waits for the test."""

    gate = threading.Event()

    def predict(self, cube: Any, outputs: Any = ("probabilities",)) -> Any:
        assert self.gate.wait(60)
        return super().predict(cube, outputs)


def test_latest_skips_lines_and_fills_them_in_the_end(
    tmp_path: Path,
    start_following: Callable[..., Any],
    assert_as_batch: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hsi_runtime.engines.onnxruntime_cpu.OnnxruntimeCpu", Gated)
    monkeypatch.setattr(flight, "is_exact", lambda *_: True)
    Gated.gate.clear()
    camera = Camera(tmp_path, tall_cube(1500))
    follower = start_following(follow=Following(idle_s=30.0, latest=True))
    camera.write(1400)  # the engine is still at the first block
    Gated.gate.set()
    follower.wait_for_row(1300)
    camera.finish()
    result = follower.result()
    skipped = [e for e in follower.events if e["event"] == "skipped"]
    assert skipped
    lines = sum(e["rows"][1] - e["rows"][0] for e in skipped)
    assert result["follow"]["skipped_lines"] == lines > 1000
    assert result["seconds"]["infer"] > 0
    assert_as_batch()


def test_a_latency_out_of_reach_is_told_once(
    tmp_path: Path,
    start_following: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    camera = Camera(tmp_path, tall_cube(ROWS))
    follower = start_following(follow=Following(idle_s=30.0, latency_s=1e-6))
    for _ in range(6):
        camera.write(20)
        follower.wait_for_row(camera.written - 2)
        time.sleep(0.05)  # the rate is known after a tenth of a second
    camera.finish()
    follower.result()
    assert caplog.text.count("is out of reach") == 1

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import rasterio
from msgspec.structs import replace

from hsi_runtime import reports
from hsi_runtime.cli import main
from hsi_runtime.engines.onnxruntime_cpu import OnnxruntimeCpu
from hsi_runtime.engines.openvino_cpu import OpenvinoCpu
from hsi_runtime.model.array import Array

WAVELENGTHS = (450.0, 550.0, 650.0, 850.0)


def test_scene_with_all_outputs(place: Any, invoke: Any) -> None:
    options = ["--confidence", "--probabilities", "--preview"]
    code, out, err = invoke(main, "scene.tif", *options)
    assert code == 0
    assert out == "scene_classes.tif\n"
    assert "713 pixels classified, 0 unclassified, 0 nodata, on cpu, fp32." in err
    assert {p.name for p in place.folder.iterdir()} == {
        "scene.tif",
        "model.onnx",
        "scene_classes.tif",
        "scene_classes.tif.aux.xml",
        "scene_classes.qml",
        "scene_confidence.tif",
        "scene_probabilities.tif",
        "scene_preview.png",
    }
    again = invoke(main, "scene.tif", *options)
    assert again.code == 5
    before = (place.folder / "scene_classes.tif").read_bytes()
    assert invoke(main, "scene.tif", *options, "--overwrite").code == 0
    assert (place.folder / "scene_classes.tif").read_bytes() == before


def test_json_has_the_keys_scripts_depend_on(place: Any, invoke: Any) -> None:
    code, out, err = invoke(main, "scene.tif", "-o", "o.tif", "--json", "-q")
    assert code == 0
    assert err == ""
    found = json.loads(out)
    keys = (
        "scene model output method rows cols pixels classes device precision windows "
        "seconds pixels_per_second peak_memory_bytes resumed_windows "
        "decoded_bytes source_bytes"
    )
    assert set(keys.split()) <= set(found)
    assert set(found["pixels"]) == {"classified", "unclassified", "nodata"}
    assert {"code", "name", "pixels", "area_m2"} == set(found["classes"][0])
    assert {"total", "read", "infer", "write"} == set(found["seconds"])
    assert (found["rows"], found["cols"]) == (23, 31)
    assert [c["code"] for c in found["classes"]] == [2, 3, 7]
    assert sum(c["pixels"] for c in found["classes"]) == 23 * 31


def test_model_comes_from_option_environment_or_folder(
    place: Any, invoke: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used(*options: object) -> str:
        code, out, _ = invoke(main, "--describe", "--json", *options)
        assert code == 0
        return str(json.loads(out)["model"])

    assert used() == "model.onnx"
    other = place.write_model(place.folder / "other.onnx")
    monkeypatch.setenv("HSI_MODEL", str(other))
    assert used() == str(other)
    assert used("-m", "model.onnx") == "model.onnx"


def test_everything_works_on_a_gpu_that_is_a_fake(
    fake_gpu: Any, place: Any, invoke: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "BENCHMARK_S", 0.01)
    on_gpu = ("--device", "tensorrt", "--json")
    for wanted in ("--self-test", "--benchmark"):
        code, out, err = invoke(main, wanted, *on_gpu, "--tile", "9")
        assert (code, json.loads(out)["device"]) == (0, "tensorrt")
    code, out, err = invoke(main, "scene.tif", "-o", "o.tif", *on_gpu)
    assert (code, json.loads(out)["device"]) == (0, "tensorrt")
    assert fake_gpu.trt.builds == 1
    code, out, err = invoke(main, "scene.tif", "-o", "p.tif", *on_gpu, "--tile", "999")
    assert code == 0
    assert "Building an engine for Fake GPU" in err
    assert fake_gpu.trt.builds == 2
    fake_gpu.cuda.devices = 0
    code, out, err = invoke(main, "scene.tif", "-o", "q.tif", *on_gpu)
    assert (code, out) == (4, "")
    assert "no usable GPU (the driver lists none); use --device cpu" in err
    fake_gpu.cuda.devices, fake_gpu.cuda.free = 1, 0
    code, out, err = invoke(main, "--self-test", *on_gpu)
    assert (code, out) == (6, "")
    assert "GPU's memory ran out" in err


def test_describe_self_test_benchmark_and_dry_run_write_nothing(
    place: Any, invoke: Any, digests: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "BENCHMARK_S", 0.01)
    before = digests(place.folder)
    code, out, _ = invoke(main, "--describe")
    assert code == 0
    assert "receptive_field: 5" in out
    assert "Öl" in out
    code, out, _ = invoke(main, "--self-test", "--json")
    assert code == 0
    assert json.loads(out)["max_abs_difference"] < 1e-4
    code, out, _ = invoke(main, "--benchmark", "--json", "--tile", "9")
    measured = json.loads(out)
    assert (code, measured["device"], measured["tile"]) == (0, "cpu", 9)
    assert 0 < measured["slowest"] <= measured["pixels_per_second"]
    assert measured["pixels_per_second"] <= measured["fastest"]
    code, out, _ = invoke(main, "scene.tif", "--dry-run", "--json", "--tile", "10")
    planned = json.loads(out)
    assert code == 0
    assert planned["windows"] == 12
    assert planned["bands_read"] == [1, 2, 3, 4]
    assert planned["bands_matched"] == 4
    assert planned["bands_found"] == "matched"
    assert planned["region"] == {"row": 0, "col": 0, "rows": 23, "cols": 31}
    assert planned["scratch_bytes"] == 23 * 31
    assert planned["scratch_bytes_in_parts"] == 2 * 23 * 31
    assert (planned["product"], planned["good_bands"]) == (None, 4)
    assert planned["georeference"]["crs"] == "EPSG:32633"
    assert planned["memory_bytes"] > planned["strip_bytes"]
    assert 0 < planned["compute_seconds"] < 60
    assert invoke(main, "scene.tif", "--dry-run", "--tile", "10").code == 0
    outputs = [("scene.tif", "-o", "a.tif"), ("list.txt", "-o", ".")]
    (place.folder / "list.txt").write_text("scene.tif\n")
    shown = [invoke(main, *given, "--dry-run").out for given in outputs]
    (place.folder / "list.txt").unlink()
    assert all("bands_read: 1-4\n" in text for text in shown)
    assert digests(place.folder) == before


@pytest.mark.parametrize(
    ("device", "engine"), [("cpu", OnnxruntimeCpu), ("openvino", OpenvinoCpu)]
)
def test_wrong_answer_of_the_engine_fails_the_self_test(
    device: str,
    engine: Any,
    place: Any,
    invoke: Any,
    monkeypatch: pytest.MonkeyPatch,
    need_engine: Callable[[str], None],
) -> None:
    need_engine(device)
    given = ("--self-test", "--device", device)
    code, out, _ = invoke(main, *given, "--json")
    said = json.loads(out)
    assert (code, said["device"], said["precision"]) == (0, device, "fp32")
    predict = engine.predict

    def off(self: Any, *given: Any) -> Any:
        found = predict(self, *given)
        return {k: v + np.float32(2e-4) for k, v in found.items()}

    monkeypatch.setattr(engine, "predict", off)
    code, out, err = invoke(main, *given)
    assert (code, out) == (7, "")
    assert f"Self-test failed on {device}: probabilities differ by up to 2.0" in err


def test_self_test_fails_where_the_file_expects_another_answer(
    place: Any, invoke: Any
) -> None:
    proto = onnx.load(place.model)
    test = replace(
        place.document.self_test,
        probabilities=Array.pack(np.full((3, 3, 3), 1 / 3, dtype=np.float32)),
    )
    from hsi_export import package

    data = package.assemble(proto, replace(place.document, self_test=test), None)
    (place.folder / "x.onnx").write_bytes(data)
    code, out, err = invoke(main, "-m", "x.onnx", "--self-test")
    assert (code, out) == (7, "")
    assert "Do not trust this engine with this model" in err


def test_damaged_block_is_named(place: Any, invoke: Any) -> None:
    path = place.write_scene(place.folder / "x.tif", place.cube, compress="deflate")
    with rasterio.open(path) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=4))
    data = bytearray(path.read_bytes())
    data[offset : offset + 200] = bytes(200)
    path.write_bytes(data)
    code, _, err = invoke(main, path)
    assert code == 3
    assert "cannot be read at rows 0-23, columns 0-31" in err
    assert not (place.folder / "x_classes.tif").exists()


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGTERM, 143, "Terminated."), (signal.SIGINT, 130, "Stopped.")],
)
def test_stopped_run_publishes_nothing_and_resumes(
    number: int,
    code: int,
    said: str,
    place: Any,
    invoke: Any,
    digests: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (place.folder / "scene_classes.tif").write_bytes(b"old")
    before = digests(place.folder)
    predict = OnnxruntimeCpu.predict
    calls: list[int] = []

    def stopping(self: OnnxruntimeCpu, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return predict(self, *given)

    monkeypatch.setattr(OnnxruntimeCpu, "predict", stopping)
    found = invoke(main, "scene.tif", "--tile", "8", "--overwrite")
    assert found.code == code
    kept = "Nothing of the scene at work was published; earlier output is as it was."
    assert f"{said} {kept}" in found.err
    assert "Repeat the command to resume" in found.err
    after = digests(place.folder)
    assert {k: v for k, v in after.items() if "hsi-part" not in k} == before
    resumed = invoke(main, "scene.tif", "--tile", "8", "--overwrite")
    assert resumed.code == 0
    assert not (place.folder / "scene_classes.tif.hsi-part").exists()


def test_failing_preview_publishes_nothing(
    place: Any, invoke: Any, digests: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    before = digests(place.folder)
    code, _, err = invoke(main, "scene.tif", "--preview")
    assert code == 6
    assert "No space left" in err
    after = digests(place.folder)
    assert {k: v for k, v in after.items() if "hsi-part" not in k} == before
    monkeypatch.undo()
    monkeypatch.chdir(place.folder)
    code, out, _ = invoke(main, "scene.tif", "--preview", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["resumed_windows"] == found["windows"]


def test_installed_command_in_a_process_of_its_own(place: Any) -> None:
    command = [sys.executable, "-c", "from hsi_runtime.cli import main; main()"]
    done = subprocess.run(
        [*command, "scene.tif", "-o", "-o.tif", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"] == "-o.tif"
    assert (place.folder / "-o.tif").is_file()
    done = subprocess.run(
        [*command, "no.tif"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert done.stderr == "Error: There is no file no.tif.\n"


def test_closed_pipe_is_no_bug(place: Any) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from hsi_runtime.cli import main; main()",
            "--describe",
        ],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == ""


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 1>&- 2>&-"])
def test_map_is_written_where_messages_cannot_be(
    closed: str, place: Any, invoke: Any
) -> None:
    assert invoke(main, "scene.tif", "-o", "open.tif").code == 0
    script = "from hsi_runtime.cli import main; main()"
    line = f'exec "$0" -c "{script}" scene.tif -o closed.tif {closed}'
    done = subprocess.run(["sh", "-c", line, sys.executable], check=False)
    assert done.returncode == 0
    made = [(place.folder / f"{name}.tif").read_bytes() for name in ("open", "closed")]
    assert made[0] == made[1]

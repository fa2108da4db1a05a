import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import rasterio
from msgspec.structs import replace
from numpy.typing import NDArray

from hsi_runtime import reports
from hsi_runtime.backends.onnxruntime_cpu import OnnxruntimeCpu
from hsi_runtime.backends.openvino_cpu import OpenvinoCpu
from hsi_runtime.cli import main
from hsi_runtime.model_file import Array, ModelDocument

Write = Callable[..., Path]
WAVELENGTHS = (450.0, 550.0, 650.0, 850.0)


class Place(NamedTuple):
    """A folder with a good scene and a good model, and the means to make bad ones."""

    folder: Path
    write_scene: Write
    write_model: Write
    document: ModelDocument
    cube: NDArray[Any]

    @property
    def scene(self) -> Path:
        return self.folder / "scene.tif"

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"


@pytest.fixture
def place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_scene_tiff: Write,
    write_model: Write,
    document: ModelDocument,
    cube: NDArray[Any],
) -> Place:
    made = Place(tmp_path, write_scene_tiff, write_model, document, cube)
    made.write_scene(made.scene, cube)
    made.write_model(made.model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HSI_MODEL", raising=False)
    return made


def write_envi(place: Place, values: bytes, **fields: object) -> Path:
    known: dict[str, object] = {
        "samples": 31,
        "lines": 23,
        "bands": 4,
        "data type": 12,
        "interleave": "bsq",
        "byte order": 0,
    }
    lines = [f"{k} = {v}" for k, v in (known | fields).items()]
    (place.folder / "envi.hdr").write_text("\n".join(["ENVI", *lines]))
    (place.folder / "envi.img").write_bytes(values)
    return place.folder / "envi.img"


# Each makes one thing wrong in the folder and returns the arguments.
Make = Callable[[Place], list[object]]


def content(name: str, data: bytes) -> Make:
    def make(place: Place) -> list[object]:
        (place.folder / name).write_bytes(data)
        return [name]

    return make


def cube_of(change: Callable[[NDArray[Any]], NDArray[Any]], **options: Any) -> Make:
    def make(place: Place) -> list[object]:
        return [
            place.write_scene(place.folder / "x.tif", change(place.cube), **options)
        ]

    return make


def model_of(change: Callable[[bytes], bytes]) -> Make:
    def make(place: Place) -> list[object]:
        path = place.folder / "x.onnx"
        path.write_bytes(change(place.model.read_bytes()))
        return [place.scene, "-m", path]

    return make


def arguments(*given: object) -> Make:
    return lambda place: list(given)


def truncated_tiff(place: Place) -> list[object]:
    path = place.write_scene(place.folder / "x.tif", place.cube, compress="deflate")
    os.truncate(path, path.stat().st_size // 2)
    return [path]


def half_tiff(place: Place) -> list[object]:
    """Keep the tags, at the front, and lose half of the pixels."""
    path = place.write_scene(place.folder / "x.tif", place.cube, None, None)
    os.truncate(path, path.stat().st_size * 2 // 3)
    return [path]


def envi_header_alone(place: Place) -> list[object]:
    write_envi(place, b"").unlink()
    return ["envi.hdr"]


def truncated_envi(place: Place) -> list[object]:
    return [write_envi(place, place.cube.tobytes()[:-2])]


def over_declared_envi(place: Place) -> list[object]:
    return [write_envi(place, place.cube.tobytes(), bands=5)]


def older_model(place: Place) -> list[object]:
    path = place.write_model(place.folder / "x.onnx", metadata='{"schema_version": 0}')
    return [place.scene, "-m", path]


def foreign_model(place: Place) -> list[object]:
    proto = onnx.load(place.model)
    del proto.metadata_props[:]
    onnx.save(proto, place.folder / "x.onnx")
    return [place.scene, "-m", "x.onnx"]


def no_model(place: Place) -> list[object]:
    place.model.rename(place.folder / "elsewhere.onnx")
    return [place.scene]


def existing_output(place: Place) -> list[object]:
    (place.folder / "scene_classes.tif").write_bytes(b"precious")
    return [place.scene]


def existing_companion(place: Place) -> list[object]:
    (place.folder / "scene_preview.png").write_bytes(b"precious")
    return [place.scene, "--preview"]


def existing_probabilities(place: Place) -> list[object]:
    (place.folder / "o_probabilities.tif").write_bytes(b"precious")
    return [place.scene, "-o", "o_classes.tif", "--probabilities"]


def existing_style(place: Place) -> list[object]:
    (place.folder / "scene_classes.qml").write_bytes(b"precious")
    return [place.scene]


def symlink_to_input(place: Place) -> list[object]:
    (place.folder / "o.tif").symlink_to(place.scene)
    return [place.scene, "-o", "o.tif", "--overwrite"]


def hard_link_to_input(place: Place) -> list[object]:
    (place.folder / "o.tif").hardlink_to(place.scene)
    return [place.scene, "-o", "o.tif", "--overwrite"]


def envi_data_as_output(place: Place) -> list[object]:
    write_envi(place, place.cube.tobytes())
    return ["envi.hdr", "-o", "envi.img", "--overwrite"]


def envi_header_as_output(place: Place) -> list[object]:
    write_envi(place, place.cube.tobytes())
    return ["envi.img", "-o", "envi.hdr", "--overwrite"]


def folder_as_output(place: Place) -> list[object]:
    (place.folder / "sub").mkdir()
    return [place.scene, "-o", "sub"]


def locked_output(place: Place) -> list[object]:
    (place.folder / "o.tif.hsi-part").write_bytes(b"a file in the way")
    return [place.scene, "-o", "o.tif"]


def scaled_float_without_scale(place: Place) -> list[object]:
    values = (place.cube / 10_000).astype(np.float32)
    return [place.write_scene(place.folder / "x.tif", values, scale=None)]


def unlike_signature(place: Place) -> list[object]:
    """Sign a document of five classes over a graph of three."""
    classes = [replace(c, code=c.code + 10) for c in place.document.classes[:2]]
    described = replace(place.document, classes=[*place.document.classes, *classes])
    from hsi_export import package

    proto = onnx.load(place.model)
    (place.folder / "x.onnx").write_bytes(package.assemble(proto, described, None))
    return [place.scene, "-m", "x.onnx"]


VRT = (
    b'<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Byte" '
    b'band="1"><SimpleSource><SourceFilename>/etc/passwd</SourceFilename>'
    b"</SimpleSource></VRTRasterBand></VRTDataset>"
)

BAD: dict[str, tuple[Make, int, str]] = {
    "missing scene": (arguments("nothing.tif"), 3, "There is no file nothing.tif"),
    "missing scene in a missing folder": (arguments("no/x.tif"), 3, "There is no file"),
    "folder as scene": (arguments("."), 3, "is a folder, not a scene"),
    "text as scene": (content("x.tif", b"hello"), 3, "neither a TIFF nor an ENVI"),
    "empty scene": (content("x.tif", b""), 3, "neither a TIFF nor an ENVI file"),
    "TIFF header alone": (content("x.tif", b"II*\0\x08\0\0\0"), 3, "not a readable"),
    "truncated TIFF": (truncated_tiff, 3, "x.tif"),
    "TIFF without its last pixels": (half_tiff, 3, "x.tif"),
    "ENVI header alone": (envi_header_alone, 3, "its data file is missing"),
    "truncated ENVI": (truncated_envi, 3, "is truncated: its header promises 5704"),
    "over-declared ENVI": (over_declared_envi, 3, "is truncated"),
    "MATLAB file": (content("x.mat", b"MATLAB 5.0 MAT"), 3, "read by hsi-train only"),
    "VRT named tif": (content("x.tif", VRT), 3, "neither a TIFF nor an ENVI"),
    "URL": (arguments("/vsicurl/http://127.0.0.1:9/x.tif"), 3, "There is no file"),
    "web address": (arguments("http://127.0.0.1:9/x.tif"), 3, "There is no file"),
    "complex scene": (cube_of(lambda c: c.astype(np.complex64)), 3, "complex64"),
    "int64 scene": (cube_of(lambda c: c.astype(np.int64)), 3, "int64; expected one of"),
    "wrong wavelength units": (
        cube_of(lambda c: c, wavelengths=(0.45, 0.55, 650.0, 850.0)),
        4,
        "and only 2 match",
    ),
    "no model there": (no_model, 4, "There is no model file model.onnx; name one"),
    "missing model": (arguments("scene.tif", "-m", "no.onnx"), 4, "no.onnx; name one"),
    "folder as model": (arguments("scene.tif", "-m", "."), 4, "directory"),
    "text as model": (model_of(lambda _: b"hello"), 4, "x.onnx is not an ONNX file"),
    "empty model": (model_of(lambda _: b""), 4, "x.onnx is not an ONNX file"),
    "flipped bit in the model": (
        model_of(lambda d: d[:300] + bytes([d[300] ^ 16]) + d[301:]),
        4,
        "its checksum does not fit",
    ),
    "truncated model": (model_of(lambda d: d[:-40]), 4, "x.onnx"),
    "foreign model": (foreign_model, 4, "not written by hsi-export"),
    "older schema": (older_model, 4, "schema version 0; this hsi-run reads version 1"),
    "graph unlike its document": (unlike_signature, 4, "its document promises"),
    "no band matches": (
        cube_of(lambda c: c, wavelengths=(1000.0, 1100.0, 1200.0, 1300.0)),
        4,
        "and only 0 match within 2 nm",
    ),
    "bands missing": (
        cube_of(lambda c: c[:2], wavelengths=WAVELENGTHS[:2]),
        4,
        "Missing: 650.0, 850.0 nm",
    ),
    "other count without wavelengths": (
        cube_of(lambda c: c[:3], wavelengths=None),
        4,
        "has 3 bands, the model was trained on 4",
    ),
    "decimals without scale": (scaled_float_without_scale, 4, "Declare scale"),
    "output exists": (existing_output, 5, "exists; --overwrite replaces it"),
    "preview exists": (existing_companion, 5, "scene_preview.png exists"),
    "probabilities exist": (existing_probabilities, 5, "o_probabilities.tif exists"),
    "output is the scene": (
        arguments("scene.tif", "-o", "scene.tif", "--overwrite"),
        5,
        "is the input",
    ),
    "output is the model": (
        arguments("scene.tif", "-o", "model.onnx", "--overwrite"),
        5,
        "is the input model.onnx",
    ),
    "output is a symlink to the scene": (symlink_to_input, 5, "is the input"),
    "output is a hard link to the scene": (hard_link_to_input, 5, "is the input"),
    "output is the ENVI data": (envi_data_as_output, 5, "is the input"),
    "output is the ENVI header": (envi_header_as_output, 5, "is the input"),
    "output folder missing": (
        arguments("scene.tif", "-o", "no/o.tif"),
        5,
        "There is no folder no; create it",
    ),
    "output is a folder": (folder_as_output, 5, "sub is a folder; -o names a file"),
    "output is this folder": (arguments("scene.tif", "-o", "."), 5, "is a folder"),
    "output without a name": (arguments("scene.tif", "-o", ""), 5, "is a folder"),
    "output is the folder above": (arguments("scene.tif", "-o", ".."), 5, "a folder"),
    "output below a file": (
        arguments("scene.tif", "-o", "model.onnx/o.tif"),
        5,
        "There is no folder model.onnx",
    ),
    "output name too long": (
        arguments("scene.tif", "-o", "o" * 300 + ".tif"),
        5,
        "File name too long",
    ),
    "scratch cannot be made": (locked_output, 5, "o.tif.hsi-part cannot be created"),
    "unknown device": (arguments("scene.tif", "--device", "tpu"), 2, "'tpu' is not"),
    "tile 0": (arguments("scene.tif", "--tile", "0"), 2, "'--tile'"),
    "threads 0": (arguments("scene.tif", "--threads", "0"), 2, "'--threads'"),
    "reject auto": (
        arguments("scene.tif", "--reject", "auto"),
        4,
        "suggests no threshold",
    ),
    "reject 2": (arguments("scene.tif", "--reject", "2"), 2, "'--reject'"),
    "reject nan": (arguments("scene.tif", "--reject", "nan"), 2, "'--reject'"),
    "unknown option": (arguments("scene.tif", "--turbo"), 2, "No such option"),
    "window and bbox": (
        arguments("scene.tif", "--window", "0,0,1,1", "--bbox", "0,0,1,1"),
        2,
        "--window and --bbox exclude each other",
    ),
    "window of words": (arguments("scene.tif", "--window", "a,b"), 2, "four whole"),
    "window outside": (
        arguments("scene.tif", "--window", "30,0,2,1"),
        3,
        "Columns 30 to 32 and rows 0 to 1 were asked for; scene.tif has columns 0 to",
    ),
    "bbox elsewhere": (
        arguments("scene.tif", "--bbox", "0,0,1,1"),
        3,
        "does not meet the scene scene.tif",
    ),
    "too little memory": (
        arguments("scene.tif", "--max-memory", "100M"),
        6,
        "--max-memory allows 105 MB; this model needs about",
    ),
    "shard beyond": (arguments("scene.tif", "--shard", "3/3"), 2, "from 0 to N-1"),
    "style exists": (existing_style, 5, "scene_classes.qml exists"),
    "two outputs of one name": (
        arguments("scene.tif", "-o", "o.tif", "--vector", "./o.tif"),
        5,
        "Two outputs would be written",
    ),
    "list without scenes": (content("x.txt", b"# none\n"), 3, "names no scene"),
    "list that is no text": (content("x.txt", b"\xff\xfe\0"), 3, "cannot be read"),
    "list that is missing": (arguments("no.txt"), 3, "The list no.txt cannot be read"),
    "many scenes and a file": (
        arguments("scene.tif", "scene.tif", "-o", "o.tif"),
        5,
        "2 scenes: -o must be a folder that exists",
    ),
    "many scenes and one vector file": (
        arguments("scene.tif", "scene.tif", "--vector", "o.gpkg"),
        5,
        "--vector names one file",
    ),
    "one scene twice": (
        arguments("scene.tif", "./scene.tif"),
        5,
        "would both be written to scene_classes.tif",
    ),
    "no scene": (arguments(), 2, "Missing SCENE"),
    "no scene for a plan": (arguments("--dry-run"), 2, "Missing SCENE"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("as_json", [False, True])
def test_bad_input_is_a_sentence_and_touches_nothing(
    case: str, as_json: bool, place: Place, invoke: Any, digests: Any
) -> None:
    make, expected, fragment = BAD[case]
    given = make(place) + (["--json"] if as_json else [])
    before = digests(place.folder)
    code, out, err = invoke(main, *given)
    assert (code, out) == (expected, ""), err
    assert fragment in err
    assert "Error: " in err
    if expected > 2:
        said = [x for x in err.strip().splitlines() if not x.startswith("Engine: ")]
        assert [line.split(":")[0] for line in said[:-1]] == ["warning"] * len(said[1:])
        assert said[-1].startswith("Error: ")
    assert digests(place.folder) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_unwritable_folder(place: Place, invoke: Any) -> None:
    folder = place.folder / "sub"
    folder.mkdir(mode=0o500)
    code, _, err = invoke(main, place.scene, "-o", folder / "o.tif")
    assert code == 5
    assert "not writable" in err


def test_scene_with_all_outputs(place: Place, invoke: Any) -> None:
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


def test_json_has_the_keys_scripts_depend_on(place: Place, invoke: Any) -> None:
    code, out, err = invoke(main, "scene.tif", "-o", "o.tif", "--json", "-q")
    assert code == 0
    assert err == ""
    found = json.loads(out)
    keys = (
        "scene model output method rows cols pixels classes device precision windows "
        "seconds pixels_per_second peak_memory_bytes resumed_windows"
    )
    assert set(keys.split()) <= set(found)
    assert set(found["pixels"]) == {"classified", "unclassified", "nodata"}
    assert {"code", "name", "pixels", "area_m2"} == set(found["classes"][0])
    assert {"total", "read", "infer", "write"} == set(found["seconds"])
    assert (found["rows"], found["cols"]) == (23, 31)
    assert [c["code"] for c in found["classes"]] == [2, 3, 7]
    assert sum(c["pixels"] for c in found["classes"]) == 23 * 31


def test_model_comes_from_option_environment_or_folder(
    place: Place, invoke: Any, monkeypatch: pytest.MonkeyPatch
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
    fake_gpu: Any, place: Place, invoke: Any, monkeypatch: pytest.MonkeyPatch
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
    place: Place, invoke: Any, digests: Any, monkeypatch: pytest.MonkeyPatch
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
    place: Place,
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
    place: Place, invoke: Any
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


def test_damaged_block_is_named(place: Place, invoke: Any) -> None:
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
    place: Place,
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
    assert f"{said} Nothing was published; earlier output is as it was." in found.err
    assert "Repeat the command to resume" in found.err
    after = digests(place.folder)
    assert {k: v for k, v in after.items() if "hsi-part" not in k} == before
    resumed = invoke(main, "scene.tif", "--tile", "8", "--overwrite")
    assert resumed.code == 0
    assert not (place.folder / "scene_classes.tif.hsi-part").exists()


def test_failing_preview_publishes_nothing(
    place: Place, invoke: Any, digests: Any, monkeypatch: pytest.MonkeyPatch
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


def test_installed_command_in_a_process_of_its_own(place: Place) -> None:
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


def test_closed_pipe_is_no_bug(place: Place) -> None:
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

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from hsi_export import exporting, tracing
from hsi_export.cli import main
from hsi_runtime.engines.onnxruntime_cpu import OnnxruntimeCpu
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.errors import SceneError
from hsi_runtime.model.model_file import read_model
from hsi_train.method import BaseMethod
from hsi_train.run_folder import checkpoint


@pytest.fixture
def run(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the run; tracing takes seconds, so the graph comes from its export."""
    copied = tmp_path / "run"
    shutil.copytree(trained.run, copied)

    def traced(*_: object, **__: object) -> Any:
        proto = onnx.load(trained.model)
        del proto.metadata_props[:]
        return proto

    monkeypatch.setattr(tracing, "trace", traced)
    return copied


def test_export_writes_the_model_and_its_item(
    run: Path, trained: Any, invoke: Any
) -> None:
    code, out, err = invoke(main, run)
    assert code == 0
    assert out == f"{run / 'model.onnx'}\n"
    assert "have the same class" in err
    assert {p.name for p in run.iterdir()} == {
        "checkpoint.safetensors", "model.onnx", "model.stac.json"
    }  # fmt: skip
    assert (run / "model.onnx").read_bytes() == trained.model.read_bytes()


def test_what_is_left_out_is_named_by_its_parts(
    run: Path, invoke: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["generators.0.weight", "generators.1.weight", "encoder.weight"]
    monkeypatch.setattr(BaseMethod, "training_only", lambda _: names)
    code, _, err = invoke(main, run)
    assert code == 0
    assert "Left out, for training only: generators, encoder.\n" in err
    code, out, _ = invoke(main, run, "--overwrite", "--json")
    assert json.loads(out)["dropped"] == names


def test_json_has_the_keys_scripts_depend_on(run: Path, invoke: Any) -> None:
    output = run.parent / "m.onnx"
    code, out, err = invoke(main, run, "-o", output, "--json", "-q")
    assert (code, err) == (0, "")
    found = json.loads(out)
    keys = "output precision opset bytes sha256 parameters parity dropped"
    assert set(keys.split()) <= set(found)
    assert {"max_abs_difference", "equal_class_share", "windows"} <= set(
        found["parity"]
    )
    classes = found["parity"]["classes"]
    assert [c["code"] for c in classes] == [1, 2, 3, 5]
    assert sum(c["pixels"] for c in classes) == found["parity"]["pixels"]
    assert all(c["equal_class_share"] in (1, None) for c in classes)
    assert found["output"] == str(output)
    assert 0 <= found["engines"]["cpu"] < 1e-4
    assert set(found["engines"]) <= {"cpu", "openvino", "cuda"}
    assert found["engine"] is None
    assert found["bytes"] == output.stat().st_size
    assert found["sha256"] == read_model(output).sha256
    assert found["opset"] == 20
    assert found["parity"]["max_abs_difference"] < 1e-4


def test_engine_is_built_into_the_cache_and_compared(
    fake_gpu: Any, run: Path, invoke: Any, tmp_path: Path
) -> None:
    code, out, _ = invoke(main, run, "--tensorrt", "--json", "-q")
    assert code == 0
    found = json.loads(out)
    engine, sha256 = found["engine"], read_model(run / "model.onnx").sha256
    assert Path(engine["path"]).is_file()
    assert Path(engine["path"]).is_relative_to(tmp_path / "cache")
    assert (engine["built"], engine["model"]) == (True, sha256)
    assert (engine["gpu"], engine["compute_capability"]) == ("Fake GPU", "8.7")
    assert engine["parity"]["max_abs_difference"] < 1e-4
    assert engine["parity"]["windows"] == found["parity"]["windows"]
    # hsi-run finds it, and so does a second export of the same bytes.
    open_backend(read_model(run / "model.onnx"), "tensorrt")
    code, out, err = invoke(main, run, "--tensorrt", "--overwrite")
    assert (code, fake_gpu.trt.builds) == (0, 1)
    assert f"Engine: {engine['path']}." in err


def test_without_a_gpu_no_work_begins(
    fake_gpu: Any,
    run: Path,
    invoke: Any,
    digests: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_gpu.cuda.devices = 0
    before = digests(run.parent)
    monkeypatch.setattr(checkpoint, "load", None)  # any work would fail
    code, out, err = invoke(main, run, "--tensorrt")
    assert (code, out) == (4, "")
    assert "no usable GPU" in err
    assert digests(run.parent) == before


def test_engine_that_differs_leaves_nothing(
    fake_gpu: Any, run: Path, invoke: Any, tmp_path: Path
) -> None:
    fake_gpu.trt.flaw = 0.01
    code, out, err = invoke(main, run, "--tensorrt")
    assert (code, out) == (7, "")
    assert "Self-test failed on tensorrt" in err
    assert [p.name for p in run.iterdir()] == ["checkpoint.safetensors"]
    assert not list((tmp_path / "cache").rglob("*.engine"))


def test_an_error_of_ours_keeps_its_sentence(tmp_path: Path) -> None:
    names = tmp_path / "model.onnx", tmp_path / "model.stac.json"
    with (
        pytest.raises(SceneError, match=r"^The scene is gone\.$"),
        exporting._published_together(*names),
    ):
        raise SceneError("The scene is gone.")
    assert not list(tmp_path.iterdir())


def test_a_library_that_gives_no_reason_is_quoted(
    run: Path, invoke: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Path, data: bytes) -> int:
        raise OSError("the library is out of sorts")

    monkeypatch.setattr(Path, "write_bytes", failing)
    found = invoke(main, run)
    assert found.code == 5
    assert "cannot be written: the library is out of sorts" in found.err


def test_same_run_gives_the_same_bytes(trained: Any, tmp_path: Path) -> None:
    exporting.export(trained.run, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == trained.model.read_bytes()


def test_existing_files_stay(run: Path, invoke: Any, digests: Any) -> None:
    for name in ("model.onnx", "model.stac.json"):
        (run / name).write_bytes(b"precious")
        before = digests(run)
        code, out, err = invoke(main, run)
        assert (code, out) == (5, "")
        assert f"{name} exists; --overwrite replaces it" in err
        assert digests(run) == before
        (run / name).unlink()
    (run / "model.onnx").write_bytes(b"old")
    assert invoke(main, run, "--overwrite").code == 0
    read_model(run / "model.onnx")


def no_checkpoint(run: Path) -> list[object]:
    (run / "checkpoint.safetensors").unlink()
    return [run]


def damaged_checkpoint(run: Path) -> list[object]:
    path = run / "checkpoint.safetensors"
    os.truncate(path, path.stat().st_size // 2)
    return [run]


def foreign_checkpoint(run: Path) -> list[object]:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3)}, run / "checkpoint.safetensors")
    return [run]


def pickled_checkpoint(run: Path) -> list[object]:
    import pickle

    (run / "checkpoint.safetensors").write_bytes(pickle.dumps({"weights": 1}))
    return [run]


Change = Callable[[dict[str, Any], dict[str, Any]], object]


def changed(change: Change) -> Callable[[Path], list[object]]:
    """Change the description or the tensors of the checkpoint."""

    def make(run: Path) -> list[object]:
        from safetensors import safe_open
        from safetensors.torch import save_file

        path = run / "checkpoint.safetensors"
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            text = json.loads(file.metadata()["hsi_checkpoint"])
        change(text, tensors)
        save_file(tensors, path, metadata={"hsi_checkpoint": json.dumps(text)})
        return [run]

    return make


BAD: dict[str, tuple[Callable[[Path], list[object]], int, str]] = {
    "no run": (lambda run: [run / "nothing"], 4, "There is no checkpoint"),
    "no checkpoint": (no_checkpoint, 4, "give the folder hsi-train wrote"),
    "damaged checkpoint": (damaged_checkpoint, 4, "is damaged"),
    "foreign checkpoint": (foreign_checkpoint, 4, "was not written by hsi-train"),
    "pickle": (pickled_checkpoint, 4, "is damaged"),
    "changed description": (
        changed(lambda text, _: text.update(surprise=1)),
        4,
        "surprise",
    ),
    "a network of terabytes": (
        changed(lambda text, _: text["options"].update(features=10_000_000)),
        4,
        "Expected `int` <= 256",
    ),
    "a layer of gigabytes": (
        changed(lambda text, _: text["options"].update(hidden=10_000_000)),
        4,
        "Expected `int` <= 1024",
    ),
    "bands without statistics": (
        changed(lambda text, _: text["bands"]["used"].pop()),
        4,
        "band_mean has the shape (30,), and 29 bands and 4 classes need (29,)",
    ),
    "statistics of other axes": (
        changed(lambda _, t: t.update({"problem.top": t["problem.band_mean"].clone()})),
        4,
        "top has the shape (30,)",
    ),
    "a description that contradicts itself": (
        changed(lambda text, _: text["values"]["fill"].pop()),
        4,
        "values.fill has 29 values for 30 bands",
    ),
    "classes of one code": (
        changed(lambda text, _: text["classes"][1].update(code=1)),
        4,
        "share a code",
    ),
    "weights of another size": (
        changed(lambda text, _: text["options"].update(features=12)),
        4,
        "the weights do not fit method mf2cnet",
    ),
    "output folder missing": (
        lambda run: [run, "-o", run / "no" / "m.onnx"],
        5,
        "create it first",
    ),
    "output is a folder": (lambda run: [run, "-o", run], 5, "is a folder"),
    "output is a folder, overwritten": (
        lambda run: [run, "-o", run, "--overwrite"],
        5,
        "is a folder",
    ),
    "output without a name": (lambda run: [run, "-o", ""], 5, "is a folder"),
    "output is the checkpoint": (
        lambda run: [run, "-o", run / "checkpoint.safetensors", "--overwrite"],
        5,
        "is the input",
    ),
    "output name too long": (
        lambda run: [run, "-o", run / ("m" * 300 + ".onnx")],
        5,
        "File name too long",
    ),
    "no argument": (lambda run: [], 2, "Missing argument"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_sentence_and_touches_nothing(
    case: str, run: Path, invoke: Any, digests: Any
) -> None:
    make, expected, fragment = BAD[case]
    given = make(run)
    before = digests(run)
    code, out, err = invoke(main, *given)
    assert (code, out) == (expected, ""), err
    assert fragment in err
    assert digests(run) == before


def test_file_that_answers_otherwise_is_not_published(
    run: Path, invoke: Any, digests: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = OnnxruntimeCpu.predict

    def off(self: OnnxruntimeCpu, *given: Any) -> dict[str, NDArray[np.float32]]:
        found = predict(self, *given)
        return {k: v + np.float32(5e-4) for k, v in found.items()}

    monkeypatch.setattr(OnnxruntimeCpu, "predict", off)
    (run / "model.onnx").write_bytes(b"old")
    (run / "model.stac.json").write_bytes(b"old")
    before = digests(run)
    code, out, err = invoke(main, run, "--overwrite")
    assert (code, out) == (7, "")
    assert "probabilities differ by up to 5.0" in err
    assert "No file was written" in err
    assert digests(run) == before


def test_graph_with_other_weights_is_not_published(
    run: Path, trained: Any, invoke: Any, digests: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tampered(*_: object, **__: object) -> Any:
        proto = onnx.load(trained.model)
        del proto.metadata_props[:]
        largest = max(proto.graph.initializer, key=lambda t: len(t.raw_data))
        values = onnx.numpy_helper.to_array(largest) * np.float32(1.5)
        largest.CopyFrom(onnx.numpy_helper.from_array(values, largest.name))
        return proto

    monkeypatch.setattr(tracing, "trace", tampered)
    before = digests(run)
    assert invoke(main, run).code == 7
    assert digests(run) == before


@pytest.mark.parametrize(("number", "code"), [(28, 6), (5, 5)])
def test_failing_disk_leaves_nothing(
    number: int,
    code: int,
    run: Path,
    invoke: Any,
    digests: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(number, "a fault of the disk")

    before = digests(run)
    monkeypatch.setattr(Path, "write_bytes", failing)
    found = invoke(main, run)
    assert found.code == code
    assert "a fault of the disk" in found.err
    monkeypatch.undo()
    assert digests(run) == before

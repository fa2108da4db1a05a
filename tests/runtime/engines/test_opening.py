import logging
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
import rasterio
from msgspec.structs import replace
from numpy.typing import NDArray

from hsi_runtime.cli import command
from hsi_runtime.engines import onnxruntime_cpu, openvino_cpu
from hsi_runtime.engines.backend import DEVICES, GPU_DEVICES
from hsi_runtime.engines.classifying import predict_in_parts
from hsi_runtime.engines.nvidia import onnxruntime_cuda, tensorrt_gpu
from hsi_runtime.engines.onnxruntime_cpu import OnnxruntimeCpu
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.engines.openvino_cpu import OpenvinoCpu
from hsi_runtime.errors import EngineError, ModelFileError, ResourceError
from hsi_runtime.model.model_file import ModelDocument, ModelFile, Precision, read_model
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request
from hsi_runtime.walk import memory

ON_GPU = [pytest.param(device, marks=pytest.mark.gpu) for device in GPU_DEVICES]


@pytest.mark.parametrize("device", ["cpu", "openvino", *ON_GPU])
@pytest.mark.parametrize("threads", [None, 1, 3])
def test_engine_answers_like_numpy(
    device: str,
    threads: int | None,
    model: ModelFile,
    cube: NDArray[Any],
    conv_oracle: Callable[..., NDArray[np.float32]],
    need_engine: Callable[[str], None],
) -> None:
    need_engine(device)
    backend = open_backend(model, device, threads)
    assert backend.device == device
    assert backend.precision == "fp32"
    padded = np.pad(cube, ((0, 0), (2, 2), (2, 2)), mode="reflect").astype(np.float32)
    expected = conv_oracle(cube)
    for rows, cols in ((23, 31), (1, 31), (1, 1), (7, 5)):
        window = padded[None, :, : rows + 4, : cols + 4]
        found = backend.predict(window)["probabilities"]
        assert found.shape == (1, 3, rows, cols)
        np.testing.assert_allclose(found[0], expected[:, :rows, :cols], atol=1e-5)
    batch = np.stack([padded, padded[..., ::-1]])
    first = backend.predict(np.ascontiguousarray(batch))["probabilities"]
    backend.predict(np.ascontiguousarray(batch[::-1]))
    np.testing.assert_allclose(first[0], expected, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 4, 7, 16])
@pytest.mark.parametrize("room", [1, 2, 3, 9])
def test_engine_takes_no_more_threads_than_asked(
    threads: int, room: int, model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noted:
        """Stands for the engine."""

        def __init__(self, model: ModelFile, threads: int, at_once: int) -> None:
            self.device = "cpu"
            self.of_window, self.windows_at_once = threads, at_once

    monkeypatch.setattr(onnxruntime_cpu, "OnnxruntimeCpu", Noted)
    # Of a tile so large that `room` windows fit, whatever the machine has.
    side = 1000 + 2 * model.document.halo
    one = side**2 * model.document.working_bytes * memory.ENGINE_MARGIN
    limit = int(memory.BASE_BYTES + (room + 0.5) * one / (1 - memory.STRIP_SHARE))
    backend: Any = open_backend(model, "cpu", threads, 1000, limit)
    assert backend.windows_at_once == min(room, threads)
    assert backend.of_window >= 1
    assert backend.windows_at_once * backend.of_window <= threads


def has_bfloat16() -> bool:
    return openvino_cpu._has_bfloat16(openvino_cpu._core())


@pytest.fixture
def half_model(
    write_model: Callable[..., Path], document: ModelDocument, tmp_path: Path
) -> Callable[..., ModelFile]:
    """Write a model that says it is in half precision, with a tolerance."""

    def write(
        tolerance: float, proved: bool = True, precision: Precision = "fp16"
    ) -> ModelFile:
        test = replace(document.self_test, tolerance=tolerance)
        described = replace(document, precision=precision, self_test=test)
        path = write_model(tmp_path / "half.onnx", described, bfloat16=proved)
        return read_model(path)

    return write


def test_bfloat16_where_the_model_allows_it(
    half_model: Callable[..., ModelFile],
    cube: NDArray[Any],
    caplog: pytest.LogCaptureFixture,
    need_engine: Callable[[str], None],
) -> None:
    need_engine("openvino")
    if not has_bfloat16():
        pytest.skip("needs a processor with bfloat16")
    window = cube[None].astype(np.float32)
    coarse = open_backend(half_model(0.5), "openvino", 1)
    assert coarse.precision == "bf16"
    assert "computes it in bfloat16" in caplog.text
    assert open_backend(half_model(0.5, False), "openvino", 1).precision == "fp16"
    whole = half_model(0.5, precision="fp32")
    assert open_backend(whole, "openvino", 1).precision == "fp32"
    exact = open_backend(half_model(1e-5), "openvino", 1)
    assert exact.precision == "fp16"
    reference = open_backend(half_model(0.5), "cpu", 1).predict(window)["probabilities"]
    found = exact.predict(window)["probabilities"]
    np.testing.assert_allclose(found, reference, atol=1e-5)
    rounded = coarse.predict(window)["probabilities"]
    assert 1e-4 < np.abs(rounded - reference).max() < 0.5


def test_processor_without_bfloat16_computes_in_float32(
    half_model: Callable[..., ModelFile],
    monkeypatch: pytest.MonkeyPatch,
    need_engine: Callable[[str], None],
) -> None:
    need_engine("openvino")
    monkeypatch.setattr(openvino_cpu, "_has_bfloat16", lambda _: False)
    assert open_backend(half_model(0.5), "openvino", 1).precision == "fp16"
    with pytest.raises(EngineError, match="has no bfloat16"):
        OpenvinoCpu(half_model(0.5), 1, bfloat16=True)


STOPPED_LATER = """
import os, signal, sys
from pathlib import Path
from hsi_runtime.engines.openvino_cpu import OpenvinoCpu
from hsi_runtime.model.model_file import read_model

model = read_model(Path(sys.argv[1]))
first, second = OpenvinoCpu(model, 1), OpenvinoCpu(model, 1)
del first, second
signal.signal(signal.SIGTERM, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_signal_is_heard_after_models_have_gone(
    model: ModelFile, need_engine: Callable[[str], None]
) -> None:
    need_engine("openvino")
    command = [sys.executable, "-c", STOPPED_LATER, str(model.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def test_nobody_is_told_that_openvino_is_used(
    model: ModelFile, tmp_path: Path, need_engine: Callable[[str], None]
) -> None:
    need_engine("openvino")
    home = tmp_path / "home"
    home.mkdir()
    code = STOPPED_LATER + "\nassert sys.modules['openvino_telemetry'] is None"
    outside = {k: v for k, v in os.environ.items() if k != "CI"}
    subprocess.run(
        [sys.executable, "-c", code, str(model.path)],
        check=True, timeout=60, env=outside | {"HOME": str(home)},
    )  # fmt: skip
    assert not list(home.iterdir())  # its telemetry begins by an identity for the user


def test_missing_openvino_says_what_to_install(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match=r"pip install 'hsi-edge\[openvino\]'"):
        open_backend(model, "openvino")


def test_unknown_device_names_those_there_are(model: ModelFile) -> None:
    with pytest.raises(EngineError, match="'tpu'; choose from auto, cpu"):
        open_backend(model, "tpu")


def test_the_command_line_knows_every_device() -> None:
    (option,) = (p for p in command.params if p.name == "device")
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == DEVICES


def test_device_asked_for_is_taken_or_an_error(model: ModelFile) -> None:
    for device in set(DEVICES) - {"auto"}:
        try:
            backend = open_backend(model, device)
        except EngineError:
            continue  # this machine has no such engine
        assert backend.device == device


@pytest.mark.gpu
@pytest.mark.parametrize("device", GPU_DEVICES)
def test_scene_is_mapped_on_the_gpu_as_on_the_processor(
    device: str,
    model: ModelFile,
    cube: NDArray[Any],
    write_scene_tiff: Callable[..., Path],
    need_engine: Callable[[str], None],
    tmp_path: Path,
) -> None:
    need_engine(device)
    scene = write_scene_tiff(tmp_path / "s.tif", np.tile(cube, (1, 20, 20)))
    maps = []
    for chosen in ("cpu", device):
        request = Request(scene, tmp_path / f"{chosen}.tif")
        result = run(request, model, partial(open_backend, model, chosen))
        assert result["device"] == chosen
        with rasterio.open(request.output) as file:
            maps.append(file.read(1))
    assert (maps[0] == maps[1]).mean() > 0.9999


@pytest.mark.gpu
@pytest.mark.parametrize("device", GPU_DEVICES)
def test_window_too_large_for_the_gpu_is_halved(
    device: str, model: ModelFile, need_engine: Callable[[str], None]
) -> None:
    need_engine(device)
    random = np.random.default_rng(0)
    window = random.integers(1, 9000, (1, 4, 400, 600)).astype(np.float32)
    expected = open_backend(model, "cpu").predict(window)["probabilities"]
    found = predict_in_parts(open_backend(model, device), window, 2)["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_auto_takes_the_fastest_engine_that_works(
    fake_gpu: Any,
    model: ModelFile,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "hsi_runtime")
    pretend_cuda(monkeypatch)
    assert open_backend(model).device == "tensorrt"
    assert "Engine: tensorrt, the best that is present." in caplog.messages
    for step in ("parse", "build"):
        fake_gpu.trt.refuse = {step: "broken"}
        fake_gpu.trt.__version__ += "1"  # a new engine is needed
        assert open_backend(model).device == "cuda"
        assert "The engine tensorrt is installed, but: " in caplog.text
        assert "broken" in caplog.text
        caplog.clear()
    fake_gpu.cuda.devices = 0
    assert open_backend(model).device == "cpu"
    for name in ("tensorrt", "cuda"):
        assert f"The engine {name} is installed, but: There is no usable GPU" in (
            caplog.text
        )
    assert "Engine: cpu, the best that is present." in caplog.messages


def test_auto_takes_the_processor_quietly_where_nothing_else_is_installed(
    model: ModelFile,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "hsi_runtime")
    monkeypatch.setattr(tensorrt_gpu, "MODULE", "no_such_tensorrt")
    monkeypatch.setattr(onnxruntime_cuda, "PROVIDER", "NoSuchProvider")
    assert open_backend(model).device == "cpu"
    assert caplog.messages == ["Engine: cpu, the best that is present."]


def test_explicit_device_is_never_replaced(
    fake_gpu: Any, model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_cuda(monkeypatch)
    fake_gpu.cuda.devices = 0
    for device in GPU_DEVICES:
        with pytest.raises(EngineError, match="no usable GPU"):
            open_backend(model, device)


def pretend_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let onnxruntime's CPU stand for its CUDA: the calls are the same."""
    monkeypatch.setattr(onnxruntime_cuda, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(onnxruntime_cuda, "OPTIONS", {})
    monkeypatch.setattr(onnxruntime_cuda, "MEMORY", "cpu")


def test_missing_engine_says_what_to_install(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match=r"pip install 'hsi-edge\[cpu\]'"):
        open_backend(model)


def test_half_removed_engine_says_what_to_install(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    import types

    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(EngineError, match="missing or broken"):
        open_backend(model)


def altered(model: ModelFile, change: Callable[[Any], None]) -> ModelFile:
    """Change the graph only; the engine is the first to see it."""
    proto = onnx.load_from_string(model.onnx)
    change(proto.graph)
    return ModelFile(model.path, model.document, proto.SerializeToString(), "")


def rename_input(graph: Any) -> None:
    graph.input[0].name = "x"
    graph.node[0].input[0] = "x"


def other_bands(graph: Any) -> None:
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5


def other_classes(graph: Any) -> None:
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(np.zeros((4, 4, 5, 5), np.float32), "weights")
    )
    graph.initializer[1].CopyFrom(
        onnx.numpy_helper.from_array(np.zeros(4, np.float32), "bias")
    )


def rename_output(graph: Any) -> None:
    graph.output[0].name = graph.node[1].output[0] = "scores_"


def second_input(graph: Any) -> None:
    graph.input.append(
        onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1])
    )


def unknown_operator(graph: Any) -> None:
    graph.node[1].op_type = "Backdoor"


@pytest.mark.parametrize(
    "change",
    [rename_input, other_bands, other_classes, rename_output, second_input],
)
def test_graph_and_document_must_agree(
    change: Callable[[Any], None], model: ModelFile
) -> None:
    with pytest.raises(ModelFileError, match=r"model\.onnx"):
        open_backend(altered(model, change))


def test_refusal_of_the_engine_is_one_line(model: ModelFile) -> None:
    with pytest.raises(ModelFileError, match="is refused by onnxruntime") as error:
        open_backend(altered(model, unknown_operator))
    assert "\n" not in str(error.value)


def test_weights_outside_the_file_are_not_opened(
    model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "weights.bin"
    secret.write_bytes(np.zeros(300, np.float32).tobytes())

    def outside(graph: Any) -> None:
        tensor = graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", str(secret)

    with pytest.raises(ModelFileError, match="refused"):
        open_backend(altered(model, outside))


def test_exhausted_memory_is_a_sentence(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = OnnxruntimeCpu(model, 1)

    class Session:
        def run(self, *_: object) -> None:
            raise RuntimeError("Failed to allocate memory: bad_alloc")

    monkeypatch.setattr(backend, "_session", Session())
    with pytest.raises(ResourceError, match="9 x 9 pixels; choose a smaller --tile"):
        backend.predict(np.zeros((1, 4, 9, 9), np.float32))

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from hsi_runtime.backends import DEVICES, open_backend, openvino_cpu
from hsi_runtime.backends.onnxruntime_cpu import OnnxruntimeCpu
from hsi_runtime.backends.openvino_cpu import OpenvinoCpu
from hsi_runtime.errors import EngineError, ModelFileError, ResourceError
from hsi_runtime.model_file import ModelDocument, ModelFile, Precision, read_model


@pytest.fixture(scope="module")
def model(
    write_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> ModelFile:
    return read_model(write_model(tmp_path_factory.mktemp("model") / "model.onnx"))


@pytest.mark.parametrize("device", ["auto", "cpu", "openvino"])
@pytest.mark.parametrize("threads", [None, 1, 3])
def test_engine_answers_like_numpy(
    device: str,
    threads: int | None,
    model: ModelFile,
    cube: NDArray[Any],
    conv_oracle: Callable[..., NDArray[np.float32]],
) -> None:
    if device == "openvino":
        pytest.importorskip("openvino")
    backend = open_backend(model, device, threads)
    assert backend.device == ("cpu" if device == "auto" else device)
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


def has_bfloat16() -> bool:
    core = pytest.importorskip("openvino").Core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


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
) -> None:
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
    half_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(openvino_cpu, "_has_bfloat16", lambda _: False)
    assert open_backend(half_model(0.5), "openvino", 1).precision == "fp16"
    with pytest.raises(EngineError, match="has no bfloat16"):
        OpenvinoCpu(half_model(0.5), 1, bfloat16=True)


def test_missing_openvino_says_what_to_install(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match=r"pip install 'hsi-edge\[openvino\]'"):
        open_backend(model, "openvino")


def test_unknown_device_names_those_there_are(model: ModelFile) -> None:
    with pytest.raises(EngineError, match="'tpu'; choose from auto, cpu"):
        open_backend(model, "tpu")


def test_device_asked_for_is_taken_or_an_error(model: ModelFile) -> None:
    for device in set(DEVICES) - {"auto"}:
        try:
            backend = open_backend(model, device)
        except EngineError:
            continue  # this machine has no such engine
        assert backend.device == device


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

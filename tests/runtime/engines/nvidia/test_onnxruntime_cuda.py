"""onnxruntime's CUDA engine where there is no GPU: its CPU stands for it.

Binding inputs and outputs is the same there; what a GPU adds is tested under the
marker gpu.
"""

import importlib.metadata
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from hsi_runtime.engines.classifying import predict_in_parts
from hsi_runtime.engines.nvidia import onnxruntime_cuda
from hsi_runtime.engines.nvidia.onnxruntime_cuda import OnnxruntimeCuda
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.errors import (
    DeviceLostError,
    EngineError,
    ModelFileError,
    ResourceError,
)
from hsi_runtime.model.model_file import ModelFile

Session = onnxruntime.InferenceSession


@pytest.fixture
def pretended(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_cuda, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(onnxruntime_cuda, "OPTIONS", {})
    monkeypatch.setattr(onnxruntime_cuda, "MEMORY", "cpu")


def compiled_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the installed wheel claim CUDA, as onnxruntime-gpu does on any machine."""
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: [onnxruntime_cuda.PROVIDER]
    )


@pytest.mark.usefixtures("pretended")
def test_windows_are_bound_and_answered(
    model: ModelFile,
    padded: NDArray[np.float32],
    cube: NDArray[Any],
    conv_oracle: Callable[..., NDArray[np.float32]],
) -> None:
    backend = OnnxruntimeCuda(model)
    expected = conv_oracle(cube)
    for rows, cols in ((23, 31), (1, 31), (1, 1), (7, 5)):
        found = backend.predict(padded[:, :, : rows + 4, : cols + 4])["probabilities"]
        np.testing.assert_allclose(found[0], expected[:, :rows, :cols], atol=1e-5)
    kept = found.copy()
    backend.predict(padded)
    np.testing.assert_array_equal(found, kept)


def test_convolutions_are_not_searched_for_every_shape() -> None:
    assert onnxruntime_cuda.OPTIONS["cudnn_conv_algo_search"] == "HEURISTIC"
    assert onnxruntime_cuda.OPTIONS["use_tf32"] == "0"
    assert onnxruntime_cuda.PROVIDER == "CUDAExecutionProvider"


@pytest.mark.usefixtures("fake_gpu")
def test_silent_retreat_to_the_processor_is_refused(
    model: ModelFile,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    compiled_for_cuda(monkeypatch)
    asked = []

    def retreating(data: bytes, options: Any, providers: Any) -> Any:
        asked.append(providers)
        print("*** EP Error *** falling back to CPU")  # as onnxruntime does, on stdout
        return Session(data, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", retreating)
    with pytest.raises(EngineError, match=r"would compute on the CPU .*--device cpu"):
        OnnxruntimeCuda(model)
    assert asked == [[("CUDAExecutionProvider", onnxruntime_cuda.OPTIONS)]]
    assert capfd.readouterr().out == ""


def test_driver_is_asked_first(
    fake_gpu: Any, model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled_for_cuda(monkeypatch)
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    fake_gpu.cuda.devices = 0
    with pytest.raises(EngineError, match="no usable GPU"):
        OnnxruntimeCuda(model)


@pytest.mark.usefixtures("pretended")
def test_cuda_bindings_may_be_missing(
    model: ModelFile, padded: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert OnnxruntimeCuda(model).predict(padded)["probabilities"].shape[1] == 3


@pytest.mark.parametrize("broken", [None, object()])
def test_missing_or_hollow_engine_says_what_to_install(
    broken: Any, model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", broken)
    with pytest.raises(EngineError, match=r"pip install 'hsi-edge\[gpu\]'"):
        open_backend(model, "cuda")


def test_two_wheels_are_told(
    model: ModelFile,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pretended: None,
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.31.1")
    OnnxruntimeCuda(model)
    assert "onnxruntime and onnxruntime-gpu are both installed" in caplog.text
    monkeypatch.setattr(onnxruntime_cuda, "PROVIDER", "CUDAExecutionProvider")
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"]
    )
    with pytest.raises(EngineError, match=r"both installed .* pip uninstall both"):
        OnnxruntimeCuda(model)


@pytest.mark.usefixtures("pretended")
def test_refused_graph_is_one_line(model: ModelFile) -> None:
    broken = ModelFile(model.path, model.document, model.onnx[:-9], "")
    with pytest.raises(ModelFileError, match="is refused by onnxruntime") as error:
        OnnxruntimeCuda(broken)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "said",
    [
        "Failed to allocate memory for requested buffer of size 9",
        "CUDA failure 2: out of memory ; GPU=0",
        "CUBLAS_STATUS_ALLOC_FAILED",
    ],
)
@pytest.mark.usefixtures("pretended")
def test_exhausted_gpu_lets_the_halves_pass(
    said: str,
    model: ModelFile,
    padded: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = OnnxruntimeCuda(model)
    expected = backend.predict(padded)["probabilities"]
    session = backend._session

    class Small:
        """A session with room for 15 x 15 pixels."""

        bound = (0, 0)

        def io_binding(self) -> Any:
            binding = session.io_binding()
            bind = binding.bind_cpu_input

            def bind_cpu_input(name: str, cube: NDArray[np.float32]) -> None:
                self.bound = cube.shape[2:]
                bind(name, cube)

            binding.bind_cpu_input = bind_cpu_input
            return binding

        def run_with_iobinding(self, binding: Any) -> None:
            if max(self.bound) > 15:
                raise RuntimeError(said)
            session.run_with_iobinding(binding)

    monkeypatch.setattr(backend, "_session", Small())
    with pytest.raises(ResourceError, match="27 x 35 pixels"):
        backend.predict(padded)
    found = predict_in_parts(backend, padded, 2)["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


LOST = (
    "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 700: an illegal memory access was "
    "encountered ; GPU=0 ; hostname=a ; file=cuda_allocator.cc ; line=63 ; "
    "expr=cudaMalloc((void**)&p, size); "
)


@pytest.mark.usefixtures("pretended")
def test_gpu_that_fails_is_told_from_a_bug(
    model: ModelFile, padded: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = OnnxruntimeCuda(model)
    session = backend._session
    said = LOST

    class Failing:
        """A session whose GPU is gone."""

        def io_binding(self) -> Any:
            return session.io_binding()

        def run_with_iobinding(self, binding: Any) -> None:
            raise RuntimeError(said)

    def failing() -> None:
        monkeypatch.setattr(backend, "_session", Failing())

    failing()
    match = r"^The GPU failed: an illegal memory access was encountered; start again"
    with pytest.raises(EngineError, match=match):  # it may never have worked
        backend.predict(padded)
    monkeypatch.setattr(backend, "_session", session)
    backend.predict(padded)
    failing()
    with pytest.raises(DeviceLostError, match=match):
        predict_in_parts(backend, padded, 2)
    said = "CUBLAS failure 14: CUBLAS_STATUS_INTERNAL_ERROR ; GPU=0"
    with pytest.raises(DeviceLostError, match="failed: CUBLAS_STATUS_INTERNAL_ERROR;"):
        backend.predict(padded)
    said = "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0"
    with pytest.raises(ResourceError):
        backend.predict(padded)
    said = "Invalid input name: /onnxruntime/core/providers/cuda/nn/conv.cc"
    with pytest.raises(RuntimeError, match="Invalid input name") as error:
        backend.predict(padded)
    assert type(error.value) is RuntimeError


@pytest.mark.usefixtures("pretended")
def test_gpu_full_at_the_start_is_a_sentence(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA failure 2: out of memory")

    monkeypatch.setattr(onnxruntime, "InferenceSession", full)
    with pytest.raises(ResourceError, match="GPU's memory ran out"):
        OnnxruntimeCuda(model)

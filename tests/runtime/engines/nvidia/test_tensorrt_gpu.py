"""How engines are run, on a FAKE of TensorRT and CUDA: see fake_gpu.py."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hsi_runtime.engines.backend import WINDOWS_ON_GPU
from hsi_runtime.engines.classifying import predict_in_parts
from hsi_runtime.engines.nvidia.tensorrt_gpu import TensorrtGpu
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.errors import (
    DeviceLostError,
    EngineError,
    ModelFileError,
    ResourceError,
)
from hsi_runtime.model.model_file import ModelFile, read_model
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request

TILE = 30


def test_every_window_is_answered_like_numpy(
    fake_gpu: Any,
    model: ModelFile,
    padded: NDArray[np.float32],
    cube: NDArray[Any],
    conv_oracle: Callable[..., NDArray[np.float32]],
) -> None:
    backend = TensorrtGpu(model, TILE)
    expected = conv_oracle(cube)
    for rows, cols in ((23, 30), (1, 30), (23, 1), (1, 1), (7, 5), (23, 30)):
        for first in (0, 1):
            window = padded[:, :, : rows + 4, first : first + cols + 4]
            found = backend.predict(window)["probabilities"]
            assert found.shape == (1, 3, rows, cols)
            wanted = expected[:, :rows, first : first + cols]
            np.testing.assert_allclose(found[0], wanted, atol=1e-5)
    batch = np.concatenate([padded[..., :-1], padded[..., :0:-1]])
    both = backend.predict(batch)["probabilities"]
    np.testing.assert_allclose(both[0], expected[..., :-1], atol=1e-5)
    kept = both.copy()
    backend.predict(batch[::-1])
    np.testing.assert_array_equal(both, kept)


def test_outputs_are_told_apart_by_name(
    fake_gpu: Any,
    write_model: Callable[..., Path],
    document: Any,
    tmp_path: Path,
    padded: NDArray[np.float32],
) -> None:
    from msgspec.structs import replace

    from hsi_runtime.model.array import Array

    spectra = Array.pack(np.ones((3, 4), np.float32))
    both = replace(
        document, outputs=["probabilities", "abundances"], endmembers=spectra
    )
    unmixing = read_model(write_model(tmp_path / "m.onnx", both))
    window = padded[..., :20, :20]
    expected = open_backend(unmixing, "cpu", 1).predict(window, both.outputs)
    backend = TensorrtGpu(unmixing, TILE)
    for names in (both.outputs, both.outputs[::-1], ["abundances"]):
        found = backend.predict(window, names)
        assert list(found) == names
        for name in names:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-6)
    assert np.abs(found["abundances"] - expected["probabilities"]).max() > 0.1


def test_two_threads_share_the_gpu_without_mixing_windows(
    fake_gpu: Any, model: ModelFile, padded: NDArray[np.float32]
) -> None:
    backend = TensorrtGpu(model, TILE)
    windows = [np.roll(padded[..., :20, :20], k, axis=3) for k in range(3)]
    alone = [backend.predict(w)["probabilities"] for w in windows]
    found: dict[int, list[Any]] = {}

    def ask(k: int) -> None:
        found[k] = [backend.predict(windows[k])["probabilities"] for _ in range(30)]

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(len(windows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, answers in found.items():
        assert len(answers) == 30
        for answer in answers:
            np.testing.assert_array_equal(answer, alone[k])
    assert len(fake_gpu.cuda.streams) == WINDOWS_ON_GPU


def test_a_whole_scene_is_mapped_as_on_the_cpu(
    fake_gpu: Any,
    model: ModelFile,
    cube: NDArray[Any],
    write_scene_tiff: Callable[..., Path],
    tmp_path: Path,
) -> None:
    import rasterio

    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    maps = {}
    for device in ("cpu", "tensorrt"):
        request = Request(scene, tmp_path / f"{device}.tif", tile=7, probabilities=True)
        result = run(request, model, lambda d=device: open_backend(model, d))  # type: ignore[misc]
        assert result["device"] == device
        with rasterio.open(result["outputs"]["classes"]) as file:
            maps[device] = file.read(1)
            assert file.tags()["HSI_DEVICE"] == device
    np.testing.assert_array_equal(maps["cpu"], maps["tensorrt"])


def test_window_beyond_the_engine_is_refused_and_then_halved(
    fake_gpu: Any, model: ModelFile, padded: NDArray[np.float32]
) -> None:
    backend = TensorrtGpu(model, 8)
    with pytest.raises(ResourceError, match=r"27 x 35 pixels .* 12 x 12; .*--tile"):
        backend.predict(padded)
    found = predict_in_parts(backend, padded, 2)["probabilities"]
    expected = open_backend(model, "cpu", 1).predict(padded)["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("step", "complaint", "error", "match"),
    [
        (
            "parse",
            "no importer",
            ModelFileError,
            "by TensorRT: DFT node_7: no importer",
        ),
        ("build", "no tactic for Conv_3", EngineError, "built no engine .*no tactic"),
        ("build", "cudaMalloc: out of memory", ResourceError, "memory ran out.*--tile"),
        ("deserialize", "magic tag", EngineError, "refuses its own engine: magic tag"),
        ("context", "out of memory", ResourceError, "memory ran out"),
    ],
)
def test_failures_at_the_start_are_sentences(
    step: str,
    complaint: str,
    error: type[Exception],
    match: str,
    fake_gpu: Any,
    model: ModelFile,
    tmp_path: Path,
) -> None:
    fake_gpu.trt.refuse[step] = complaint
    with pytest.raises(error, match=match):
        TensorrtGpu(model, TILE)
    assert not list((tmp_path / "cache").rglob("*.engine"))
    del fake_gpu.trt.refuse[step]
    TensorrtGpu(model, TILE)


def test_failures_of_a_window_are_sentences(
    fake_gpu: Any, model: ModelFile, padded: NDArray[np.float32]
) -> None:
    backend = TensorrtGpu(model, TILE)
    window = padded[..., :20, :20]
    expected = backend.predict(window)["probabilities"]
    fake_gpu.trt.refuse["enqueue"] = "CUDA: out of memory"
    with pytest.raises(ResourceError, match="out of memory"):
        backend.predict(window)
    fake_gpu.trt.refuse["enqueue"] = "misaligned"
    refused = r"1, 4, 20, 20\): misaligned\. Use --device"
    with pytest.raises(DeviceLostError, match=refused):
        backend.predict(window)
    fake_gpu.trt.refuse.clear()
    fake_gpu.cuda.failing = fake_gpu.cuda.cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(DeviceLostError, match="cudaErrorIllegalAddress"):
        backend.predict(window)
    fake_gpu.cuda.failing = fake_gpu.cuda.cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(ResourceError, match="GPU's memory ran out"):
        backend.predict(window)
    with pytest.raises(EngineError, match=r"refuses shape \(1, 4, 4, 20\)"):
        backend.predict(window[:, :, :4])
    fake_gpu.cuda.failing = fake_gpu.cuda.cudaError_t.cudaSuccess
    for stream in fake_gpu.cuda.streams.values():
        stream.clear()
    for _ in range(WINDOWS_ON_GPU):
        np.testing.assert_array_equal(
            backend.predict(window)["probabilities"], expected
        )


def test_gpu_that_never_answered_is_not_lost(
    fake_gpu: Any, model: ModelFile, padded: NDArray[np.float32]
) -> None:
    TensorrtGpu(model, TILE)  # builds the engine, and tries it
    backend = TensorrtGpu(model, TILE)
    fake_gpu.cuda.lasts = fake_gpu.cuda.waits
    for _ in range(2):
        with pytest.raises(EngineError, match="GPU failed: cudaErrorIllegalAddress"):
            backend.predict(padded[..., :20, :20])


def test_gpu_without_room_for_buffers_is_a_sentence(
    fake_gpu: Any, model: ModelFile
) -> None:
    fake_gpu.cuda.free = 20_000
    with pytest.raises(ResourceError, match="GPU's memory ran out"):
        TensorrtGpu(model, TILE)


def test_memory_of_the_gpu_is_given_back(fake_gpu: Any, model: ModelFile) -> None:
    free = fake_gpu.cuda.free
    backend = TensorrtGpu(model, TILE)
    assert fake_gpu.cuda.free < free
    assert {kind for _, kind in fake_gpu.cuda.memory.values()} == {"device", "pinned"}
    del backend
    assert fake_gpu.cuda.free == free
    assert not fake_gpu.cuda.memory
    assert not fake_gpu.cuda.streams


def no_driver(gpu: Any) -> None:
    gpu.cuda.driver = gpu.cuda.cudaError_t.cudaErrorInsufficientDriver


def no_device(gpu: Any) -> None:
    gpu.cuda.driver = gpu.cuda.cudaError_t.cudaErrorNoDevice


def no_device_listed(gpu: Any) -> None:
    gpu.cuda.devices = 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (no_driver, r"no NVIDIA driver, or one too old .*InsufficientDriver.*driver"),
        (no_device, r"no usable GPU \(cudaErrorNoDevice\); use --device cpu"),
        (no_device_listed, r"no usable GPU \(the driver lists none\)"),
    ],
)
def test_missing_gpu_is_told_before_tensorrt_is_touched(
    change: Callable[[Any], None],
    match: str,
    fake_gpu: Any,
    model: ModelFile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change(fake_gpu)
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # importing it would fail
    with pytest.raises(EngineError, match=match):
        open_backend(model, "tensorrt")


@pytest.mark.parametrize(
    ("module", "match"),
    [
        ("tensorrt", r"TensorRT is missing .*pip install 'hsi-edge\[tensorrt\]'"),
        ("cuda.bindings.runtime", r"cuda-bindings is missing; pip install"),
    ],
)
def test_missing_module_says_what_to_install(
    module: str,
    match: str,
    fake_gpu: Any,
    model: ModelFile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EngineError, match=match):
        open_backend(model, "tensorrt")


def test_old_generation_is_refused(fake_gpu: Any, model: ModelFile) -> None:
    fake_gpu.trt.__version__ = "8.6.1"
    with pytest.raises(EngineError, match=r"TensorRT 8\.6\.1 is too old; 10"):
        TensorrtGpu(model, TILE)

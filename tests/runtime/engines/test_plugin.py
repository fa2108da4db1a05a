import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import rasterio
from numpy.typing import NDArray

from hsi_runtime.engines import plugin
from hsi_runtime.engines.backend import PLUGIN_DEVICES
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.errors import (
    DeviceLostError,
    EngineError,
    ResourceError,
    VerificationError,
)
from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.parts.agreement import describe_engine

CPU = "CPUExecutionProvider"
REGISTERED = plugin._register
HSI_RUN = "from hsi_runtime.cli import main; main()"


@pytest.fixture(autouse=True)
def nothing_registered() -> Iterator[None]:
    REGISTERED.cache_clear()
    yield
    REGISTERED.cache_clear()


@pytest.fixture
def cpu_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let onnxruntime's CPU stand for an accelerator: the calls are the same."""
    devices = [d for d in onnxruntime.get_ep_devices() if d.ep_name == CPU]
    monkeypatch.setattr(plugin, "_register", lambda _: (CPU, devices))


def part(provider: str, *kinds: str) -> Any:
    nodes = [SimpleNamespace(op_type=kind) for kind in kinds]
    return SimpleNamespace(ep_name=provider, get_nodes=lambda: nodes)


def session(*parts: Any) -> Any:
    return SimpleNamespace(get_provider_graph_assignment_info=lambda: list(parts))


def test_every_plugin_is_a_device() -> None:
    assert tuple(plugin.PLUGINS) == PLUGIN_DEVICES


@pytest.mark.parametrize("device", PLUGIN_DEVICES)
def test_a_missing_plugin_says_what_to_install(
    device: str, model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, plugin.PLUGINS[device].module, None)
    with pytest.raises(EngineError, match=f"{device} is missing; pip install "):
        open_backend(model, device)


def test_an_onnxruntime_without_plugins_is_told(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(onnxruntime, "register_execution_provider_library")
    with pytest.raises(EngineError, match=r"webgpu needs onnxruntime 1\.27 or newer"):
        open_backend(model, "webgpu")


def test_a_plugin_that_cannot_be_loaded_is_told(
    model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "broken.so"
    library.write_bytes(b"no library")
    broken = SimpleNamespace(get_library_path=lambda: str(library))
    monkeypatch.setitem(sys.modules, plugin.PLUGINS["qnn"].module, broken)
    with pytest.raises(EngineError, match="qnn is installed, but cannot be loaded: "):
        open_backend(model, "qnn")


def test_a_plugin_without_an_accelerator_is_told(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = SimpleNamespace(get_library_path=str, get_ep_name=lambda: "NoSuchProvider")
    monkeypatch.setitem(sys.modules, plugin.PLUGINS["qnn"].module, alone)
    monkeypatch.setattr(
        onnxruntime, "register_execution_provider_library", lambda *_: None
    )
    with pytest.raises(EngineError, match="qnn finds no accelerator with a driver"):
        open_backend(model, "qnn")


@pytest.mark.usefixtures("cpu_stands_in")
def test_it_answers_and_passes_the_self_test(
    model: ModelFile,
    padded: NDArray[np.float32],
    cube: NDArray[Any],
    conv_oracle: Callable[..., NDArray[np.float32]],
) -> None:
    backend = open_backend(model, "webgpu")
    assert (backend.device, backend.precision) == ("webgpu", "fp32")
    found = backend.predict(padded)["probabilities"][0]
    np.testing.assert_allclose(found, conv_oracle(cube), atol=1e-5)
    # Parts of one scene must not come from two kinds of accelerator.
    described = describe_engine(backend)["accelerator"]
    assert described.startswith(f"{CPU} {onnxruntime.__version__} on ")


@pytest.mark.usefixtures("cpu_stands_in")
def test_wrong_answers_are_refused(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = plugin.OnnxruntimePlugin.predict

    def wrong(self: Any, *arguments: Any) -> dict[str, NDArray[np.float32]]:
        return {k: v[:, ::-1] for k, v in right(self, *arguments).items()}

    monkeypatch.setattr(plugin.OnnxruntimePlugin, "predict", wrong)
    with pytest.raises(VerificationError, match="Self-test failed on webgpu"):
        open_backend(model, "webgpu")


@pytest.mark.usefixtures("cpu_stands_in")
def test_a_graph_that_it_does_not_know_is_refused(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel for Conv\nmore")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    # An export goes on without it.
    with pytest.raises(EngineError, match="cannot compute this model: no kernel for C"):
        open_backend(model, "webgpu")


@pytest.mark.usefixtures("cpu_stands_in")
def test_failures_while_it_computes(
    model: ModelFile, padded: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = plugin.OnnxruntimePlugin(model, "webgpu")
    working, reason = backend._session, ""

    def fail(*_: Any) -> None:
        raise RuntimeError(reason)

    broken = SimpleNamespace(run=fail)
    reason = "the device hangs"
    monkeypatch.setattr(backend, "_session", broken)
    with pytest.raises(EngineError, match="webgpu failed: the device hangs") as first:
        backend.predict(padded)
    assert not isinstance(first.value, DeviceLostError)
    monkeypatch.setattr(backend, "_session", working)
    backend.predict(padded)
    monkeypatch.setattr(backend, "_session", broken)
    with pytest.raises(DeviceLostError, match="webgpu failed"):
        backend.predict(padded)
    reason = "failed to allocate a buffer"
    with pytest.raises(ResourceError, match="choose a smaller --tile"):
        backend.predict(padded)


def test_work_left_to_the_processor_is_refused_and_named() -> None:
    sizes = part(CPU, "Shape", "Concat", "Reshape")
    plugin._check_work(session(part("P", "Conv", "MatMul"), sizes), "P", "webgpu")
    mixed = session(part("P", "Conv"), sizes, part(CPU, "MatMul"), part(CPU, "MatMul"))
    with pytest.raises(EngineError, match="webgpu would leave 2 MatMul of this model"):
        plugin._check_work(mixed, "P", "webgpu")
    with pytest.raises(EngineError, match="would leave everything of this model"):
        plugin._check_work(session(sizes), "P", "webgpu")


def test_a_scene_is_mapped_by_webgpu_as_on_the_processor(
    model: ModelFile,
    cube: NDArray[Any],
    write_scene_tiff: Callable[..., Path],
    software_gpu: dict[str, str],
    tmp_path: Path,
) -> None:
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    maps = []
    for device in ("cpu", "webgpu"):
        done = subprocess.run(
            [
                *(sys.executable, "-c", HSI_RUN, str(scene)),
                *("-m", str(model.path), "--device", device),
                *("-o", str(tmp_path / f"{device}.tif")),
            ],
            env=software_gpu,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        with rasterio.open(tmp_path / f"{device}.tif") as file:
            maps.append(file.read(1))
            assert file.tags()["HSI_DEVICE"] == device
    np.testing.assert_array_equal(*maps)

import hashlib
import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings

from hsi_runtime.engines import openvino_cpu, plugin
from hsi_runtime.engines.nvidia import cuda_memory, onnxruntime_cuda, tensorrt_gpu
from hsi_runtime.errors import EngineError

# Of tests/support; one that another imports comes first, or pytest warns.
pytest_plugins = (
    *("once", "small_model", "trained_model", "scenes", "products", "followed"),
)

PROJECT = Path(__file__).parents[1]
# As the commands do; before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    # The cores are shared out already; trainings of commands are tiny, too.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell's background job ignores Ctrl-C, and one under nohup a closed terminal; here
# both must arrive, in children, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A busy machine is no failure.
settings.register_profile("hsi", deadline=None)
settings.load_profile("hsi")


@pytest.fixture(scope="session", autouse=True)
def _no_measured_choice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let ``auto`` be the same engine each time, and leave the user's cache alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(openvino_cpu, "is_installed", lambda: False)
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    folder = Path(os.environ.get("HSI_DATA", PROJECT / "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"needs the real scenes in {folder}; set HSI_DATA to them")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where the driver finds none."""
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting:
        return
    try:
        cuda_memory.probe(cuda_memory.load())
    except EngineError as error:
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason=str(error)))


@pytest.fixture(scope="session")
def need_engine() -> Callable[[str], None]:
    """Skip a test whose engine is not installed; one that is there must work."""

    def need(device: str) -> None:
        packages = {"openvino": "openvino", "tensorrt": tensorrt_gpu.MODULE}
        # Found, not imported: how that is done is the engine's business.
        if device in packages and importlib.util.find_spec(packages[device]) is None:
            pytest.skip(f"{packages[device]} is not installed")
        if device == "cuda" and not onnxruntime_cuda.is_installed():
            pytest.skip("this onnxruntime has no CUDA")

    return need


@pytest.fixture(scope="session")
def software_gpu() -> dict[str, str]:
    """Return the environment of a process that finds a Vulkan GPU in software."""
    if importlib.util.find_spec(plugin.PLUGINS["webgpu"].module) is None:
        pytest.skip("onnxruntime-ep-webgpu is not installed")
    folder = PROJECT / "build" / "software_gpu"
    driver = folder / "usr/lib/chromium/vk_swiftshader_icd.json"
    loader = next(folder.glob("usr/lib/*/libvulkan.so.1"), None)
    if loader is None or not driver.is_file():
        pytest.skip("needs a GPU in software: make software-gpu")
    return os.environ | {
        "LD_LIBRARY_PATH": str(loader.parent),
        "VK_ICD_FILENAMES": str(driver),
        "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1",
    }


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def no_sudden_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped command that has threads ends its process at once: here, pytest."""
    monkeypatch.setattr(os, "_exit", sys.exit)


@pytest.fixture
def invoke(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Outcome]]:
    """Run a command in this process: ``invoke(main, *arguments)``.

    What a user would see as a traceback escapes as an exception and fails the test.
    """
    packages = ("hsi_train", "hsi_export", "hsi_runtime")
    loggers = [logging.getLogger(p) for p in packages]
    before = [(g.handlers, g.propagate, g.level) for g in loggers]
    handlers_before = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)
    }

    def run(main: Callable[[], Any], *arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["hsi", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        code = stopped.value.code
        assert isinstance(code, int)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Outcome(code, out, err)

    yield run
    for number, handler in handlers_before.items():
        signal.signal(number, handler)
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def digests() -> Callable[[Path], dict[str, str]]:
    """Hash every file below a folder, so that a test sees any change."""

    def hash_all(folder: Path) -> dict[str, str]:
        return {
            str(p.relative_to(folder)): hashlib.sha256(
                p.read_bytes() if p.is_file() else b"folder"
            ).hexdigest()
            for p in sorted(folder.rglob("*"))
        }

    return hash_all


@pytest.fixture
def fake_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend that there are a GPU and TensorRT, with an empty cache of engines."""
    pytest.importorskip("onnx")
    from fake_gpu import CUDA, TENSORRT, Gpu

    gpu = Gpu()
    monkeypatch.setitem(sys.modules, CUDA, gpu.cuda)
    monkeypatch.setitem(sys.modules, TENSORRT, gpu.trt)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return gpu

"""When an engine is built, and why, on a FAKE of TensorRT: see fake_gpu.py."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hsi_runtime.engines.nvidia import engine_build
from hsi_runtime.engines.nvidia.engine_cache import EngineCache
from hsi_runtime.engines.nvidia.tensorrt_gpu import TensorrtGpu
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.errors import EngineError, VerificationError
from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.walk.windows import DEFAULT_TILE

TILE = 30


def test_engine_is_built_once_and_says_why(
    fake_gpu: Any,
    model: ModelFile,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.INFO, "hsi_runtime")
    first = TensorrtGpu(model, TILE).engine
    assert first.built
    assert first.path.parent == tmp_path / "cache" / "hsi-edge" / "engines"
    assert "this model was not used on this machine before" in caplog.text
    assert "Fake GPU" in caplog.text
    assert str(first.path.parent) in caplog.text
    caplog.clear()
    second = TensorrtGpu(model, TILE).engine
    assert (second.built, second.path) == (False, first.path)
    assert (fake_gpu.trt.builds, caplog.text) == (1, "")


def change_version(gpu: Any) -> None:
    gpu.trt.__version__ = "10.13.3"


def change_gpu(gpu: Any) -> None:
    gpu.cuda.name = b"Other GPU"


def change_capability(gpu: Any) -> None:
    gpu.cuda.minor = 9


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (change_version, "TensorRT was tensorrt 11.4.1, is tensorrt 10.13.3"),
        (change_gpu, "the GPU was Fake GPU, is Other GPU"),
        (change_capability, "its compute capability was 8.7, is 8.9"),
    ],
)
def test_engine_is_built_again_for_another_machine(
    change: Callable[[Any], None],
    why: str,
    fake_gpu: Any,
    model: ModelFile,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "hsi_runtime")
    before = TensorrtGpu(model, TILE).engine.path
    change(fake_gpu)
    after = TensorrtGpu(model, TILE).engine
    assert after.built
    assert why in caplog.text
    assert before.exists()
    assert after.path != before


def test_larger_windows_need_another_engine_smaller_ones_do_not(
    fake_gpu: Any, model: ModelFile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hsi_runtime")
    for tile in (None, 5, DEFAULT_TILE):
        open_backend(model, "tensorrt", None, tile)
    assert fake_gpu.trt.builds == 1
    open_backend(model, "tensorrt", None, 200)
    assert fake_gpu.trt.builds == 2
    was, now = "1x4x5x5 to 1x4x132x132", "1x4x5x5 to 1x4x204x204"
    assert f"the range of windows was {was}, is {now}" in caplog.text


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "other key"])
def test_damaged_engine_is_built_again(
    damage: str, fake_gpu: Any, model: ModelFile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hsi_runtime")
    path = TensorrtGpu(model, TILE).engine.path
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[-20] ^= 1
    elif damage == "cut":
        del data[-50:]
    elif damage == "empty":
        data.clear()
    else:
        data = data.replace(b'"8.7"', b'"8.9"')
    path.write_bytes(data)
    caplog.clear()
    assert TensorrtGpu(model, TILE).engine.built
    assert "the one that is there is damaged" in caplog.text
    assert not TensorrtGpu(model, TILE).engine.built


def test_engine_that_tensorrt_no_longer_takes_is_built_again(
    fake_gpu: Any,
    model: ModelFile,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "hsi_runtime")
    TensorrtGpu(model, TILE)
    real = engine_build.deserialize
    refused: list[bytes] = []

    def refuse_twice(trt: Any, engine: bytes) -> Any:
        if len(refused) < 2:  # before and after it waited for its turn
            refused.append(engine)
            return None
        return real(trt, engine)

    monkeypatch.setattr(engine_build, "deserialize", refuse_twice)
    assert TensorrtGpu(model, TILE).engine.built
    assert "TensorRT refuses the one that is there" in caplog.text


def test_engine_of_a_faster_process_is_taken(
    fake_gpu: Any, model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process finishes between our first look and our turn."""
    real, looks = EngineCache.load, []

    def look(self: EngineCache, key: Any) -> Any:
        looks.append(key)
        if len(looks) == 1:
            monkeypatch.setattr(EngineCache, "load", real)
            TensorrtGpu(model, TILE)
            monkeypatch.setattr(EngineCache, "load", look)
            return None, "none yet"
        return real(self, key)

    monkeypatch.setattr(EngineCache, "load", look)
    assert not TensorrtGpu(model, TILE).engine.built
    assert (fake_gpu.trt.builds, len(looks)) == (1, 2)


def test_engine_that_answers_wrongly_is_not_kept(
    fake_gpu: Any, model: ModelFile, tmp_path: Path
) -> None:
    fake_gpu.trt.flaw = 0.01
    with pytest.raises(VerificationError, match="Self-test failed on tensorrt"):
        TensorrtGpu(model, TILE)
    assert not list((tmp_path / "cache").rglob("*.engine"))


def test_cache_that_others_can_write_is_refused(
    fake_gpu: Any, model: ModelFile, tmp_path: Path
) -> None:
    path = TensorrtGpu(model, TILE).engine.path
    os.chmod(path.parent, 0o777)
    with pytest.raises(EngineError, match="written by, someone else"):
        TensorrtGpu(model, TILE)
    os.chmod(path.parent, 0o700)
    os.chmod(path, 0o666)
    with pytest.raises(EngineError, match=f"{path.name} belongs to"):
        TensorrtGpu(model, TILE)
    assert fake_gpu.trt.builds == 1

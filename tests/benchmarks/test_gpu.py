"""The benchmark of the GPU, on a FAKE of it: that it runs, not what it measures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import gpu
import pytest
from click.testing import CliRunner

from hsi_runtime.engines.nvidia import onnxruntime_cuda
from hsi_runtime.errors import VerificationError
from hsi_runtime.model.model_file import read_model


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    said: list[Any] = []
    monkeypatch.setattr(common, "report", lambda *given: said.append(given))
    return said


@pytest.fixture
def quick(
    write_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spare the training, and most of the rounds."""
    model = read_model(write_model(tmp_path / "model.onnx"))
    made = {"mf2cnet fp32": model, "mf2cnet fp16": VerificationError("overflows")}
    monkeypatch.setattr(gpu, "make_models", lambda *_: made)
    monkeypatch.setattr(gpu, "TILES", (16, 40))
    monkeypatch.setattr(gpu, "ROUNDS", 2)
    monkeypatch.setattr(gpu, "ROUND_S", 0.01)


@pytest.mark.usefixtures("quick")
def test_every_engine_that_is_installed_is_measured(
    fake_gpu: Any, reported: list[Any]
) -> None:
    done = CliRunner().invoke(gpu.main, [])
    assert done.exit_code == 4, done.output  # one file could not be made
    ((name, figures, _),) = reported
    assert name == "gpu"
    json.dumps(figures)
    assert figures["gpu"] == {"name": "Fake GPU", "compute_capability": "8.7"}
    assert figures["versions"]["tensorrt"] == "11.4.1"
    cuda = onnxruntime_cuda.is_installed()
    assert figures["not_installed"] == ([] if cuda else ["cuda"])
    assert figures["mf2cnet fp16"] == {"error": "overflows"}
    found = figures["mf2cnet fp32"]["tensorrt"]
    assert found["max_difference_from_cpu"] < 1e-5
    assert found["equal_classes_with_cpu"] == 1
    for rates in found["pixels_per_second"].values():
        for kind in ("alone", "overlapped"):
            low, high = rates[kind]["range"]
            assert 0 < low <= rates[kind]["median"] <= high


@pytest.mark.usefixtures("quick")
def test_engine_that_fails_is_told(fake_gpu: Any, reported: list[Any]) -> None:
    fake_gpu.trt.flaw = 0.1
    done = CliRunner().invoke(gpu.main, [])
    assert done.exit_code == 4
    figures = reported[0][1]["mf2cnet fp32"]
    assert "Self-test failed" in figures["tensorrt"]["error"]
    assert "error" not in figures["cpu"]


def test_without_a_gpu_nothing_is_written(
    fake_gpu: Any, reported: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_gpu.cuda.devices = 0
    monkeypatch.setattr(gpu, "make_models", None)
    done = CliRunner().invoke(gpu.main, [])
    assert done.exit_code == 4
    assert "Nothing was measured" in done.output
    assert "no usable GPU" in done.output
    assert reported == []

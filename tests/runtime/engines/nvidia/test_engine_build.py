"""How engines are built: on a FAKE of TensorRT, and by the real TensorRT-RTX.

TensorRT-RTX builds engines without a GPU, and has TensorRT's own interface.
"""

import logging
from collections.abc import Callable
from typing import Any

import fake_gpu as fakes
import onnx
import pytest

from hsi_runtime.engines.nvidia import engine_build
from hsi_runtime.engines.nvidia.engine_build import Profile, build, profile_of
from hsi_runtime.errors import EngineError, ModelFileError
from hsi_runtime.model.model_file import ModelDocument, ModelFile

PROFILE = Profile((1, 4, 5, 5), (1, 4, 20, 20))


def test_profile_spans_a_pixel_and_the_largest_window(document: ModelDocument) -> None:
    assert profile_of(document, 128) == ((1, 4, 5, 5), (1, 4, 132, 132))
    assert profile_of(document, 1) == ((1, 4, 5, 5), (1, 4, 5, 5))


def test_progress_is_told_now_and_then(
    fake_gpu: Any,
    model: ModelFile,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "hsi_runtime")
    build(fake_gpu.trt, model, PROFILE)
    assert "Building, step" not in caplog.text  # it took no time
    monkeypatch.setattr(engine_build, "SAY_EVERY_S", 0.05)
    fake_gpu.trt.step_seconds = 0.3
    build(fake_gpu.trt, model, PROFILE)
    assert "Building, step 1 of 2" in caplog.text
    assert "Building, step 2 of 2" in caplog.text


def test_user_who_stops_ends_the_build(
    fake_gpu: Any, model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[Callable[[], Any]] = []

    def stopped(job: Callable[[], Any]) -> None:
        jobs.append(job)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine_build, "in_background", stopped)
    with pytest.raises(KeyboardInterrupt):
        build(fake_gpu.trt, model, PROFILE)
    assert jobs[0]() is None  # its thread hears of it at the next step
    assert fake_gpu.trt.builds == 0


def test_machine_without_builder_is_told(fake_gpu: Any, model: ModelFile) -> None:
    def no_builder(logger: Any) -> None:
        logger.log(fake_gpu.trt.ILogger.ERROR, "CUDA error 35")
        raise TypeError("factory function returned nullptr")

    fake_gpu.trt.Builder = no_builder
    with pytest.raises(EngineError, match=r"no builder: CUDA error 35\. Use --device"):
        build(fake_gpu.trt, model, PROFILE)


def test_fake_has_nothing_that_tensorrt_lacks(fake_gpu: Any) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    fake = fake_gpu.trt
    pairs = {
        fake.ILogger: trt.ILogger,
        fake.IProgressMonitor: trt.IProgressMonitor,
        fake.NetworkDefinitionCreationFlag: trt.NetworkDefinitionCreationFlag,
        fake.BuilderFlag: trt.BuilderFlag,
        fake.MemoryPoolType: trt.MemoryPoolType,
        fakes.Builder: trt.Builder,
        fakes.OptimizationProfile: trt.IOptimizationProfile,
        fakes.BuilderConfig: trt.IBuilderConfig,
        fakes.OnnxParser: trt.OnnxParser,
        fakes.ParserError: trt.ParserError,
        fakes.Runtime: trt.Runtime,
        fakes.Engine: trt.ICudaEngine,
        fakes.ExecutionContext: trt.IExecutionContext,
    }
    for ours, real in pairs.items():
        missing = {n for n in vars(ours) if n[0] != "_"} - set(dir(real))
        assert not missing, (ours, missing)


def test_real_builder_takes_the_graph(model: ModelFile) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    engine = build(trt, model, PROFILE)
    assert len(engine) > 1000


def test_real_parser_refuses_what_it_does_not_know(model: ModelFile) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    proto = onnx.load_from_string(model.onnx)
    proto.graph.node[1].op_type = "Backdoor"
    broken = ModelFile(model.path, model.document, proto.SerializeToString(), "")
    with pytest.raises(ModelFileError, match=r"refused by TensorRT: Backdoor"):
        build(trt, broken, PROFILE)


def test_real_builder_refuses_shapes_that_do_not_fit(model: ModelFile) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    with pytest.raises(EngineError, match="TensorRT"):
        build(trt, model, Profile((1, 7, 5, 5), (1, 7, 20, 20)))

"""The choice between the engines of a CPU; what was measured is given here."""

import importlib.metadata
import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import hsi_runtime
from hsi_runtime import batch, pipeline
from hsi_runtime.cli import main
from hsi_runtime.engines import choosing, opening, openvino_cpu
from hsi_runtime.engines.backend import Backend
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.errors import EngineError, OutputError
from hsi_runtime.machine import usable_cores
from hsi_runtime.model.model_file import PROBABILITIES, ModelFile
from hsi_runtime.pipeline import run
from hsi_runtime.request import Options, Request

CPU, OPENVINO = 1000.0, 2500.0


class Stand:
    """Stands for both engines: onnxruntime, under either name."""

    precision, windows_at_once = "fp32", 1

    def __init__(self, model: ModelFile, device: str) -> None:
        from hsi_runtime.engines.onnxruntime_cpu import OnnxruntimeCpu

        self.device = device
        self.inner = OnnxruntimeCpu(model, 1)

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        return self.inner.predict(cube, outputs)


class Machine:
    """Two engines with speeds of our own.

    Attributes:
        rates: Pixels per second by device.
        started: Devices that were started.
        rounds: Rounds that were measured.
        broken: Why OpenVINO does not start, or nothing.
    """

    def __init__(self) -> None:
        self.rates = {"cpu": CPU, "openvino": OPENVINO}
        self.started: list[str] = []
        self.rounds = 0
        self.broken = ""

    def start(self, model: ModelFile, *given: Any) -> Backend:
        device = given[-1]
        if device == "openvino" and self.broken:
            raise EngineError(self.broken)
        self.started.append(device)
        return Stand(model, device)

    def rate(self, backend: Backend, *_: Any) -> float:
        self.rounds += 1
        return self.rates[backend.device]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    made = Machine()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(openvino_cpu, "is_installed", lambda: True)
    monkeypatch.setattr(opening, "_best_gpu", lambda *_: None)
    monkeypatch.setattr(opening, "_start_cpu", made.start)
    monkeypatch.setattr(choosing, "pixels_per_second", made.rate)
    return made


measured = partial(open_backend, device="auto", threads=1, measure=True)


@pytest.mark.parametrize(
    ("rate", "device", "said"),
    [
        (OPENVINO, "openvino", "openvino, 2.50 times as fast as cpu"),
        (CPU * 1.1, "cpu", "cpu, 0.91 times as fast as openvino"),  # too little
        (CPU / 4, "cpu", "cpu, 4.00 times as fast as openvino"),
    ],
)
def test_the_faster_engine_is_taken_and_remembered(
    rate: float,
    device: str,
    said: str,
    machine: Machine,
    model: ModelFile,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "hsi_runtime")
    machine.rates["openvino"] = rate
    first = measured(model)
    assert first.device == device
    assert machine.rounds == 2 * choosing.ROUNDS
    assert caplog.messages == [f"Engine: {said} with this model, as this run measured."]
    machine.started.clear()
    again = measured(model)
    assert machine.started == [device]
    assert machine.rounds == 2 * choosing.ROUNDS  # not measured again
    assert f"{said} with this model, as an earlier run measured." in caplog.messages[1]
    told = choosing.report(again)
    assert told == {
        "pixels_per_second": {"cpu": 1000, "openvino": round(rate)},
        "remembered": True,
    }
    assert measured(model).device == again.device == device


def test_nothing_is_measured_unless_asked_for(
    machine: Machine, model: ModelFile
) -> None:
    backend = open_backend(model)
    assert backend.device == "cpu"
    assert choosing.report(backend) is None
    assert measured(model).device == "openvino"
    assert open_backend(model).device == "cpu"  # parts of a scene
    assert measured(model, device="cpu").device == "cpu"


@pytest.mark.parametrize("change", ["model", "version", "processor", "threads", "tile"])
def test_what_the_speed_depends_on_is_measured_anew(
    change: str,
    machine: Machine,
    model: ModelFile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert measured(model, threads=1).device == "openvino"
    machine.rates["openvino"] = CPU / 2
    options: dict[str, Any] = {"threads": 1}
    if change == "model":
        model = ModelFile(model.path, model.document, model.onnx, "0" * 64)
    elif change == "version":
        version = importlib.metadata.version
        changed = {"openvino": "99.0"}
        monkeypatch.setattr(
            importlib.metadata,
            "version",
            lambda name: changed.get(name) or version(name),
        )
    elif change == "processor":
        monkeypatch.setattr("hsi_runtime.machine.processor", lambda: "Another one")
    else:
        options[change] = 9
    assert measured(model, **options).device == "cpu"


def test_engine_that_does_not_work_is_told_and_not_taken(
    machine: Machine, model: ModelFile, caplog: pytest.LogCaptureFixture
) -> None:
    machine.broken = "It is broken."
    assert measured(model).device == "cpu"
    assert "The engine openvino is installed, but: It is broken." in caplog.messages
    machine.broken = ""
    assert measured(model).device == "openvino"
    machine.broken = "It broke later."
    assert measured(model).device == "cpu"
    assert "The engine openvino is installed, but: It broke later." in caplog.messages


def test_a_wrong_engine_is_not_taken(
    machine: Machine,
    model: ModelFile,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Wrong(Stand):
        def predict(self, *given: Any) -> dict[str, NDArray[np.float32]]:
            return {k: v[:, ::-1] for k, v in self.inner.predict(*given).items()}

    def start(model: ModelFile, *given: Any) -> Backend:
        return (Wrong if given[-1] == "openvino" else Stand)(model, given[-1])

    monkeypatch.setattr(opening, "_start_cpu", start)
    assert measured(model).device == "cpu"
    assert "Self-test failed on openvino" in caplog.text


@pytest.mark.parametrize("content", [b"", b"[]", b'{"cpu": 1}', b'{"cpu": 0}', b"\xff"])
def test_damaged_memory_is_measured_anew(
    content: bytes, machine: Machine, model: ModelFile, tmp_path: Path
) -> None:
    measured(model)
    (kept,) = (tmp_path / "cache" / "hsi-edge" / "choices").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(content)
    assert measured(model).device == "openvino"
    assert machine.rounds == 4 * choosing.ROUNDS
    assert kept.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_failure(
    machine: Machine,
    model: ModelFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    assert measured(model).device == "openvino"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "nowhere")
    assert measured(model).device == "openvino"


@pytest.fixture
def scene(
    write_scene_tiff: Callable[..., Path], cube: NDArray[Any], tmp_path: Path
) -> Path:
    return write_scene_tiff(tmp_path / "s.tif", np.tile(cube, (1, 2, 2)))


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a run end before it publishes what it computed."""

    def interrupt(request: Request, model: ModelFile, device: str) -> None:
        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "publish_outputs", stop)
            with pytest.raises(KeyboardInterrupt):
                run(request, model, lambda: Stand(model, device))

    return interrupt


@pytest.mark.parametrize(
    ("begun", "chosen"), [("cpu", OPENVINO), ("openvino", CPU / 2)]
)
def test_a_resumed_run_stays_with_the_engine_it_began_with(
    begun: str,
    chosen: float,
    machine: Machine,
    model: ModelFile,
    scene: Path,
    interrupted: Callable[..., None],
) -> None:
    machine.rates["openvino"] = chosen
    request = Request(scene, scene.with_name("o.tif"), tile=8)
    interrupted(request, model, begun)
    backend = measured(model, tile=8)
    assert backend.device != begun
    result = run(request, model, lambda: backend)
    assert result["device"] == begun
    assert result["resumed_windows"] > 0
    # Another scene takes the faster one again.
    other = Request(scene, scene.with_name("p.tif"), tile=8)
    assert run(other, model, lambda: backend)["device"] != begun


def test_without_a_measurement_another_engine_is_refused(
    machine: Machine,
    model: ModelFile,
    scene: Path,
    interrupted: Callable[..., None],
) -> None:
    request = Request(scene, scene.with_name("o.tif"), tile=8)
    interrupted(request, model, "openvino")
    with pytest.raises(OutputError, match="interrupted run with another device"):
        run(request, model, lambda: open_backend(model, tile=8))


def test_parts_of_a_scene_take_the_same_engine_whatever_was_measured(
    machine: Machine, model: ModelFile, scene: Path
) -> None:
    on_engine = hsi_runtime.Model(model.path)
    assert on_engine.backend.device == "openvino"
    options: dict[str, Any] = {"part": (0, 2)}
    for given in (on_engine, model.path):
        output = scene.with_name(f"{type(given).__name__}.tif")
        result = hsi_runtime.classify(scene, given, output, **options)
        assert result["device"] == "cpu"


def test_both_doors_tell_why_an_engine_was_chosen(
    machine: Machine,
    model: ModelFile,
    scene: Path,
    invoke: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch, "LARGE_BYTES", 100)
    result = hsi_runtime.classify(scene, model.path, scene.with_name("o.tif"))
    assert result["device"] == "openvino"
    threads = usable_cores()
    rates = {"cpu": 1000 * threads, "openvino": 2500 * threads}
    assert result["device_choice"] == {"pixels_per_second": rates, "remembered": False}
    given = [scene, "-m", model.path, "--json", "-q"]

    def told(*more: object) -> Any:
        return json.loads(invoke(main, *given, *more).out)

    again = told("-o", scene.with_name("p.tif"))
    assert again["device"] == "openvino"
    assert again["device_choice"] == {"pixels_per_second": rates, "remembered": True}
    assert told("--dry-run")["device"] == "openvino"
    assert told("--dry-run", "--max-memory", "1G")["device"] == "cpu"
    named = told("--device", "cpu", "-o", scene.with_name("q.tif"))
    assert (named["device"], named["device_choice"]) == ("cpu", None)


def test_only_what_takes_longer_than_a_measurement_is_measured(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asks(scenes: Sequence[Path], **options: Any) -> bool:
        requests = [Request(s, s.with_suffix(".o.tif"), **options) for s in scenes]
        return bool(batch.engine_options(requests, Options(**options))["measure"])

    assert not asks([scene])
    assert not asks([scene.with_name("missing.tif")])
    assert asks([tmp_path])  # a product
    monkeypatch.setattr(batch, "LARGE_BYTES", 3 * scene.stat().st_size)
    assert not asks([scene] * 2)
    assert asks([scene] * 3)
    assert not asks([scene] * 3, part=(0, 2))
    assert not asks([scene] * 3, max_memory_bytes=10**9)

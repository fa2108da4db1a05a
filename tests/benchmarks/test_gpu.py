"""The benchmark of the GPU, dry and on a FAKE: that it runs, not what it measures."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import gpu
import gpu_bench
import pytest
from click.testing import CliRunner
from gpu_bench import Bench, kept
from gpu_sections import SECTIONS

from hsi_runtime.engines.nvidia import onnxruntime_cuda

SCRIPT = Path(gpu.__file__)


def leaves(figures: Any) -> Iterator[tuple[str, Any]]:
    """Go through all named values of figures."""
    for name, value in figures.items() if isinstance(figures, dict) else ():
        yield name, value
        yield from leaves(value)


def dry_run(
    folder: Path, environment: dict[str, str] | None = None, code: int = 0
) -> Any:
    command = [sys.executable, str(SCRIPT), "--dry-run", "--method", "s2vnet"]
    done = subprocess.run(
        [*command, "--bands", "8", "--folder", str(folder)],
        capture_output=True, text=True, timeout=580, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads((folder / "gpu.json").read_text())


def test_dry_run_goes_through_every_section(tmp_path: Path) -> None:
    figures = dry_run(tmp_path)
    assert figures["dry_run"] is True
    assert set(SECTIONS) <= set(figures)
    named = dict(leaves(figures))
    assert "error" not in named
    for engine in ("s2vnet fp32 cpu", "s2vnet fp16 cpu"):
        assert figures["speed"][engine]["pixels_per_second"]["16"]["alone"]["median"]
        assert figures["parity"][engine]["equal_classes"] > 0.99
        assert figures["roofline"][engine]["share_of_matrix_rate"] > 0
        assert figures["follow"][engine]["lines_per_second"] > 0
    for precision in ("fp32", "bf16"):
        assert figures["training"][f"s2vnet {precision}"]["step_ms"] > 0
    assert set(figures["energy"]) <= {"meter", "idle", *figures["speed"]}


def test_dry_run_goes_through_webgpu_too(
    software_gpu: dict[str, str], tmp_path: Path
) -> None:
    # The GPU in software has no half precision, and that is told.
    figures = dry_run(tmp_path, software_gpu, code=4)
    assert figures["devices"] == ["cpu", "webgpu"]
    errors = {
        f"{section} {name}": row["error"]
        for section in SECTIONS
        for name, row in figures[section].items()
        if "error" in row
    }
    assert all("fp16 webgpu" in name for name in errors), errors
    assert all("webgpu cannot compute this model" in e for e in errors.values())
    assert figures["parity"]["s2vnet fp32 webgpu"]["max_difference"] < 1e-4


def section(
    name: str, items: dict[str, Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let a section measure other things."""
    monkeypatch.setitem(SECTIONS, name, (lambda _: iter(items.items()), 60))


def test_one_failure_is_told_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise RuntimeError("an illegal memory access")

    bench = Bench(tmp_path, (), 8, True)
    section("speed", {"a": broken, "b": lambda: {"value": 1}}, monkeypatch)
    gpu.run_section(bench, "speed", 60)
    error = {"error": "RuntimeError: an illegal memory access"}
    assert kept(bench, "speed") == {"a": error, "b": {"value": 1}}
    gpu.run_section(bench, "speed", -1)
    assert kept(bench, "speed")["b"] == {"left_out": "no time was left"}


def test_every_section_is_reported_and_the_time_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, float]] = []
    reported: list[Any] = []

    def alone(bench: Bench, name: str, seconds: float) -> Any:
        given.append((name, seconds))
        return {"error": "It hung."} if name == "speed" else {"value": name}

    monkeypatch.setattr(gpu, "run_alone", alone)
    bench = Bench(tmp_path, (), 8, True)
    code = gpu.measure_all(
        bench, 720, lambda figures: reported.append(json.loads(json.dumps(figures)))
    )
    assert code == 4  # one has failed
    assert [name for name, _ in given] == list(SECTIONS)
    assert sum(seconds for _, seconds in given) <= 720
    for number, name in enumerate(SECTIONS):
        assert set(reported[number]) & set(SECTIONS) == {*list(SECTIONS)[: number + 1]}
        assert name in reported[number]
    given.clear()
    gpu.measure_all(bench, 100, lambda _: None)
    assert all(seconds <= 80 for _, seconds in given)
    assert gpu.measure_all(bench, 0, lambda _: None) == 4


def test_a_section_that_ends_or_hangs_keeps_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "script.py"
    monkeypatch.setattr(gpu, "__file__", str(script))
    bench = Bench(tmp_path, ("lda",), 8, True)
    line = json.dumps({"first": {"value": 1}})
    write = f"open({str(tmp_path / 'speed.jsonl')!r}, 'w').write({line!r})"
    script.write_text(f"import os; {write}; os.abort()")
    figures = gpu.run_alone(bench, "speed", 60)
    assert figures["first"] == {"value": 1}
    assert figures["error"] == "The section ended with -6."
    script.write_text(f"{write}; import time; time.sleep(600)")
    started = time.monotonic()
    assert "did not end within" in gpu.run_alone(bench, "speed", 2)["error"]
    assert time.monotonic() - started < 300


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    told: list[Any] = []
    monkeypatch.setattr(common, "report", lambda *given: told.append(given))
    return told


def test_every_engine_that_is_installed_is_measured(
    fake_gpu: Any,
    reported: list[Any],
    write_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def in_this_process(bench: Bench, name: str, seconds: float) -> Any:
        if name not in ("speed", "parity", "energy"):
            return {}
        write_model(bench.folder / "mf2cnet.fp32.onnx")
        gpu.run_section(bench, name, seconds)
        return kept(bench, name)

    monkeypatch.setattr(gpu, "run_alone", in_this_process)
    monkeypatch.setattr(gpu_bench, "FULL", gpu_bench.DRY)
    done = CliRunner().invoke(gpu.main, ["--method", "mf2cnet"])
    assert done.exit_code == 4, done.output  # there is no file in half precision
    assert len(reported) == len(SECTIONS)
    name, figures, _ = reported[-1]
    assert name == "gpu"
    assert figures["gpu"] == {"name": "Fake GPU", "compute_capability": "8.7"}
    assert figures["versions"]["tensorrt"] == "11.4.1"
    cuda = onnxruntime_cuda.is_installed()
    assert figures["not_installed"] == ([] if cuda else ["cuda"])
    assert "cannot be read" in figures["speed"]["mf2cnet fp16 tensorrt"]["error"]
    assert figures["parity"]["mf2cnet fp32 tensorrt"]["equal_classes"] == 1
    for one in figures["speed"]["mf2cnet fp32 tensorrt"]["pixels_per_second"].values():
        for kind in ("alone", "overlapped"):
            low, high = one[kind]["range"]
            assert 0 < low <= one[kind]["median"] <= high


def test_engine_that_fails_is_told(
    fake_gpu: Any, write_model: Callable[..., Path], tmp_path: Path
) -> None:
    fake_gpu.trt.flaw = 0.1
    write_model(tmp_path / "mf2cnet.fp32.onnx")
    bench = Bench(tmp_path, ("mf2cnet",), 4, False)
    gpu.run_section(bench, "speed", 60)
    error = kept(bench, "speed")["mf2cnet fp32 tensorrt"]["error"]
    assert error.startswith("VerificationError: Self-test failed")


def test_without_a_gpu_nothing_is_written(fake_gpu: Any, reported: list[Any]) -> None:
    fake_gpu.cuda.devices = 0
    done = CliRunner().invoke(gpu.main, [])
    assert done.exit_code == 4
    assert "Nothing was measured" in done.output
    assert "no usable GPU" in done.output
    assert reported == []

"""Energy: on FAKES of tegrastats and of NVML, because no board or driver is here."""

import ctypes
import time
from pathlib import Path
from typing import Any

import gpu
import power
import pytest
from gpu_bench import Bench, kept

# Made up after the names that boards have: Orin NX, AGX Orin, Thor, the first Nano.
ORIN = "RAM 2/30 MB CPU [1%@729] VDD_IN 5000mW/4800mW VDD_SOC 1000mW/1000mW"
AGX = "VDD_GPU_SOC 2000mW/1mW VDD_CPU_CV 500mW/1mW VIN_SYS_5V0 3000mW/1mW"
THOR = "VDD_GPU 3986mW/3986mW VIN_SYS_5V0 4737mW/4737mW VIN 27531mW/27531mW"
NANO = "RAM 1/4 MB POM_5V_IN 2500/2400 POM_5V_GPU 42/42"


@pytest.mark.parametrize(
    ("line", "watts"),
    [(ORIN, 5.0), (AGX, 5.5), (THOR, 27.531), (NANO, 2.5), ("RAM 1/2MB", None)],
)
def test_the_power_of_the_board_is_read(line: str, watts: float | None) -> None:
    assert power.watts_of(line) == watts


@pytest.fixture
def fake_tegrastats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a FAKE tegrastats on the path, of a board that takes 5 W."""
    program = tmp_path / "bin" / "tegrastats"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nwhile echo "FAKE {ORIN}"; do sleep 0.05; done\n', "utf-8"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(power, "NVML", "libno-such-nvml.so")
    return program


def test_energy_adds_up(fake_tegrastats: Path) -> None:
    meter, why = power.meter()
    assert isinstance(meter, power.Tegrastats), why
    before, started = meter.joules(), time.monotonic()
    while meter.joules() < before + 1:
        assert time.monotonic() - started < 60
        time.sleep(0.01)
    # At 5 W that takes a fifth of a second; a busy machine may look later.
    assert time.monotonic() - started > 0.1
    meter.close()


def test_energy_of_engines_is_measured_on_a_board(
    fake_tegrastats: Path, write_model: Any, tmp_path: Path
) -> None:
    write_model(tmp_path / "lda.fp32.onnx")
    bench = Bench(tmp_path, ("lda",), 4, True)
    gpu.run_section(bench, "energy", 60)
    figures = kept(bench, "energy")
    assert figures["idle"]["meter"] == "tegrastats"
    assert figures["idle"]["watts"] > 0
    assert figures["lda fp32 cpu"]["joules_per_megapixel"] > 0
    assert "cannot be read" in figures["lda fp16 cpu"]["error"]


def test_a_board_that_does_not_tell_its_power_is_named(fake_tegrastats: Path) -> None:
    fake_tegrastats.write_text("#!/bin/sh\necho FAKE; exec sleep 60\n")
    meter, why = power.meter()
    assert meter is None
    assert "tegrastats tells none of VDD_IN" in why


class FakeNvml:
    """Stands for the library of the driver."""

    def __init__(self, code: int = 0) -> None:
        self.code, self.millijoules = code, 1500

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlShutdown(self) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, used: Any) -> int:  # noqa: N802
        used._obj.value = self.millijoules
        return self.code


def test_the_counter_of_the_driver_comes_first(
    fake_tegrastats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = FakeNvml()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    meter, _ = power.meter()
    assert isinstance(meter, power.Nvml)
    assert meter.joules() == 1.5
    meter.close()
    library.code = 3  # NVML_ERROR_NOT_SUPPORTED
    monkeypatch.setenv("PATH", "/nowhere")
    meter, why = power.meter()
    assert meter is None
    assert "nvml: nvmlDeviceGetTotalEnergyConsumption failed with code 3" in why

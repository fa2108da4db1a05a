"""Reads how much energy a GPU, or the whole board of a Jetson, has taken."""

import ctypes
import re
import shutil
import subprocess
import threading
import time
from typing import Any, Protocol

NVML = "libnvidia-ml.so.1"
# What the whole board takes: of Orin NX and Nano, of Thor, and of older ones.
WHOLE = ("VDD_IN", "VIN", "POM_5V_IN")
# AGX Orin has no such rail; these add up to the module.
PARTS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
RAIL = re.compile(r"\b(V\w+|POM_\w+) (\d+)(?:mW)?/")
INTERVAL_S = 0.1


class Meter(Protocol):
    """What measures energy.

    Attributes:
        name: What was asked.
    """

    name: str

    def joules(self) -> float:
        """Return the energy taken since some start."""

    def close(self) -> None:
        """End what measures."""


class Nvml:
    """The counter of a GPU's driver, which GPUs since Volta have.

    Raises:
        OSError: There is no driver, or no counter.
    """

    name = "nvml"

    def __init__(self) -> None:
        self._library = ctypes.CDLL(NVML)
        self._must("nvmlInit_v2")
        self._device = ctypes.c_void_p()
        self._must("nvmlDeviceGetHandleByIndex_v2", 0, ctypes.byref(self._device))
        self.joules()

    def joules(self) -> float:
        used = ctypes.c_ulonglong()  # millijoules
        name = "nvmlDeviceGetTotalEnergyConsumption"
        self._must(name, self._device, ctypes.byref(used))
        return used.value / 1000

    def close(self) -> None:
        self._must("nvmlShutdown")

    def _must(self, name: str, *given: Any) -> None:
        code = getattr(self._library, name)(*given)
        if code:
            raise OSError(f"{name} failed with code {code}")


class Tegrastats:
    """The power of a Jetson's board, added up from the lines of ``tegrastats``.

    Raises:
        OSError: There is no such program, or it does not tell the power.
    """

    name = "tegrastats"

    def __init__(self) -> None:
        program = shutil.which("tegrastats")
        if program is None:
            raise OSError("tegrastats is not installed")
        interval = str(round(1000 * INTERVAL_S))
        self._process = subprocess.Popen(
            [program, "--interval", interval], stdout=subprocess.PIPE, text=True
        )
        self._joules, self._told = 0.0, threading.Event()
        self._reader = threading.Thread(target=self._add, daemon=True)
        self._reader.start()
        if not self._told.wait(20 * INTERVAL_S):
            self.close()
            raise OSError(f"tegrastats tells none of {', '.join(WHOLE + PARTS)}")

    def joules(self) -> float:
        return self._joules

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join(10 * INTERVAL_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _add(self) -> None:
        assert self._process.stdout is not None
        before = time.monotonic()
        for line in self._process.stdout:
            watts, now = watts_of(line), time.monotonic()
            if watts is not None:
                self._joules += watts * (now - before)
                self._told.set()
            before = now


def watts_of(line: str) -> float | None:
    """Read the board's power from a line of tegrastats; None if it is not there."""
    rails = {name: int(milliwatts) / 1000 for name, milliwatts in RAIL.findall(line)}
    whole = next((rails[name] for name in WHOLE if name in rails), None)
    parts = [rails[name] for name in PARTS if name in rails]
    return sum(parts) if whole is None and parts else whole


def meter() -> tuple[Meter | None, str]:
    """Return what measures energy here, or None and why there is nothing."""
    reasons = []
    for kind in (Nvml, Tegrastats):
        try:
            return kind(), ""
        except (OSError, AttributeError) as error:  # an old library lacks the function
            reasons.append(f"{kind.name}: {error}")
    return None, "; ".join(reasons)

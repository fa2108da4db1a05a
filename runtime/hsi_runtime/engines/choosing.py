"""Chooses the faster engine of a CPU by a measurement, once for a model and a machine.

Which one is faster depends on the network, its precision and the processor. What was
measured is kept in the user's cache, so that the next run starts at once and with the
same engine.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsi_runtime import files, machine
from hsi_runtime.engines import openvino_cpu
from hsi_runtime.engines.backend import CPU_DEVICES, Backend
from hsi_runtime.engines.nvidia import engine_cache
from hsi_runtime.engines.self_test import self_test
from hsi_runtime.engines.timing import pixels_per_second, window_of
from hsi_runtime.errors import EngineError, HsiError
from hsi_runtime.model.model_file import ModelFile

log = logging.getLogger(__name__)

REFERENCE, RIVAL = CPU_DEVICES
# A smaller gain of the engine is lost: to its start, and to windows that are rounded up
# (mf2cnet in float32: 1.08 alone, 1.01 in a run; `benchmarks/cpu_engines.py`).
FASTER = 1.2
ROUNDS, MEASURE_S = 7, 1.0  # of both engines, whichever ends first
LIBRARIES = ("hsi-edge", "onnxruntime", "onnxruntime-gpu", "openvino")
Rates = dict[str, float]  # pixels per second by device


@dataclass(frozen=True)
class Choice:
    """Why an engine was chosen.

    Attributes:
        rates: Pixels per second of each engine, by device.
        remembered: True if they were measured by an earlier run.
        start: Starts one of these engines, for a run that began with it.
    """

    rates: Rates
    remembered: bool
    start: Callable[[str], Backend]

    @property
    def device(self) -> str:
        """The engine that was chosen."""
        faster = self.rates[RIVAL] >= FASTER * self.rates[REFERENCE]
        return RIVAL if faster else REFERENCE

    def __str__(self) -> str:
        """Say what was chosen and why."""
        (other,) = {*self.rates} - {self.device}
        ratio = self.rates[self.device] / self.rates[other]
        when = "an earlier run" if self.remembered else "this run"
        return (
            f"Engine: {self.device}, {ratio:.2f} times as fast as {other} with this "
            f"model, as {when} measured."
        )


def report(backend: Backend) -> dict[str, Any] | None:
    """Report, for JSON, why an engine was chosen; None if nothing was measured."""
    choice: Choice | None = getattr(backend, "choice", None)
    if choice is None:
        return None
    rates = {device: round(rate) for device, rate in choice.rates.items()}
    return {"pixels_per_second": rates, "remembered": choice.remembered}


def fastest(
    model: ModelFile, side: int, threads: int, start: Callable[[str], Backend]
) -> Backend | None:
    """Start the faster engine; None where the reference's rival does not work.

    Args:
        model: A verified model file.
        side: Side of the squares that will be classified at once, px.
        threads: Threads of an engine.
        start: Starts the engine of a device.

    Raises:
        HsiError: The reference cannot be started.
    """
    place = _place(model, side, threads)
    rates = None if place is None else _recalled(place)
    remembered = rates is not None
    started: dict[str, Backend] = {}
    try:
        if rates is None:
            started[REFERENCE] = start(REFERENCE)
            started[RIVAL] = start(RIVAL)
            self_test(model, started[RIVAL])
            rates = _measured(model, side, threads, started)
            _remember(place, rates)
        choice = Choice(rates, remembered, start)
        backend: Any = started.get(choice.device) or start(choice.device)
    except HsiError as error:
        if not (started or remembered):
            raise  # the reference itself
        log.warning(f"The engine {RIVAL} is installed, but: {error}")
        return None
    backend.choice = choice
    log.info(str(choice))
    return backend  # type: ignore[no-any-return]


def recalled_device(model: ModelFile, side: int, threads: int) -> str:
    """Return the engine that an earlier run has chosen; else the reference."""
    place = _place(model, side, threads)
    rates = None if place is None else _recalled(place)
    if rates is None or not openvino_cpu.is_installed():
        return REFERENCE
    return Choice(rates, True, lambda _: NotImplemented).device


def _measured(
    model: ModelFile, side: int, threads: int, engines: dict[str, Backend]
) -> Rates:
    """Time the engines in turns, so that other work on the machine meets them alike.

    Processor time is measured, which that work lengthens least. An idle machine's rate
    is that of all threads.
    """
    cube = window_of(model.document, side)
    for engine in engines.values():
        engine.predict(cube)  # engines prepare themselves on the first window
    rates: dict[str, list[float]] = {device: [] for device in engines}
    began = time.monotonic()
    for _ in range(ROUNDS):
        for device, engine in engines.items():
            rate = pixels_per_second(engine, cube, side, time.process_time)
            rates[device].append(threads * rate)
        if time.monotonic() - began > MEASURE_S:
            break
    return {device: statistics.median(values) for device, values in rates.items()}


def _place(model: ModelFile, side: int, threads: int) -> Path | None:
    """Name the file of a choice by all it depends on; None without a cache."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    key = {
        "model": model.sha256,
        "versions": versions,
        "processor": [machine.processor(), *machine.instruction_set()],
        "threads": threads,
        "side": side,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    try:
        folder = engine_cache.folder().with_name("choices")
    except EngineError:  # the user has no home
        return None
    return folder / f"{model.sha256[:16]}-{digest[:16]}.json"


def _recalled(place: Path) -> Rates | None:
    """Read what an earlier run measured; None where that is not there, or damaged."""
    try:
        content = json.loads(place.read_bytes())
        rates = {device: float(content[device]) for device in CPU_DEVICES}
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return rates if min(rates.values()) > 0 else None


def _remember(place: Path | None, rates: Rates) -> None:
    """Keep a measurement; where that fails the next run measures again."""
    if place is None:
        return
    with contextlib.suppress(OSError):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write_text(place, json.dumps(rates) + "\n")

"""Reports of hsi-run besides a map: the model, its self-test, the plan, a summary."""

import statistics
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from hsi_runtime import batch
from hsi_runtime.engines import choosing
from hsi_runtime.engines import self_test as testing
from hsi_runtime.engines.backend import CPU_DEVICES, WINDOWS_ON_GPU, Backend
from hsi_runtime.engines.opening import best_tile, open_backend
from hsi_runtime.engines.timing import pixels_per_second, window_of
from hsi_runtime.errors import EngineError
from hsi_runtime.machine import engine_threads
from hsi_runtime.matching.novelty import Novelty
from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.model.plain_text import plain
from hsi_runtime.output import layers as class_map
from hsi_runtime.planning import match_scene, plan_walk, windows_at_once
from hsi_runtime.request import Request
from hsi_runtime.scenes.products import scene_report
from hsi_runtime.walk import memory

LONGEST_NAME = 60  # of a class in the table of a summary
MIN_ROUNDS = 3
BENCHMARK_S, PLAN_S = 3.0, 0.5
_measured: dict[Any, float] = {}  # pixels per second, by all that they depend on


def describe_model(model: ModelFile) -> dict[str, Any]:
    """Describe a model."""
    document = model.document
    bands, values = document.bands, document.values
    description: dict[str, Any] = {
        "model": str(model.path),
        "method": document.method,
        "classes": {c.code: c.name for c in document.classes},
        "bands": len(bands.used),
        "source_bands": bands.source_count,
        "wavelengths_nm": None,
        "quantity": values.quantity,
        "dtype": values.dtype,
        "scale_declared": values.scale is not None,
        "receptive_field": document.receptive_field,
        "precision": document.precision,
        "parameters": document.parameters,
        "macs_per_pixel": document.macs_per_pixel,
        "reject_below": document.reject_below,
        "sets": [one.level for one in document.set_levels],
        "novelty": Novelty.of_model(document) is not None,
        "outputs": document.outputs,
        "abundances": document.share_meaning,
        "overall_accuracy": document.provenance.overall_accuracy,
        "average_accuracy": document.provenance.average_accuracy,
        "kappa": document.provenance.kappa,
        "counts": document.provenance.counts,
        "version": document.provenance.version,
        "bytes": len(model.onnx),
        "sha256": model.sha256,
    }
    if bands.wavelengths_nm is not None:
        centres = bands.wavelengths_nm
        description["wavelengths_nm"] = [min(centres), max(centres)]
    return description


def self_test(model: ModelFile, device: str, threads: int | None) -> dict[str, Any]:
    """Run the stored sample on a device.

    Raises:
        VerificationError: The engine does not answer like training.
    """
    backend = open_backend(model, device, threads)
    result = testing.self_test(model, backend)
    return {
        "device": backend.device,
        "precision": backend.precision,
        **asdict(result),
    }


def benchmark(
    model: ModelFile, device: str, threads: int | None, tile: int | None
) -> dict[str, Any]:
    """Measure how many pixels per second an engine classifies, without any scene.

    The window is the model's stored sample, repeated: networks take as long for any
    values. A round is as many windows as the engine computes at once.
    """
    document = model.document
    backend = open_backend(model, device, threads, tile, measure=True)
    side = tile or best_tile(document, backend.device)
    rates = _rates(model, backend, side, MIN_ROUNDS, BENCHMARK_S)
    return {
        "device": backend.device,
        "precision": backend.precision,
        "device_choice": choosing.report(backend),
        "method": document.method,
        "bands": len(document.bands.used),
        "tile": side,
        "windows_at_once": backend.windows_at_once,
        "threads": engine_threads(threads),
        "rounds": len(rates),
        "pixels_per_second": statistics.median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
    }


def _rates(
    model: ModelFile, backend: Backend, side: int, rounds: int, seconds: float
) -> list[float]:
    """Measure pixels per second in rounds of as many windows as are computed at once.

    Args:
        model: The model.
        backend: Engine that holds it.
        side: Side of the squares, px.
        rounds: Rounds to measure at least.
        seconds: Seconds to measure at least.
    """
    cube = window_of(model.document, side)
    backend.predict(cube)  # engines prepare themselves on the first window
    rates: list[float] = []
    started = time.monotonic()
    while len(rates) < rounds or time.monotonic() - started < seconds:
        rates.append(pixels_per_second(backend, cube, side))
    return rates


def dry_run(
    request: Request, model: ModelFile, device: str, threads: int | None
) -> dict[str, Any]:
    """Plan a run, without writing.

    With the device ``auto`` that is a run on the CPU: whether a GPU works is known when
    its engine has started, which may take minutes. Which engine of the CPU is faster is
    known if an earlier run has measured it. That engine is timed for a moment.

    Raises:
        SceneError: The scene cannot be read.
        BandMismatchError: The scene lacks what the model needs.
    """
    if device == "auto":
        device = _likely_device(model, request, threads)
    scene = request.open_scene()
    try:
        matched = match_scene(scene, model.document, request)
        at_once = WINDOWS_ON_GPU
        if device in CPU_DEVICES:
            at_once = memory.windows_at_once(
                model.document,
                request.tile,
                request.max_memory_bytes,
                engine_threads(threads),
            )
        info = scene.info
        at_once = windows_at_once(info, model.document, request, at_once)
        plan = plan_walk(matched, model.document, request, device, at_once)
    finally:
        scene.close()
    pixels = matched.region.rows * matched.region.cols
    layers = class_map.layers(
        model.document, request.outputs(), request.set_threshold(model.document)
    )
    scratch_bytes = sum(
        pixels * len(layer.bands) * layer.dtype.itemsize for layer in layers
    )
    return {
        "scene": str(request.scene),
        "output": str(request.output),
        "device": device,
        **scene_report.summary(info),
        "bands_found": matched.bands.method,
        "bands_matched": len(model.document.bands.used),
        "bands_read": [int(i) + 1 for i in matched.bands.indices],
        "converted_units": matched.units.gain is not None,
        "region": matched.region._asdict(),
        "windows": plan.count_windows(),
        "strips": len(plan.strips),
        "panels": len(plan.panels),
        "passes": len(plan.passes),
        "strip_bytes": plan.strip_bytes,
        "tile": plan.tile,
        "windows_at_once": at_once,
        "memory_bytes": memory.needed_bytes(
            model.document, plan.tile, plan.strip_bytes, at_once
        )
        + info.decoding_bytes,
        "compute_seconds": _compute_seconds(
            model, device, threads, (plan.tile, request.max_memory_bytes), pixels
        ),
        "scratch_bytes": scratch_bytes,
        # The parts are kept until the join, which has scratch of its own, is finished.
        "scratch_bytes_in_parts": 2 * scratch_bytes,
    }


def _likely_device(model: ModelFile, request: Request, threads: int | None) -> str:
    """Return the engine of the CPU that ``auto`` would take, without a measurement."""
    if not batch.engine_options([request], request)["measure"]:
        return choosing.REFERENCE
    side = request.tile or best_tile(model.document, choosing.REFERENCE)
    return choosing.recalled_device(model, side, engine_threads(threads))


def _compute_seconds(
    model: ModelFile,
    device: str,
    threads: int | None,
    limits: tuple[int, int | None],
    pixels: int,
) -> float | None:
    """Estimate how long a CPU computes a map, from some rounds of windows.

    The scenes of a list share the measurement.

    Args:
        model: The model.
        device: Device of the engine.
        threads: Threads of the engine, or None.
        limits: Side of the squares, px, and limit of the process, bytes.
        pixels: Pixels of the map.

    Returns:
        Seconds; None for an accelerator, or where no engine is installed.
    """
    if device not in CPU_DEVICES:
        return None
    key = model.sha256, device, threads, limits
    if key not in _measured:
        try:
            backend = open_backend(model, device, threads, *limits)
        except EngineError:
            return None
        rates = _rates(model, backend, limits[0], MIN_ROUNDS, PLAN_S)
        _measured[key] = statistics.median(rates)
    return pixels / _measured[key]


def as_lines(content: dict[str, Any]) -> str:
    """Write a report as text: a line for each key."""
    shown = scene_report.readable(content)
    return "\n".join(f"{key}: {_written(value)}" for key, value in shown.items())


def _written(value: Any) -> str:
    """Write a value for people: rounded, lists of numbers as ranges."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
        case dict():
            pairs = [f"{plain(str(k))} {_written(v)}" for k, v in value.items()]
            return ", ".join(pairs) or "none"
        case [int(), *_]:
            return _ranges(value)
        case list():
            return ", ".join(map(_written, value)) or "none"
    return plain(str(value))


def _ranges(numbers: list[int]) -> str:
    """Write numbers that follow each other by the first and the last."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    parts = [part.tolist() for part in np.split(np.array(numbers), breaks)]
    return ", ".join(f"{p[0]}-{p[-1]}" if p[1:] else str(p[0]) for p in parts)


def summary(result: dict[str, Any]) -> str:
    """Sum up a run: a table of the classes and two lines; or one line for a part."""
    if result.get("status") == "skipped":
        return "The parts were joined before; there was nothing to do."
    if "part" in result:
        return _summary_of_part(result)
    pixels, seconds = result["pixels"], result["seconds"]
    mapped = max(pixels["classified"] + pixels["unclassified"], 1)
    names = [plain(c["name"], LONGEST_NAME) for c in result["classes"]]
    width = max(map(len, names))
    table = [
        f"  {name:{width}}  {c['pixels']:>12,} px  {c['pixels'] / mapped:6.1%}"
        + ("" if c["area_m2"] is None else f"  {c['area_m2'] / 1e4:>12,.2f} ha")
        for name, c in zip(names, result["classes"], strict=True)
    ]
    resumed = result["resumed_windows"]
    return "\n".join(
        [
            *table,
            f"{pixels['classified']:,} pixels classified, "
            f"{pixels['unclassified']:,} unclassified, {pixels['nodata']:,} nodata, on "
            f"{result['device']}, {result['precision']}"
            + (f"; {resumed} windows taken over" if resumed else "")
            + ".",
            f"{seconds['total']:.1f} s (read {seconds['read']:.1f}, infer "
            f"{seconds['infer']:.1f}, write {seconds['write']:.1f}), "
            f"{result['pixels_per_second']:,.0f} pixels/s, "
            f"{result['peak_memory_bytes'] / 1e6:.0f} MB at most.",
        ]
    )


def _summary_of_part(result: dict[str, Any]) -> str:
    resumed = result["resumed_windows"]
    return (
        f"Part {result['part']}: {result['strips']} strips, {result['pixels']:,} "
        f"pixels computed on {result['device']}, {result['precision']}"
        + (f"; {resumed} windows taken over" if resumed else "")
        + f". {result['seconds']['total']:.1f} s, "
        f"{result['pixels_per_second']:,.0f} pixels/s."
    )


def summary_of_many(results: dict[str, Any]) -> str:
    """Sum up a run over many scenes in one line."""
    totals = results["summary"]
    return (
        f"{totals['done']} scenes done, {totals['skipped']} were finished before, "
        f"{totals['failed']} failed; {totals['pixels']:,} pixels, "
        f"{totals['peak_memory_bytes'] / 1e6:.0f} MB at most."
    )

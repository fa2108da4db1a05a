"""What `gpu.py` measures: sections, each of figures that do not need each other."""

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise, product, repeat
from pathlib import Path
from typing import Any

import numpy as np
import power
import torch
from gpu_bench import PRECISIONS, Bench, Figures, Sizes, kept, training_device

from hsi_export.exporting import export
from hsi_runtime.engines.backend import WINDOWS_ON_GPU, Backend
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.engines.self_test import self_test
from hsi_runtime.errors import EngineError, HsiError
from hsi_runtime.model.model_file import PROBABILITIES, ModelFile
from hsi_runtime.walk.threads import map_ahead
from hsi_train.fitting import optimisation
from hsi_train.simulate import SceneSpec, band_centres, write_scene
from hsi_train.training import train

LEAST_BLOCKS = 3  # of a flight
WARM_STEPS = 5  # of a training, which do not count
Items = Iterator[tuple[str, Callable[[], Figures]]]


def models(bench: Bench) -> Items:
    """Train and export every method, in both precisions."""
    scene, labels = bench.folder / "scene.tif", bench.folder / "labels.tif"
    centres = band_centres(bench.bands, 400, 2500)
    side = bench.sizes.side
    spec = SceneSpec(rows=side, cols=side, wavelengths_nm=centres, seed=3)
    write_scene(spec, scene, truth=labels, overwrite=True)

    def make(method: str) -> Figures:
        run = bench.folder / method
        settings = bench.recipe(method, bench.sizes.epochs)
        train(settings, run, training_device(bench), overwrite=True)
        return export_both(method, run)

    def export_both(method: str, run: Path) -> Figures:
        made: Figures = {}
        for precision in PRECISIONS:
            output = bench.folder / f"{method}.{precision}.onnx"
            try:
                done = export(run, output, overwrite=True, fp16=precision == "fp16")
                made[precision] = {"bytes": done["bytes"]}
            except HsiError as error:  # a network may not bear half precision
                made[precision] = {"error": str(error)}
        return made

    for method in bench.methods:
        yield method, lambda method=method: make(method)  # type: ignore[misc]


def speed(bench: Bench) -> Items:
    """Start every engine, test it and time it."""

    def measure(method: str, precision: str, device: str) -> Figures:
        model, tile = bench.model(method, precision), max(bench.sizes.tiles)
        starts = []
        for _ in range(2):
            started = time.perf_counter()
            backend = open_backend(model, device, tile=tile)
            starts.append(round(time.perf_counter() - started, 2))
        tested = self_test(model, backend)
        return {
            "first_start_seconds": starts[0],
            "second_start_seconds": starts[1],
            "self_test_max_difference": tested.max_abs_difference,
            "pixels_per_second": {
                str(side): rates(backend, window(model, side), side, bench.sizes)
                for side in bench.sizes.tiles
            },
        }

    for given in bench.engines():
        yield " ".join(given), lambda given=given: measure(*given)  # type: ignore[misc]


def window(model: ModelFile, tile: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Draw pixels of the model's stored sample: ``(1, band, row, col)``."""
    sample = model.document.self_test.cube.unpack().astype(np.float32)
    side = tile + 2 * model.document.halo
    spectra = sample.reshape(len(sample), -1)
    drawn = np.random.default_rng(0).integers(0, spectra.shape[1], (side, side))
    return np.ascontiguousarray(spectra[:, drawn])[None]


def rates(backend: Backend, cube: Any, side: int, sizes: Sizes) -> Figures:
    """Pixels per second, one window at a time and several at once: median of rounds."""
    backend.predict(cube)  # engines prepare themselves on the first window
    started = time.perf_counter()
    backend.predict(cube)
    windows = max(2, round(sizes.round_s / (time.perf_counter() - started)))
    found: dict[str, list[float]] = {"alone": [], "overlapped": []}
    for _ in range(sizes.rounds):
        for kind, depth in (("alone", 1), ("overlapped", WINDOWS_ON_GPU)):
            started = time.perf_counter()
            deque(map_ahead(backend.predict, repeat(cube, windows), depth), maxlen=0)
            found[kind].append(windows * side**2 / (time.perf_counter() - started))
    return {
        kind: {
            "median": round(statistics.median(values)),
            "range": [round(min(values)), round(max(values))],
        }
        for kind, values in found.items()
    }


def parity(bench: Bench) -> Items:
    """Compare both precisions with float32 on the processor."""

    def compare(method: str, precision: str, device: str) -> Figures:
        exact, model = bench.model(method, "fp32"), bench.model(method, precision)
        tile = bench.sizes.tiles[0]
        cube = window(exact, tile)
        expected = open_backend(exact, "cpu").predict(cube)[PROBABILITIES]
        engine = open_backend(model, device, tile=max(bench.sizes.tiles))
        answer = engine.predict(cube)[PROBABILITIES]
        equal = answer.argmax(axis=1) == expected.argmax(axis=1)
        return {
            "max_difference": float(np.abs(answer - expected).max()),
            "equal_classes": float(equal.mean()),
        }

    for given in bench.engines():
        yield " ".join(given), lambda given=given: compare(*given)  # type: ignore[misc]


def roofline(bench: Bench) -> Items:
    """Time plain matrix products and copies; what share of them do networks reach?"""
    device, side = training_device(bench), bench.sizes.matrix
    if device == "cpu" and not bench.dry:
        raise EngineError("This torch has no CUDA: install the one for this GPU.")
    torch.backends.cuda.matmul.allow_tf32 = False
    peaks: dict[str, float] = {}

    def seconds(work: Callable[[], Any]) -> float:
        def timed() -> float:
            started = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - started

        timed()
        return min(timed() for _ in range(5))

    def products(precision: str) -> Figures:
        kind = {"fp32": torch.float32, "fp16": torch.float16}[precision]
        one = torch.ones(side, side, dtype=kind, device=device)
        peaks[precision] = side**3 / seconds(lambda: one @ one)
        return {"gmacs_per_second": round(peaks[precision] / 1e9, 3)}

    def copies() -> Figures:
        one = torch.ones(side, side, device=device)
        other = torch.empty_like(one)
        rate = 2 * one.nbytes / seconds(lambda: other.copy_(one))
        return {"gigabytes_per_second": round(rate / 1e9, 3)}

    def share(name: str, figures: Figures) -> Figures:
        method, precision, _ = name.split()
        macs = bench.model(method, precision).document.macs_per_pixel
        best = max(
            one[kind]["median"]
            for one in figures["pixels_per_second"].values()
            for kind in one
        )
        return {"share_of_matrix_rate": round(best * macs / peaks[precision], 4)}

    for precision in PRECISIONS:
        yield f"products {precision}", lambda p=precision: products(p)  # type: ignore[misc]
    yield "copies", copies
    for name, figures in kept(bench, "speed").items():
        if "error" not in figures:
            yield name, lambda n=name, f=figures: share(n, f)  # type: ignore[misc]


def follow(bench: Bench) -> Items:
    """Follow a flight that is complete: lines per second."""
    rows, cols = bench.sizes.flight
    scene = bench.folder / "flight.bil"
    spec = SceneSpec(
        rows=rows, cols=cols, wavelengths_nm=band_centres(bench.bands, 400, 2500)
    )
    write_scene(spec, scene, layout="bil", overwrite=True)
    command = [sys.executable, "-c", "from hsi_runtime.cli import main; main()"]

    def fly(method: str, precision: str, device: str) -> Figures:
        model = bench.model(method, precision)
        given = [str(scene), "-m", str(model.path), "--device", device, "-q", "--json"]
        given += ["-o", str(bench.folder / "flown.tif"), "--overwrite", "--no-resume"]
        done = subprocess.run(
            [*command, *given, "--follow", "--idle", "2s"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise EngineError(done.stderr.strip().splitlines()[-1])
        told = [json.loads(line) for line in done.stdout.splitlines()]
        blocks = [event for event in told if event.get("event") == "classified"]
        if len(blocks) < LEAST_BLOCKS:
            return {"left_out": f"{len(blocks)} blocks: nothing to time"}
        # From block to block: the start of the process is no part of the speed.
        first, last = blocks[0], blocks[-2]
        seconds = last["time"] - first["time"]
        return {
            "lines_per_second": round((last["rows"][1] - first["rows"][1]) / seconds, 1)
        }

    for given in bench.engines():
        yield " ".join(given), lambda given=given: fly(*given)  # type: ignore[misc]


def training(bench: Bench) -> Items:
    """Time the steps of a training in float32 and in bfloat16."""

    def steps(method: str, bf16: bool) -> Figures:
        times: list[float] = []
        plain = optimisation.Optimisation.step

        def noted(self: Any, loss: Any) -> float:
            value = plain(self, loss)  # waits for the GPU
            times.append(time.perf_counter())
            return value

        run = bench.folder / f"{method}-steps"
        with contextlib.ExitStack() as stack:
            swap(stack, optimisation.Optimisation, "step", noted)
            swap(stack, optimisation, "trains_in_bf16", lambda _: bf16)
            settings = bench.recipe(method, bench.sizes.timed_epochs)
            train(settings, run, training_device(bench), overwrite=True)
        taken = [b - a for a, b in pairwise(times[WARM_STEPS:])]
        if not taken:
            return {"left_out": f"{len(times)} steps: nothing to time"}
        return {"step_ms": round(1000 * statistics.median(taken), 3)}

    for method, bf16 in product(bench.methods, (False, True)):
        name = f"{method} {'bf16' if bf16 else 'fp32'}"
        yield name, lambda m=method, b=bf16: steps(m, b)  # type: ignore[misc]


def swap(stack: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    """Put another value in an attribute's place until the stack ends."""
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def energy(bench: Bench) -> Items:
    """Measure joules per megapixel, and the power of doing nothing."""
    meter, why = power.meter()
    if meter is None:
        yield "meter", lambda: {"left_out": why}
        return

    def used(work: Callable[[], int]) -> tuple[float, float, int]:
        before, started, pixels = meter.joules(), time.monotonic(), 0
        while time.monotonic() - started < bench.sizes.energy_s:
            pixels += work()
        return meter.joules() - before, time.monotonic() - started, pixels

    def rest() -> int:
        time.sleep(0.05)
        return 0

    def idle() -> Figures:
        joules, seconds, _ = used(rest)
        return {"meter": meter.name, "watts": round(joules / seconds, 2)}

    def measure(method: str, precision: str, device: str) -> Figures:
        model, side = bench.model(method, precision), max(bench.sizes.tiles)
        engine = open_backend(model, device, tile=side)
        cube = window(model, side)
        engine.predict(cube)

        def work() -> int:
            deque(map_ahead(engine.predict, repeat(cube, 4), WINDOWS_ON_GPU), maxlen=0)
            return 4 * side**2

        joules, seconds, pixels = used(work)
        return {
            "joules_per_megapixel": round(joules / pixels * 1e6, 3),
            "watts": round(joules / seconds, 2),
        }

    with contextlib.closing(meter):
        yield "idle", idle
        for given in bench.engines():
            name = " ".join(given)
            yield name, lambda given=given: measure(*given)  # type: ignore[misc]


# With the seconds that each may take: 12 minutes in all.
SECTIONS: dict[str, tuple[Callable[[Bench], Items], float]] = {
    "models": (models, 240),
    "speed": (speed, 200),
    "parity": (parity, 50),
    "roofline": (roofline, 20),
    "follow": (follow, 70),
    "training": (training, 80),
    "energy": (energy, 60),
}

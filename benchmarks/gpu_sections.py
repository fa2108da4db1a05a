"""What `gpu.py` measures: sections, each of figures that do not need each other."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product, repeat
from pathlib import Path
from typing import Any

import numpy as np
import power
import torch

from hsi_export.exporting import export
from hsi_runtime.engines.backend import GPU_DEVICES, WINDOWS_ON_GPU, Backend
from hsi_runtime.engines.nvidia import onnxruntime_cuda, tensorrt_gpu
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.engines.self_test import self_test
from hsi_runtime.errors import EngineError, HsiError
from hsi_runtime.model.model_file import PROBABILITIES, ModelFile, read_model
from hsi_runtime.walk.threads import map_ahead
from hsi_train import recipe
from hsi_train.fitting import optimisation
from hsi_train.simulate import SceneSpec, band_centres, write_scene
from hsi_train.training import train

LINEAR = "lda"  # has no network beside its linear path
PRECISIONS = ("fp32", "fp16")
WARM_STEPS = 5  # of a training, which do not count
WEBGPU = "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER"
Figures = dict[str, Any]
Items = Iterator[tuple[str, Callable[[], Figures]]]


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        side: Side of the scene that is trained on, px.
        samples: Training pixels of each class.
        epochs: Epochs of a training.
        timed_epochs: Epochs of a training whose steps are timed.
        tiles: Sides of windows, px.
        rounds: Rounds of a measurement.
        round_s: Seconds of a round.
        matrix: Side of the matrices whose products are timed.
        flight: Lines and columns of the flight that is followed.
        energy_s: Seconds for which energy is measured.
    """

    side: int
    samples: int
    epochs: int
    timed_epochs: int
    tiles: tuple[int, ...]
    rounds: int
    round_s: float
    matrix: int
    flight: tuple[int, int]
    energy_s: float


FULL = Sizes(
    side=160,
    samples=20,
    epochs=5,
    timed_epochs=20,
    tiles=(128, 512),
    rounds=3,
    round_s=0.4,
    matrix=8192,
    flight=(2000, 640),
    energy_s=4.0,
)
DRY = Sizes(
    side=64,
    samples=4,
    epochs=1,
    timed_epochs=8,
    tiles=(8, 16),
    rounds=1,
    round_s=0.0,
    matrix=64,
    flight=(24, 16),
    energy_s=0.3,
)


@dataclass(frozen=True)
class Bench:
    """What all sections share.

    Attributes:
        folder: Where models and figures are kept.
        methods: Methods to measure.
        bands: Bands of the scenes.
        dry: True for a dry run.
    """

    folder: Path
    methods: tuple[str, ...]
    bands: int
    dry: bool

    @property
    def sizes(self) -> Sizes:
        """How much is measured."""
        return DRY if self.dry else FULL

    @cached_property
    def devices(self) -> list[str]:
        """Devices to measure: those of the GPU, or what stands for them."""
        if self.dry:
            return ["cpu", "webgpu"] if os.environ.get(WEBGPU) else ["cpu"]
        return [device for device in GPU_DEVICES if installed()[device]]

    def model(self, method: str, precision: str) -> ModelFile:
        """Read a model that the section `models` made."""
        return read_model(self.folder / f"{method}.{precision}.onnx")

    def engines(self) -> Iterator[tuple[str, str, str]]:
        """Go through method, precision and device; quick starts come first."""
        for device in reversed(self.devices):
            yield from product(self.methods, PRECISIONS, [device])

    def recipe(self, method: str, epochs: int) -> recipe.Recipe:
        """Return how a method is trained.

        The linear path, on which so short a training might not improve, is left out:
        the network would not be in the file.
        """
        fit: Figures = {"epochs": epochs}
        if method != LINEAR:
            fit["linear_path"] = False
        files = {"scenes": ["scene.tif"], "labels": ["labels.tif"]}
        paths = {k: [str(self.folder / n) for n in v] for k, v in files.items()}
        return recipe.parse(
            {
                "method": method,
                "data": paths,
                "split": {"mode": "per-class", "samples_per_class": self.sizes.samples},
                "fit": fit,
            }
        )


def installed() -> dict[str, bool]:
    """Return which engines of the GPU are installed."""
    return {
        "tensorrt": tensorrt_gpu.is_installed(),
        "cuda": onnxruntime_cuda.is_installed(),
    }


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


def training_device(bench: Bench) -> str:
    """Return where networks are trained."""
    return "cpu" if bench.dry or not torch.cuda.is_available() else "cuda"


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
        result = json.loads(done.stdout.splitlines()[-1])
        return {"lines_per_second": round(result["pixels_per_second"] / cols, 1)}

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


def kept(bench: Bench, name: str) -> Figures:
    """Read what a section has measured."""
    path = bench.folder / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return {key: value for line in lines for key, value in json.loads(line).items()}


# With the seconds that each may take: 12 minutes in all.
SECTIONS: dict[str, tuple[Callable[[Bench], Items], float]] = {
    "models": (models, 150),
    "speed": (speed, 240),
    "parity": (parity, 60),
    "roofline": (roofline, 30),
    "follow": (follow, 90),
    "training": (training, 90),
    "energy": (energy, 60),
}

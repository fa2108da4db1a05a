"""How many times faster is a dense window than the same network patch by patch?

    python benchmarks/dense_speed.py

Both run in onnxruntime on the CPU, in turns in one process, and give the same map. The
dense result is computed in the tiles that hsi-run would use, and in one window. The
patches get their best batch size. On one core, processor time is measured, so the ratio
holds on a busy machine. For S2AMSnet the published form is timed as well: patches of 13
x 13 pixels, padded with zeros in every layer, pooling with stride two. What the other
papers do at the border of a patch is unknown or (S2VNet) not rebuilt.

On all cores, wall time is measured: the tiles of hsi-run, one on each core, against all
cores in each batch of patches, as onnxruntime does by itself, and against one batch on
each core, which is faster.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import code_digest
import common
import numpy as np
import onnx_ir
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_export import tracing
from hsi_runtime.engines.backend import Backend
from hsi_runtime.engines.onnxruntime_cpu import OnnxruntimeCpu
from hsi_runtime.engines.opening import best_tile, open_backend
from hsi_runtime.machine import usable_cores
from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.walk.threads import map_ahead
from hsi_runtime.walk.windows import tiles
from hsi_train.methods import names
from hsi_train.methods.s2amsnet.network import Network
from hsi_train.run_folder import checkpoint

PATCHES = 256  # timed per round
BATCHES = (1, 16, 64)
PUBLISHED_SIDE = 13

Calls = dict[str, Callable[[], Any]]


class ZeroPadded(nn.Module):
    """The published S2AMSnet with the weights of ours: a patch to a pixel's scores."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, cube: Tensor) -> tuple[Tensor, ...]:
        """Map patches ``(batch, band, 13, 13)`` to ``(batch, class, 1, 1)``."""
        network = self.network
        x = network.unit_spectra(cube)
        shares = torch.softmax(network.pair, dim=0)
        for layer in network.layers:
            x = layer(F.pad(x, (1, 1, 1, 1)), shares)
        x = F.max_pool2d(x, 2)  # (batch, feature, 6, 6)
        x = F.relu(F.conv2d(x, network.fc1.weight, network.fc1.bias))
        return (torch.softmax(network.fc2(x), dim=1),)


def in_squares(backend: Backend, window: Any, context: int, tile: int) -> Any:
    """Classify a window in squares; return the probabilities of the whole."""
    spans = list(tiles((0, window.shape[2] - context), tile))
    squares = (
        np.ascontiguousarray(window[:, :, a : b + context, c : d + context])
        for a, b in spans
        for c, d in spans
    )
    results = map_ahead(backend.predict, squares, backend.windows_at_once)
    parts = [part["probabilities"] for _, part in results]
    rows = [parts[i : i + len(spans)] for i in range(0, len(parts), len(spans))]
    return np.concatenate([np.concatenate(row, axis=3) for row in rows], axis=2)


def by_patches(
    run: Callable[[Any], Any], stack: Any, batch: int, at_once: int = 1
) -> list[Any]:
    """Classify patches ``(patch, band, row, col)``, a batch after the other."""
    starts = range(0, PATCHES, batch)
    batches = (np.ascontiguousarray(stack[i : i + batch]) for i in starts)
    return [result for _, result in map_ahead(run, batches, at_once)]


@click.command()
@click.option("--method", "methods", multiple=True, default=names())
@click.option("--bands", default=200)
@click.option("--classes", default=16)
@click.option("--outputs", default=256, help="Side of the dense window's result.")
@click.option("--rounds", default=5)
def main(
    methods: tuple[str, ...], bands: int, classes: int, outputs: int, rounds: int
) -> None:
    for method in methods:
        measure(method, bands, classes, outputs, rounds)


class Work(NamedTuple):
    """A network and what it classifies.

    Attributes:
        model: Its file.
        published: ONNX file of the published form, or None.
        window: Shape ``(1, band, row, col)``.
        outputs: Side of the window's result.
        tile: Side of the squares that hsi-run takes.
        patches: Of the window's first outputs, ``(patch, band, row, col)``.
        small: Likewise, of the published form.
    """

    model: ModelFile
    published: bytes | None
    window: Any
    outputs: int
    tile: int
    patches: Any
    small: Any


def prepare(method: str, bands: int, classes: int, outputs: int) -> Work:
    published = None
    with tempfile.TemporaryDirectory() as folder:
        model = common.make_model(Path(folder), method, bands, classes, 400, 2500)
        if method == "s2amsnet":
            network = checkpoint.load(Path(folder)).method.network
            assert isinstance(network, Network)
            proto = tracing.to_onnx(
                ZeroPadded(network).eval(), ("scores",), PUBLISHED_SIDE, bands
            )
            published = onnx_ir.to_proto(proto).SerializeToString()
    side = model.document.receptive_field
    window = common.stored_values(bands, outputs + side - 1)
    views = np.lib.stride_tricks.sliding_window_view(
        window[0, :, : side + PATCHES // 16 - 1, : side + 15], (side, side), (1, 2)
    )  # (band, row, col, side, side)
    patches = views.transpose(1, 2, 0, 3, 4).reshape(-1, bands, side, side)
    inner = (side - PUBLISHED_SIDE) // 2
    small = patches[..., inner : side - inner, inner : side - inner]
    tile = best_tile(model.document, "cpu")
    return Work(model, published, window, outputs, tile, patches, small)


def dense(work: Work, backend: Backend) -> Callable[[], Any]:
    """Prepare the dense form, which starts as many squares at once as the engine."""
    context = work.model.document.receptive_field - 1
    return partial(in_squares, backend, work.window, context, work.tile)


def answer(engine: Any, cube: Any) -> Any:
    return engine.run(None, {"cube": cube})


def forms(work: Work, threads: int, at_once: int, name: str = "") -> Calls:
    """Prepare the forms in patches at every batch size."""
    runs = {name: (OnnxruntimeCpu(work.model, threads).predict, work.patches)}
    if work.published is not None:
        engine = common.session(work.published, threads)
        runs[f"published {name}"] = partial(answer, engine), work.small
    return {
        f"{form}{batch}": partial(by_patches, run, stack, batch, at_once)
        for form, (run, stack) in runs.items()
        for batch in BATCHES
    }


def timed(
    work: Work, calls: Calls, rounds: int, clock: Callable[[], float]
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return each call's seconds a pixel in every round, and its last result."""
    seconds, answers = common.in_turns(calls, rounds, clock)
    pixels = dict.fromkeys(("dense", "one window"), work.outputs**2)
    return {
        key: [each / pixels.get(key, PATCHES) for each in values]
        for key, values in seconds.items()
    }, answers


def measure(method: str, bands: int, classes: int, outputs: int, rounds: int) -> None:
    work = prepare(method, bands, classes, outputs)
    backend = open_backend(work.model, "cpu", threads=1)
    calls: Calls = {
        "dense": dense(work, backend),
        "one window": lambda: backend.predict(work.window)["probabilities"],
        **forms(work, 1, 1),
    }
    seconds, answers = timed(work, calls, rounds, time.process_time)
    assert np.abs(answers["dense"] - answers["one window"]).max() < 1e-5
    dense_map = answers["dense"][0, :, : PATCHES // 16, :16]
    parts = [part["probabilities"] for part in answers[f"{BATCHES[-1]}"]]
    patch_map = np.concatenate(parts)[:, :, 0, 0]
    difference = np.abs(dense_map.reshape(classes, -1).T - patch_map)
    median = {key: statistics.median(values) for key, values in seconds.items()}
    figures: dict[str, Any] = {
        "method": method,
        "bands": bands,
        "classes": classes,
        "outputs": outputs,
        "macs_per_pixel": round(work.model.document.macs_per_pixel),
        "tile": work.tile,
        "dense_pixels_per_second": round(1 / median["dense"]),
        "one_window_pixels_per_second": round(1 / median["one window"]),
        "patch_pixels_per_second": {b: round(1 / median[f"{b}"]) for b in BATCHES},
        "max_probability_difference": float(difference.max()),
        "equal_classes": float(
            np.mean(patch_map.argmax(1) == dense_map.reshape(classes, -1).argmax(0))
        ),
        **against("", seconds, median),
    }
    if work.published:
        rates = {b: round(1 / median[f"published {b}"]) for b in BATCHES}
        figures["published_pixels_per_second"] = rates
        figures.update(against("published ", seconds, median))
    figures["on_all_cores"] = on_all_cores(work, rounds)
    common.report(f"dense_speed_{method}", figures, code_digest.of_running(method))


def on_all_cores(work: Work, rounds: int) -> dict[str, Any]:
    """Compare hsi-run's squares with both ways of patches; needs an idle machine."""
    cores = usable_cores()
    ways = {"all cores in each batch ": (cores, 1), "a batch on each core ": (1, cores)}
    calls: Calls = {"dense": dense(work, open_backend(work.model, "cpu", cores))}
    for way, (threads, at_once) in ways.items():
        calls |= forms(work, threads, at_once, way)
    seconds, _ = timed(work, calls, rounds, time.perf_counter)
    median = {key: statistics.median(values) for key, values in seconds.items()}
    figures: dict[str, Any] = {
        "cores": cores,
        "dense_pixels_per_second": round(1 / median["dense"]),
    }
    for way in [*ways, *(f"published {way}" for way in ways if work.published)]:
        figures.update(against(way, seconds, median))
    return figures


def against(
    form: str, seconds: dict[str, list[float]], median: dict[str, float]
) -> dict[str, Any]:
    """Compare dense windows with a form in patches, at its best batch."""
    best = min(BATCHES, key=lambda b: median[f"{form}{b}"])
    pairs = zip(seconds[f"{form}{best}"], seconds["dense"], strict=True)
    ratios = [patch / dense for patch, dense in pairs]
    name = form.replace(" ", "_")
    return {
        f"{name}best_patch_batch": best,
        f"{name}ratio_median": round(statistics.median(ratios), 1),
        f"{name}ratio_range": [round(min(ratios), 1), round(max(ratios), 1)],
    }


if __name__ == "__main__":
    main()

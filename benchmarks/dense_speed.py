"""How many times faster is a dense window than the same network patch by patch?

    python benchmarks/dense_speed.py

Both run on onnxruntime, CPU, in one process and in turns, so that the ratio holds on a
busy machine. The patch form is given its best batch size.
"""

import statistics
import tempfile
import time
from pathlib import Path

import click
import common
import numpy as np

from hsi_runtime.backends import open_backend
from hsi_train.methods import names

OUTPUTS = 128  # the default tile
PATCHES = 256  # timed per round
BATCHES = (1, 16, 64)


@click.command()
@click.option("--method", "methods", multiple=True, default=names())
@click.option("--bands", default=204)
@click.option("--classes", default=6)
@click.option("--threads", default=1)
@click.option("--rounds", default=5)
def main(
    methods: tuple[str, ...], bands: int, classes: int, threads: int, rounds: int
) -> None:
    for method in methods:
        measure(method, bands, classes, threads, rounds)


def measure(method: str, bands: int, classes: int, threads: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = common.make_model(Path(folder), method, bands, classes, 400, 2500)
        backend = open_backend(model, "cpu", threads)
    side = model.document.receptive_field
    rng = np.random.default_rng(0)
    shape = (1, bands, OUTPUTS + side - 1, OUTPUTS + side - 1)
    window = 4000 * rng.random(shape, dtype=np.float32)
    stacks = {b: window[:, :, :side, :side].repeat(b, axis=0) for b in BATCHES}
    seconds: dict[str, list[float]] = {"dense": [], **{f"{b}": [] for b in BATCHES}}
    for _ in range(rounds + 1):  # the first round warms up
        started = time.perf_counter()
        backend.predict(window)
        seconds["dense"].append((time.perf_counter() - started) / OUTPUTS**2)
        for batch, stack in stacks.items():
            calls = max(PATCHES // batch, 1)
            started = time.perf_counter()
            for _ in range(calls):
                backend.predict(stack)
            per_pixel = (time.perf_counter() - started) / (calls * batch)
            seconds[f"{batch}"].append(per_pixel)
    median = {key: statistics.median(values[1:]) for key, values in seconds.items()}
    best = min(BATCHES, key=lambda b: median[f"{b}"])
    rounds_ratio = [
        patch / dense
        for patch, dense in zip(
            seconds[f"{best}"][1:], seconds["dense"][1:], strict=True
        )
    ]
    common.report(
        f"dense_speed_{method}",
        {
            "method": method,
            "bands": bands,
            "threads": threads,
            "macs_per_pixel": round(model.document.macs_per_pixel),
            "dense_pixels_per_second": round(1 / median["dense"]),
            "patch_pixels_per_second": {b: round(1 / median[f"{b}"]) for b in BATCHES},
            "best_patch_batch": best,
            "ratio_median": round(statistics.median(rounds_ratio), 1),
            "ratio_range": [round(min(rounds_ratio), 1), round(max(rounds_ratio), 1)],
        },
    )


if __name__ == "__main__":
    main()

"""How near are the exported networks to what the machine can do, and to first tries?

    python benchmarks/limits.py

For every method, in one process and in turns: the exported graph, the same weights in
the form first written (`first_try`), a matrix product and a copy. Engines have one
thread and the clock counts the time of the process on a core, not that of others: so
the ratios hold on a busy machine. The fastest of the rounds counts. Then all cores, by
wall clock: the first form with all threads in each window of 128, as hsi-run did,
against a window of the best side on each core, as it does now.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import click
import common
import first_try
import numpy as np
import onnxruntime
import torch
from onnx import helper, numpy_helper

from hsi_export import cost, tracing
from hsi_runtime.machine import usable_cores
from hsi_runtime.walk.threads import map_ahead
from hsi_runtime.walk.windows import DEFAULT_TILE
from hsi_train.methods import names

RESULTS = Path(__file__).parent / "results"
SIDE = 1024  # of the matrices
COPIED = 256 * 1024**2  # bytes, beyond any cache


def session(model: bytes, threads: int = 1) -> Any:
    """Start onnxruntime as hsi-run does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"]
    )


def matrix_product() -> tuple[Any, dict[str, Any]]:
    values = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    shape = [SIDE, SIDE]
    proto = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", 1, shape)],
        [helper.make_tensor_value_info("c", 1, shape)],
        [numpy_helper.from_array(values, "b")],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(proto, opset_imports=opset, ir_version=10)
    return session(model.SerializeToString()), {"a": values}


def fastest(
    calls: dict[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Call all in turns; return the least seconds on a core of each, and all."""
    seconds, _ = common.in_turns(calls, rounds, time.process_time)
    return {name: min(values) for name, values in seconds.items()}, seconds


def measure(
    name: str, bands: int, classes: int, sides: tuple[int, ...], rounds: int
) -> dict[str, Any]:
    torch.set_num_threads(1)
    method = common.make_method(name, bands, classes)
    protos = {
        "now": tracing.trace(method, bands),
        "first": first_try.trace(method, bands),
    }
    context = method.receptive_field - 1
    sessions = {k: session(p.SerializeToString()) for k, p in protos.items()}
    small = {"cube": common.stored_values(bands, 24 + context)}
    found = [s.run(None, small) for s in sessions.values()]
    difference = max(float(np.abs(a - b).max()) for a, b in zip(*found, strict=True))
    product, factors = matrix_product()
    source = np.ones(COPIED // 4, dtype=np.float32)  # zeros would share a page
    target = np.ones_like(source)
    calls: dict[str, Callable[[], Any]] = {
        "product": lambda: product.run(None, factors),
        "copy": lambda: np.copyto(target, source),
    }
    for side in sides:
        window = {"cube": common.stored_values(bands, side + context)}
        for key, engine in sessions.items():
            calls[f"{key} {side}"] = partial(engine.run, None, window)
    best, every = fastest(calls, rounds)
    rate = SIDE**3 / best["product"]
    bandwidth = 2 * COPIED / best["copy"]
    by_tile: dict[int, dict[str, Any]] = {}
    for side in sides:
        pixels = {k: side**2 / best[f"{k} {side}"] for k in sessions}
        macs = {
            k: cost.measure(p, context + 1, side + context).macs
            for k, p in protos.items()
        }
        reads_writes = 4 * (bands * ((side + context) / side) ** 2)
        reads_writes += 4 * classes * len(method.outputs)
        ratios = np.divide(every[f"first {side}"], every[f"now {side}"])
        by_tile[side] = {
            "macs_per_pixel": round(macs["now"]),
            "first_macs_per_pixel": round(macs["first"]),
            "pixels_per_second": round(pixels["now"]),
            "first_pixels_per_second": round(pixels["first"]),
            "over_first": round(pixels["now"] / pixels["first"], 2),
            "over_first_range": [round(float(f(ratios)), 2) for f in (min, max)],
            "share_of_product": round(pixels["now"] * macs["now"] / rate, 3),
            "share_of_product_first": round(pixels["first"] * macs["first"] / rate, 3),
            "share_of_copy": round(pixels["now"] * reads_writes / bandwidth, 4),
            "share_of_copy_at_full_product_rate": round(
                rate / macs["now"] * reads_writes / bandwidth,
                4,
            ),
        }
    tiles = {k: max(sides, key=lambda s: s**2 / best[f"{k} {s}"]) for k in sessions}
    return {
        "nodes": {k: len(p.graph.node) for k, p in protos.items()},
        "max_probability_difference": difference,
        "product_gmacs_per_second": round(rate / 1e9, 1),
        "copy_gb_per_second": round(bandwidth / 1e9, 1),
        "by_tile": by_tile,
        "best_tile": tiles,
        "over_first_each_at_its_best_tile": round(
            by_tile[tiles["now"]]["pixels_per_second"]
            / by_tile[tiles["first"]]["first_pixels_per_second"],
            2,
        ),
    }


def on_all_cores(name: str, bands: int, classes: int, rounds: int) -> dict[str, Any]:
    """Compare what hsi-run did first and does now; needs an idle machine."""
    method, cores = common.make_method(name, bands, classes), usable_cores()
    context = method.receptive_field - 1
    now = tracing.trace(method, bands)
    tile = common.tile_of(now, method.receptive_field)
    first = first_try.trace(method, bands).SerializeToString()

    def work(engine: Any, side: int, at_once: int) -> tuple[Callable[[], Any], int]:
        """Prepare the work of a round, and say how many pixels it classifies."""
        window = {"cube": common.stored_values(bands, side + context)}
        count = 4 * at_once * (DEFAULT_TILE // side) ** 2
        run = partial(engine.run, None)

        def call() -> None:
            for _ in map_ahead(run, repeat(window, count), at_once):
                pass

        return call, count * side**2

    works = {
        "first": work(session(first, cores), DEFAULT_TILE, 1),
        "now": work(session(now.SerializeToString()), tile, cores),
    }
    seconds, _ = common.in_turns({k: call for k, (call, _) in works.items()}, rounds)
    rates = {k: pixels / np.array(seconds[k]) for k, (_, pixels) in works.items()}
    ratios = rates["now"] / rates["first"]
    return {
        "cores": cores,
        "tile": tile,
        "pixels_per_second": round(float(np.median(rates["now"]))),
        "first_pixels_per_second": round(float(np.median(rates["first"]))),
        "over_first": round(float(np.median(ratios)), 2),
        "over_first_range": [round(float(f(ratios)), 2) for f in (min, max)],
    }


def table() -> str:
    """Lay out the figures of all methods as Markdown, a row for a method and tile."""
    lines = [
        "| method | tile | px/s first | px/s now | ratio (range) | "
        "share of matrix rate, first -> now |",
        "|---|---|---|---|---|---|",
    ]
    for path in sorted(RESULTS.glob("limits_*.json")):
        found = json.loads(path.read_text())
        for side, row in found["by_tile"].items():
            low, high = row["over_first_range"]
            lines.append(
                f"| {found['method']} | {side} | {row['first_pixels_per_second']:,} "
                f"| {row['pixels_per_second']:,} "
                f"| {row['over_first']} ({low}-{high}) "
                f"| {row['share_of_product_first']:.0%} -> "
                f"{row['share_of_product']:.0%} |"
            )
    lines += [
        "",
        "All cores, a first form with all threads in one window of 128 and now:",
        "",
        "| method | cores | tile now | px/s first | px/s now | ratio (range) |",
        "|---|---|---|---|---|---|",
    ]
    for path in sorted(RESULTS.glob("limits_*.json")):
        found = json.loads(path.read_text())
        row = found["all_cores"]
        low, high = row["over_first_range"]
        lines.append(
            f"| {found['method']} | {row['cores']} | {row['tile']} "
            f"| {row['first_pixels_per_second']:,} | {row['pixels_per_second']:,} "
            f"| {row['over_first']} ({low}-{high}) |"
        )
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--method", "chosen", multiple=True, default=names())
@click.option("--bands", default=200)
@click.option("--classes", default=16)
@click.option("--tiles", default="48,64,128,256")
@click.option("--rounds", default=7)
def main(
    chosen: tuple[str, ...], bands: int, classes: int, tiles: str, rounds: int
) -> None:
    sides = tuple(int(side) for side in tiles.split(","))
    for name in chosen:
        figures = common.apart(measure, name, bands, classes, sides, rounds)
        figures["all_cores"] = common.apart(on_all_cores, name, bands, classes, rounds)
        given = {"method": name, "bands": bands, "classes": classes, "threads": 1}
        common.report(f"limits_{name}", {**given, **figures})
    (RESULTS / "limits.md").write_text(table())


if __name__ == "__main__":
    main()

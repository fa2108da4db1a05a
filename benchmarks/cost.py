"""What does a pixel cost by tile, threads, bands and classes, and which tile is best?

    python benchmarks/cost.py

The exported graph of each method classifies windows of random values with random
weights, in onnxruntime on the CPU. For each method and question all cases take turns in
one process, and the fastest round counts. With one thread, processor time is measured,
so a busy machine does no harm; with more threads, wall time, which needs an idle
machine. Two windows at once on one thread each, as in hsi-run, are compared with one
window on two threads. Finished parts are kept in `--folder` and not repeated.
"""

import functools
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import click
import code_digest
import common
import cost_table
import onnx

from hsi_export import tracing
from hsi_runtime.walk.windows import DEFAULT_TILE
from hsi_train.methods import names

BASE = {"tile": DEFAULT_TILE, "threads": 1, "windows": 1, "bands": 200, "classes": 8}
QUESTIONS = {
    "tile": (32, 48, 64, 96, 128, 256),
    "bands": (50, 100, 200, 400),
    "classes": (2, 8, 32),
}
QUICK = {"tile": (48, 128), "bands": (50, 200), "classes": (2, 8)}

Result = dict[str, Any]


class Case(NamedTuple):
    """One way to run a graph: it, what it is given, and on how many cores.

    Attributes:
        name: Tells it from the others of its question, as ``64 tile 2 threads``.
        model: The ONNX file.
        bands: Of a window.
        side: Of a window, with its context.
        tile: Side of its result.
        threads: Of the engine.
        windows: At once, each in a thread of its own.
    """

    name: str
    model: bytes
    bands: int
    side: int
    tile: int
    threads: int
    windows: int


@functools.cache
def traced(method: str, bands: int, classes: int) -> tuple[bytes, int]:
    """Return the ONNX file of a method, and the context that a window needs, px."""
    built = common.make_method(method, bands, classes)
    proto = tracing.trace(built, bands)
    return proto.SerializeToString(deterministic=True), built.receptive_field - 1


def cases_of(question: str, method: str, values: Sequence[int]) -> list[Case]:
    """Name the cases of a question; all else is as in `BASE`."""
    asked = [{question: value} for value in values]
    if question == "tile":
        asked = [a | {key: n} for a in asked for n, key in cost_table.WAYS]
    cases = []
    for given in asked:
        full = BASE | given
        model, context = traced(method, full["bands"], full["classes"])
        cases.append(
            Case(
                " ".join(f"{value} {key}" for key, value in given.items()),
                model,
                full["bands"],
                full["tile"] + context,
                full["tile"],
                full["threads"],
                full["windows"],
            )
        )
    return cases


def call_of(case: Case, engine: Any) -> tuple[Callable[[], Any], int]:
    """Prepare what a case does in a round; return it, and the pixels it classifies."""
    cube = common.stored_values(case.bands, case.side)
    times = max(DEFAULT_TILE**2 // case.tile**2, 1)  # small tiles are soon done

    def run(_: int = 0) -> None:
        for _ in range(times):
            engine.run(None, {"cube": cube})

    pixels = times * case.tile**2
    if case.windows == 1:
        return run, pixels
    pool = ThreadPoolExecutor(case.windows)
    both = functools.partial(pool.map, run, range(case.windows))
    return lambda: list(both()), pixels * case.windows


def measure(cases: Sequence[Case], rounds: int) -> dict[str, Result]:
    """Run all cases in turns; return rates and, round by round, seconds a pixel.

    The clock of a case on one thread is the time on a core, else that on the wall.
    """
    engines = {(c.model, c.threads): common.session(c.model, c.threads) for c in cases}
    calls = {c.name: call_of(c, engines[c.model, c.threads]) for c in cases}
    seconds: dict[str, list[float]] = {c.name: [] for c in cases}
    cores: dict[str, list[float]] = {c.name: [] for c in cases}
    for _ in range(rounds + 1):  # the first round warms up
        for name, (call, pixels) in calls.items():
            started, worked = time.perf_counter(), time.process_time()
            call()
            cores[name].append((time.process_time() - worked) / pixels)
            seconds[name].append((time.perf_counter() - started) / pixels)
    out = {}
    for case in cases:
        one = case.threads * case.windows == 1
        each = (cores if one else seconds)[case.name][1:]
        out[case.name] = {
            "pixels_per_second": round(1 / min(each)),
            "wall_pixels_per_second": round(1 / min(seconds[case.name][1:])),
            "seconds_per_pixel": each,
        }
    return out


def part(cases: Sequence[Case], rounds: int, place: Path) -> dict[str, Result]:
    """Measure in a process of its own, or take what was measured before."""
    digest = hashlib.sha256(str(rounds).encode())
    for case in cases:
        digest.update(repr(case).encode())
    key = digest.hexdigest()
    before = json.loads(place.read_text()) if place.is_file() else {}
    if before.get("key") == key:
        kept: dict[str, Result] = before["found"]
        return kept
    found = common.apart(measure, cases, rounds)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps({"key": key, "found": found}))
    return found


@click.command()
@click.option("--method", "chosen", multiple=True, default=names())
@click.option("--rounds", default=5)
@click.option("--folder", type=click.Path(path_type=Path), default="build/cost")
@click.option("--quick", is_flag=True, help="Few cases, one round; only prints.")
def main(chosen: tuple[str, ...], rounds: int, folder: Path, quick: bool) -> None:
    methods = {}
    for method in chosen:
        found = {}
        for question, values in (QUICK if quick else QUESTIONS).items():
            cases = cases_of(question, method, values)
            name = f"{'quick-' * quick}{method}-{question}.json"
            found[question] = part(cases, 1 if quick else rounds, folder / name)
            print(f"{method}: {question} done", flush=True)
        model, context = traced(method, BASE["bands"], BASE["classes"])
        plan = common.tile_of(onnx.load_from_string(model), context + 1)
        methods[method] = cost_table.summary(found, plan)
    text = cost_table.markdown(methods, BASE)
    if quick:
        print(text)
        return
    code = code_digest.of_running(*chosen)
    common.report("cost", {"base": BASE, "methods": methods}, code)
    (common.RESULTS / "cost.md").write_text(text)


if __name__ == "__main__":
    main()

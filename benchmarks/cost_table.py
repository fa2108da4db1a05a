"""Turns the rates that `cost` measures into answers and tables."""

from collections.abc import Sequence
from typing import Any

import common

WAYS = ((1, "threads"), (2, "threads"), (2, "windows"))
SHOWN = ("1 threads", "2 windows")  # hsi-run on one core, and on two
NEAR = 0.05  # a tile this much slower than the fastest is good enough

Result = dict[str, Any]


def best_tile(found: dict[str, Result], way: str, plan: int) -> Result:
    """Compare the plan's tile with the fastest one."""
    ending = f" tile {way}"
    rows = {
        int(name.removesuffix(ending)): row
        for name, row in found.items()
        if name.endswith(ending)
    }
    rates = {tile: row["pixels_per_second"] for tile, row in rows.items()}
    best = max(rates, key=rates.__getitem__)
    ours, fastest = (rows[tile]["seconds_per_pixel"] for tile in (plan, best))
    losses = [p / f - 1 for p, f in zip(ours, fastest, strict=True)]
    loss = rates[best] / rates[plan] - 1
    return {
        "pixels_per_second": rates,
        "fastest_tile": best,
        "plan_tile": plan,
        "plan_slower_by": round(loss, 3),
        "plan_slower_by_rounds": [round(min(losses), 3), round(max(losses), 3)],
        "plan_good_enough": loss <= NEAR,
    }


def summary(found: dict[str, dict[str, Result]], plan: int) -> Result:
    """Answer the questions about one method.

    Args:
        found: By question, then by case, what `cost.measure` returns.
        plan: Side of the squares that hsi-run takes on a CPU, px.
    """
    tile = found["tile"]
    one, threads, windows = (
        tile[f"{plan} tile {count} {key}"]["wall_pixels_per_second"]
        for count, key in WAYS
    )
    rates = {
        question: {
            int(name.split()[0]): row["pixels_per_second"]
            for name, row in found[question].items()
        }
        for question in ("bands", "classes")
    }
    return {
        "tile": {way: best_tile(tile, way, plan) for way in SHOWN},
        **rates,
        "two_threads_over_one": round(threads / one, 2),
        "two_windows_over_one": round(windows / one, 2),
    }


def markdown(methods: dict[str, Result], base: dict[str, int]) -> str:
    """Write a table for each question."""
    first = next(iter(methods.values()))
    tiles = first["tile"][SHOWN[0]]["pixels_per_second"]
    rows = [
        [
            method,
            way,
            *(f"{rate:,}" for rate in row["pixels_per_second"].values()),
            row["fastest_tile"],
            row["plan_tile"],
            f"{row['plan_slower_by']:.1%} "
            f"({' to '.join(f'{v:.1%}' for v in row['plan_slower_by_rounds'])})",
            "yes" if row["plan_good_enough"] else "no",
        ]
        for method, found in methods.items()
        for way, row in found["tile"].items()
    ]
    slower = "slower than the fastest by (rounds)"
    head = [
        "",
        "at once",
        *tiles,
        "fastest",
        "used",
        slower,
        f"within {NEAR:.0%}",
    ]
    title = "Pixels/s by side of the tile, and the tile that hsi-run uses:"
    lines = _table(title, head, rows)
    for question in ("bands", "classes"):
        rows = [
            [method, *(f"{rate:,}" for rate in found[question].values())]
            for method, found in methods.items()
        ]
        title = f"Pixels/s on one core by {question}:"
        lines += _table(title, ["", *first[question]], rows)
    rows = [
        [method, found["two_threads_over_one"], found["two_windows_over_one"]]
        for method, found in methods.items()
    ]
    head = ["", "one window on two threads", "two windows on one thread each"]
    title = "Times as fast as one thread, at hsi-run's tile, by wall time:"
    lines += _table(title, head, rows)
    lines.append(
        f"Unless stated otherwise, {base['bands']} bands, {base['classes']} classes, "
        f"tile {base['tile']}, one thread. {common.machine_text()}"
    )
    return "\n".join(lines) + "\n"


def _table(title: str, head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return [title, "", *common.table_head(list(map(str, head))), *lines, ""]

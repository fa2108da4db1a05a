"""Which method is the most accurate for what it costs?

    python benchmarks/accuracy_by_cost.py

Measures nothing: sets the accuracy of every finished cell of `accuracy.py` against
pixels per second on one core. Rates are those of `rivals.py` where it ran on the same
scene with as many training pixels, all in one run; else, for our methods, those of
`dense_speed.py`, which depend on no scene. A support vector machine takes as long as it
has support vectors, so that its rate on one scene says nothing of another: where none
was measured, its accuracy is a line.
"""

import json
from itertools import cycle
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

import click
import common
import plots

from hsi_train.methods import names

DATA = {
    "salinas_a": "SalinasA, 10 pixels a class",
    "salinas_a_disjoint": "SalinasA, opposite corners",
    "enmap_potsdam": "EnMAP Potsdam, given blocks",
}
RIVALS = {"SVM, RBF": "svm", "random forest": "forest"}  # as rows of accuracy.py


class Point(NamedTuple):
    """One row of the accuracy table on one data set.

    Attributes:
        row: Method, variant or baseline.
        accuracy: Overall, mean over seeds, in per cent.
        spread: Population standard deviation over seeds, in per cent.
        seeds: Number of them.
        rate: Pixels per second on one core; None where it was not measured.
        source: Benchmark that measured the rate.
    """

    row: str
    accuracy: float
    spread: float
    seeds: int
    rate: int | None
    source: str


def method_of(row: str) -> str | None:
    """Name the method whose network a row runs; ``s2former_scratch`` is S2Former's."""
    return next((n for n in names() if f"{row}_".startswith(f"{n}_")), None)


def points_of(data: str, folder: Path) -> list[Point]:
    """Join what was measured of a data set, the fastest first."""
    lines = (folder / "accuracy" / "cells.jsonl").read_text().splitlines()
    cells: dict[str, list[dict[str, Any]]] = {}
    for cell in map(json.loads, lines):
        if cell["data"] == data and "error" not in cell:
            cells.setdefault(cell["row"], []).append(cell)
    points = []
    for row, members in cells.items():
        rate, source = rate_of(row, data, members[0]["counts"]["train"], folder)
        shares = [100 * m["overall_accuracy"] for m in members]
        spread = pstdev(shares)
        points.append(Point(row, fmean(shares), spread, len(shares), rate, source))
    return sorted(points, key=lambda p: -(p.rate or 0))


def rate_of(row: str, data: str, train: int, folder: Path) -> tuple[int | None, str]:
    """Find pixels per second, and the benchmark that measured them.

    Args:
        row: Method, variant or baseline.
        data: Data set, named after its scene.
        train: Training pixels: what a baseline's rate depends on.
        folder: Of the results.
    """
    method = method_of(row)
    path = folder / "rivals.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    for scene, figures in found.get("scenes", {}).items():
        if not f"{data}_".startswith(f"{scene}_") or figures["train"] != train:
            continue
        for name, rival in figures["rivals"].items():
            if RIVALS.get(name, name) in (row, method):
                return rival["pixels_per_second"], "rivals"
    path = folder / f"dense_speed_{method}.json"
    if path.is_file():
        return json.loads(path.read_text())["dense_pixels_per_second"], "dense_speed"
    return None, ""


def markdown(points: dict[str, list[Point]]) -> str:
    """Write a row for each point: accuracy in per cent, and cost."""
    head = ["data", "", "overall accuracy", "seeds", "pixels/s on one core", "from"]
    lines = common.table_head(head)
    for data, found in points.items():
        for p in found:
            rate = "not measured" if p.rate is None else f"{p.rate:,}"
            accuracy = f"{p.accuracy:.1f} ± {p.spread:.1f}"
            cells = (DATA[data], p.row, accuracy, f"{p.seeds}", rate, p.source)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(points: dict[str, list[Point]], path: Path) -> None:
    """Plot accuracy against rate: a panel for each data set."""
    figure, axes = plots.panels([DATA[data] for data in points], 9, 3.4)
    rows = list(dict.fromkeys(p.row for found in points.values() for p in found))
    for row, color in zip(rows, cycle(plots.COLORS), strict=False):
        style: dict[str, Any] = {"color": color, "label": row.replace("_", " ")}
        marker = "o" if method_of(row) else "s"
        for panel, found in zip(axes, points.values(), strict=True):
            for p in found:
                if p.row != row:
                    continue
                if p.rate is None:
                    panel.axhline(p.accuracy, linestyle=":", **style)
                else:
                    panel.errorbar(
                        p.rate, p.accuracy, p.spread, marker=marker, capsize=2, **style
                    )
    for panel in axes:
        plots.make_log(panel.xaxis)
        panel.set_xlabel("pixels/s on one core")
    axes[0].set_ylabel("overall accuracy, %")
    named = {
        name: handle
        for panel in axes
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(named.values(), named, loc="outside upper center", ncols=len(named))
    plots.save(figure, path)


@click.command()
@click.option("--results", type=click.Path(path_type=Path), default=common.RESULTS)
def main(results: Path) -> None:
    found = {data: points_of(data, results) for data in DATA}
    points = {data: each for data, each in found.items() if each}
    text = markdown(points)
    print(text)
    (results / "accuracy_by_cost.md").write_text(text)
    draw(points, results / "accuracy_by_cost.svg")


if __name__ == "__main__":
    main()

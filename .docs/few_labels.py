"""Writes the table of few labels: what a pre-trained encoder adds to the linear map."""

from collections import defaultdict
from statistics import fmean, stdev

import results
from tables import table

DATA = {
    "salinas_a_disjoint": "SalinasA, opposite corners, 10 pixels a class",
    "salinas_a_disjoint_5": "the same, 5",
    "enmap_potsdam_10": "EnMAP Potsdam, given blocks, 10 a class",
    "enmap_potsdam_5": "the same, 5",
    "indian_pines_disjoint_10": "Indian Pines, disjoint mask, 10 a class",
    "indian_pines_disjoint_5": "the same, 5",
}
LINEAR = "lda"
ROWS = {
    "s2former_pretrained": "pre-trained `s2former`",
    "s2former_untrained": "the same, an encoder of one step",
}

Seeds = dict[int, float]  # overall accuracy in per cent, by seed


def few_labels() -> str:
    """Set linear map, best rival and pre-trained S2Former side by side, by scene."""
    cells = results.lines_of(results.FOLDER / "accuracy" / "cells.jsonl")
    rows: dict[tuple[str, str], Seeds] = defaultdict(dict)
    for cell in cells:
        share = 100 * cell["overall_accuracy"]
        rows[cell["data"], cell["row"]][cell["seed"]] = share
    rivals = results.best_rivals(cells)
    lines = []
    for data, title in DATA.items():
        linear = rows[data, LINEAR]
        if not linear:
            continue
        name, shares = rivals[data]
        best = {seed: 100 * overall for seed, (overall, _) in shares.items()}
        others = [rows[data, row] for row in ROWS]
        lines.append(
            [
                title,
                f"{fmean(linear.values()):.1f} ({len(linear)})",
                f"{name} {_gap(best, linear)}",
                *(_gap(other, linear) for other in others),
            ]
        )
    return table(["", "`lda`", results.RIVAL, *ROWS.values()], lines)


def _gap(seeds: Seeds, linear: Seeds) -> str:
    """Write the mean difference over the seeds that both have, and its error."""
    gaps = [share - linear[seed] for seed, share in seeds.items() if seed in linear]
    if len(gaps) < 2:
        return "not run"
    error = stdev(gaps) / len(gaps) ** 0.5
    return f"{fmean(gaps):+.1f} ± {error:.1f} ({len(gaps)})"

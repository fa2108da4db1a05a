"""Trains one recipe with several seeds, to show how far accuracy depends on chance.

``RUN/seed-K`` is an ordinary run for each seed K; ``RUN/seeds.json`` holds mean,
spread (sample standard deviation) and values of their accuracies, ``RUN/report.html``
shows them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hsi_runtime import files
from hsi_train.fitting.progress import UNWATCHED, Watch
from hsi_train.recipe import Recipe
from hsi_train.several import runs

KIND = runs.Kind(option="--seeds", pattern="seed-*", summary="seeds.json")
FIGURES = ("overall_accuracy", "average_accuracy", "kappa")


def train_seeds(
    recipe: Recipe,
    run: Path,
    count: int,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    watch: Watch = UNWATCHED,
    workers: int = 1,
) -> dict[str, Any]:
    """Train with ``count`` seeds, from the recipe's own upwards.

    Args:
        recipe: The recipe.
        run: Folder of the runs.
        count: Number of seeds.
        device: As for `training.train`.
        resume: Skip finished runs and continue an interrupted one.
        overwrite: Replace the runs that are there.
        watch: As for `training.train`.
        workers: Runs that are trained at once.

    Returns:
        The content of ``seeds.json``.

    Raises:
        HsiError: Any of its kinds.
    """
    runs.prepare(run, recipe, KIND, resume, overwrite)
    one = runs.with_shared_budget(recipe, runs.turns_of(count, workers))
    seeds = [recipe.seed + k for k in range(count)]
    parts = [
        runs.Part(f"seed-{seed}", msgspec.structs.replace(one, seed=seed))
        for seed in seeds
    ]
    present = runs.data_present(recipe, resume)
    results = runs.train_parts(run, parts, device, present, watch, workers)
    result = summary(seeds, results)
    files.write_text(run / KIND.summary, json.dumps(result, indent=1) + "\n")

    from hsi_train.report.seeds import write_report

    write_report(run / runs.REPORT, result, recipe.method)
    return result


def summary(seeds: Sequence[int], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sum up the ``metrics.json`` of several seeds; classes go by their code."""
    means: dict[str, Any] = {"seeds": list(seeds)}
    for key in FIGURES:
        means[key] = spread([result[key] for result in results])
    recalls: dict[str, dict[str, Any]] = {}
    for entry in results[0]["per_class"]:
        values = [
            one["recall"]
            for result in results
            for one in result["per_class"]
            if one["code"] == entry["code"]
        ]
        recalls[str(entry["code"])] = {"name": entry["name"], **spread(values)}
    return means | {"per_class": recalls}


def table(summary: dict[str, Any]) -> str:
    """Show a summary as text: a row for each figure and for each class's recall."""
    rows = [(key.replace("_", " "), summary[key]) for key in FIGURES]
    rows += [(f"recall of {c['name']}", c) for c in summary["per_class"].values()]
    width = max(len(name) for name, _ in rows)
    lines = [f"{len(summary['seeds'])} seeds: mean, standard deviation, values"]
    for name, figure in rows:
        each = " ".join("-" if v is None else f"{v:.4f}" for v in figure["values"])
        mean, std = ("-" if v is None else f"{v:.4f}" for v in _pair(figure))
        lines.append(f"{name:{width}}  {mean:>6} {std:>6}  {each}")
    return "\n".join(lines)


def _pair(figure: dict[str, Any]) -> tuple[float | None, float | None]:
    return figure["mean"], figure["std"]


def spread(values: list[float | None]) -> dict[str, Any]:
    """Mean and spread of the values that exist: a split may not test a class."""
    known = [v for v in values if v is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "std": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "values": values,
    }

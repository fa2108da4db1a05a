"""Cross-validates a recipe over folds of the ground, then trains it on all labels.

``RUN/fold-K`` is an ordinary run that tests fold K; ``RUN/model`` is trained on all
labelled pixels, as long as the folds found, and is what is exported. ``RUN/folds.json``
and ``RUN/report.html`` show the accuracy of the folds, and of their simple rivals.
"""

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from scipy import stats

from hsi_runtime import files
from hsi_train.finishing import Evidence
from hsi_train.fitting.progress import EPOCHS, QUICK, TIME_UP, UNWATCHED, Watch
from hsi_train.recipe import Recipe, Split
from hsi_train.run_folder import checkpoint
from hsi_train.several import runs
from hsi_train.several.seeds import FIGURES

KIND = runs.Kind(option="--folds", pattern="fold-*", summary="folds.json")
CONFIDENCE = 0.95
LEAST = {"overall_accuracy": 0.0, "average_accuracy": 0.0}  # else -1
OF_RIVALS = {
    "overall_accuracy": "overall accuracy",
    "average_accuracy": "average accuracy",
    "difference": "gain of the network",
}


def train_folds(
    recipe: Recipe,
    run: Path,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    watch: Watch = UNWATCHED,
    workers: int = 1,
) -> dict[str, Any]:
    """Train once for each fold of the recipe, and then on all labels.

    Args:
        recipe: The recipe; its split names the number of folds.
        run: Folder of the runs.
        device: As for `training.train`.
        resume: Skip finished runs and continue an interrupted one.
        overwrite: Replace the runs that are there.
        watch: As for `training.train`.
        workers: Runs that are trained at once.

    Returns:
        The content of ``folds.json``.

    Raises:
        HsiError: Any of its kinds.
    """
    count = recipe.split.folds
    assert count is not None
    runs.prepare(run, recipe, KIND, resume, overwrite)
    one = runs.with_shared_budget(recipe, runs.turns_of(count, workers) + 1)
    parts = [
        runs.Part(f"fold-{number}", _with_split(one, fold=number))
        for number in range(1, count + 1)
    ]
    present = runs.data_present(recipe, resume)
    results = runs.train_parts(run, parts, device, present, watch, workers)
    result = summary(results)
    last = runs.Part(checkpoint.MODEL, _with_split(one, mode="all", folds=None))
    found = evidence(results, result)
    result["model"] = {
        "rounds": found.rounds,
        "gate": found.gate,
        "unjudged": list(found.unjudged),
        "balance": found.balance,
        "temperature": found.temperature,
    }
    runs.train_part(run, last, device, present, watch, found)
    files.write_text(run / KIND.summary, json.dumps(result, indent=1) + "\n")

    from hsi_train.report.folds import write_report

    write_report(run / runs.REPORT, result, recipe.method)
    return result


def _with_split(recipe: Recipe, **changes: Any) -> Recipe:
    """Change the split of a recipe."""
    split: Split = msgspec.structs.replace(recipe.split, **changes)
    return msgspec.structs.replace(recipe, split=split)


def evidence(results: Sequence[dict[str, Any]], told: dict[str, Any]) -> Evidence:
    """Take from the folds what a training on all labels cannot find out itself.

    Medians: one fold that learned nothing, or without end, does not decide.

    Args:
        results: The ``metrics.json`` of the folds.
        told: Their summary.
    """
    trainings = [result["training"] for result in results]
    reasons = [training["stop_reason"] for training in trainings]
    given = set(reasons) <= {EPOCHS, QUICK}
    out_of_time = reasons.count(TIME_UP) > len(reasons) / 2
    rounds = round(statistics.median(training["rounds"] for training in trainings))
    gates = [training["gate"] for training in trainings]
    unjudged = Counter(k for training in trainings for k in training["unjudged"])
    temperatures = [
        (result["calibration"] or {"temperature": 1.0})["temperature"]
        for result in results
    ]
    return Evidence(
        matrix=np.sum([result["confusion"] for result in results], axis=0),
        rounds=None if given or out_of_time else rounds,
        gate=None if None in gates else statistics.median_low(gates),
        unjudged=tuple(k for k, n in sorted(unjudged.items()) if 2 * n > len(results)),
        balance=statistics.median_low(t["balance"] for t in trainings),
        temperature=float(statistics.median(temperatures)),
        summary=told,
    )


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sum up the ``metrics.json`` of the folds, those of the rivals included."""
    tested = np.sum([result["confusion"] for result in results], axis=(0, 2))
    names = [entry["name"] for entry in results[0]["classes"]]
    rivals = []
    for rival in results[0].get("rivals", []):
        name = rival["name"]
        same = [r for result in results for r in result["rivals"] if r["name"] == name]
        rivals.append({"name": name} | {key: _figure(key, same) for key in OF_RIVALS})
    return {
        "folds": len(results),
        **{key: _figure(key, results) for key in FIGURES},
        "rivals": rivals,
        "test_pixels": [int(np.sum(result["confusion"])) for result in results],
        "untested": [n for n, count in zip(names, tested, strict=True) if not count],
    }


def _figure(key: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sum up a figure of several rows, within its bounds."""
    return mean_and_interval([row[key] for row in rows], LEAST.get(key, -1.0))


def mean_and_interval(
    values: Sequence[float | None], least: float = -1.0
) -> dict[str, Any]:
    """Mean of the folds with its interval, by Student's distribution.

    Their trainings share most pixels, so that the true interval is rather wider.

    Args:
        values: Of each fold; None where it has none.
        least: Least possible value; the largest is one.
    """
    known = [v for v in values if v is not None]
    mean = float(np.mean(known)) if known else None
    interval = None
    if mean is not None and len(known) > 1:
        quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(known) - 1)
        half = float(quantile * np.std(known, ddof=1) / math.sqrt(len(known)))
        interval = [max(mean - half, least), min(mean + half, 1.0)]
    return {"mean": mean, "interval": interval, "values": list(values)}


def table(summary: dict[str, Any]) -> str:
    """Show a summary as text: a row for each figure, and for each rival."""
    lines = [f"{summary['folds']} folds: mean, 95 % interval, values"]
    for name, figure in rows(summary):
        each = " ".join("-" if v is None else f"{v:.4f}" for v in figure["values"])
        low, high = figure["interval"] or (math.nan, math.nan)
        lines.append(f"{name:34}  {figure['mean']:.4f}  {low:.4f} {high:.4f}  {each}")
    if summary["untested"]:
        lines.append(f"No fold tests {', '.join(summary['untested'])}.")
    return "\n".join(lines)


def rows(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """List the named figures of a summary, in the order of a table."""
    named = [(key.replace("_", " "), summary[key]) for key in FIGURES]
    for rival in summary["rivals"]:
        for key, what in OF_RIVALS.items():
            named.append((f"{rival['name']}: {what}", rival[key]))
    return named

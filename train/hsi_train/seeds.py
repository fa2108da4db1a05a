"""Trains one recipe with several seeds, to show how far accuracy depends on chance.

``RUN/seed-K`` is an ordinary run for each seed K; ``RUN/seeds.json`` holds mean,
spread (sample standard deviation) and values of their accuracies, ``RUN/report.html``
shows them.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hsi_runtime import files
from hsi_runtime.errors import OutputError, RecipeError
from hsi_train import training
from hsi_train.fitting.progress import Epoch
from hsi_train.recipe import Recipe
from hsi_train.run_folder import checkpoint
from hsi_train.run_folder import folder as run_folder
from hsi_train.run_folder.origin import by_name, digests, stamps, training_files

SUMMARY, REPORT = "seeds.json", "report.html"
FIGURES = ("overall_accuracy", "average_accuracy", "kappa")


def train_seeds(
    recipe: Recipe,
    run: Path,
    count: int,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    after_step: Callable[[int, int, float], None] = lambda *_: None,
    after_epoch: Callable[[Epoch], None] = lambda _: None,
) -> dict[str, Any]:
    """Train with ``count`` seeds, from the recipe's own upwards.

    Args:
        recipe: The recipe.
        run: Folder of the runs.
        count: Number of seeds.
        device: As for `training.train`.
        resume: Skip finished runs and continue an interrupted one.
        overwrite: Replace the runs that are there.
        after_step: As for `training.train`.
        after_epoch: As for `training.train`.

    Returns:
        The content of ``seeds.json``.

    Raises:
        HsiError: Any of its kinds.
    """
    _prepare(run, recipe, resume, overwrite)
    seeds = [recipe.seed + k for k in range(count)]
    results = []
    present = by_name(digests(stamps(training_files(recipe)))) if resume else {}
    for seed in seeds:
        folder = run / f"seed-{seed}"
        metrics = folder / run_folder.METRICS
        begun = run_folder.interrupted(folder)
        if metrics.is_file() and not begun:
            _check_data(folder, present)
            results.append(json.loads(metrics.read_text(encoding="utf-8")))
            continue
        one = msgspec.structs.replace(recipe, seed=seed)
        # What a crash left before the first state is of no use.
        result = training.train(
            one, folder, device, begun, not begun, after_step, after_epoch
        )
        results.append(result)
    result = summary(seeds, results)
    text = json.dumps(result, indent=1) + "\n"
    files.write_text(run / SUMMARY, text)

    from hsi_train.report.seeds import write_report

    write_report(run / REPORT, result, recipe.method)
    return result


def _check_data(folder: Path, present: dict[str, str]) -> None:
    """Refuse to count a finished run in that was trained on other data.

    Raises:
        RecipeError: A file has changed since.
    """
    before = checkpoint.load(folder).description.provenance.data_sha256
    names = sorted(k for k in before | present if before.get(k) != present.get(k))
    if names:
        raise RecipeError(
            f"{folder} was trained on other data: {', '.join(names[:3])} changed "
            "since. Restore what changed, or start again with --overwrite."
        )


def summary(seeds: Sequence[int], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sum up the ``metrics.json`` of several seeds; classes go by their code."""
    means: dict[str, Any] = {"seeds": list(seeds)}
    for key in FIGURES:
        means[key] = _spread([result[key] for result in results])
    recalls: dict[str, dict[str, Any]] = {}
    for entry in results[0]["per_class"]:
        values = [
            one["recall"]
            for result in results
            for one in result["per_class"]
            if one["code"] == entry["code"]
        ]
        recalls[str(entry["code"])] = {"name": entry["name"], **_spread(values)}
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


def _spread(values: list[float | None]) -> dict[str, Any]:
    """Mean and spread of the values that exist: a split may not test a class."""
    known = [v for v in values if v is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "std": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "values": values,
    }


def _prepare(run: Path, recipe: Recipe, resume: bool, overwrite: bool) -> None:
    """Create the folder with the recipe as it was given, or check the one there.

    Raises:
        OutputError: It holds something else, or cannot be written.
        RecipeError: The runs to resume have another recipe.
    """
    if run.exists() and not run.is_dir():
        raise OutputError(f"{run} is a file; -o names the folder of the runs.")
    occupied = run.is_dir() and any(run.iterdir())
    seeds = run.is_dir() and any(run.glob("seed-*"))
    if resume and not seeds:
        raise OutputError(f"{run} holds no runs of --seeds to resume.")
    if occupied and not (resume or overwrite):
        raise OutputError(
            f"{run} is not empty; --resume goes on with its seeds, --overwrite "
            "replaces them."
        )
    if overwrite and occupied:
        for path in run.iterdir():
            if path.is_dir() and path.match("seed-*"):
                run_folder.check_folder(path, False, True)
            elif path.name not in (run_folder.RECIPE, SUMMARY, REPORT):
                raise OutputError(
                    f"{run} holds {path.name}, which --overwrite would delete; move "
                    "what is no part of the runs, or choose another folder."
                )
        run_folder.check_inputs(run, recipe)
    run_folder.prepare_folder(run, recipe, resume, overwrite)

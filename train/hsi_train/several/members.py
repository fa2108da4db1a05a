"""Trains members of one model on the same split, and joins them into one.

``RUN/member-K`` is an ordinary run; ``RUN/model`` holds the model that averages their
probabilities, with its own metrics and report, and is what is exported.
``RUN/members.json`` compares it with its members.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from hsi_runtime import files
from hsi_train import finishing, inputs
from hsi_train.finishing import Trained
from hsi_train.fitting.device import memory_explained, torch_device
from hsi_train.fitting.predict import Scorer
from hsi_train.fitting.progress import MEMBERS, UNWATCHED, Progress, Watch
from hsi_train.method import BaseMethod
from hsi_train.recipe import Recipe
from hsi_train.run_folder import checkpoint, ensemble
from hsi_train.run_folder import folder as run_folder
from hsi_train.several import runs
from hsi_train.several.seeds import FIGURES, spread

KIND = runs.Kind(option="--members", pattern="member-*", summary="members.json")


def train_members(
    recipe: Recipe,
    run: Path,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    watch: Watch = UNWATCHED,
    workers: int = 1,
) -> dict[str, Any]:
    """Train the members of the recipe, and measure their mean.

    Args:
        recipe: The recipe; it names the number of members.
        run: Folder of the runs.
        device: As for `training.train`.
        resume: Skip finished runs and continue an interrupted one.
        overwrite: Replace the runs that are there.
        watch: As for `training.train`.
        workers: Runs that are trained at once.

    Returns:
        The content of ``members.json``.

    Raises:
        HsiError: Any of its kinds.
    """
    runs.prepare(run, recipe, KIND, resume, overwrite)
    one = runs.with_shared_budget(recipe, runs.turns_of(recipe.members, workers))
    parts = [
        runs.Part(
            f"member-{number}", msgspec.structs.replace(one, members=1, member=number)
        )
        for number in range(1, recipe.members + 1)
    ]
    present = runs.data_present(recipe, resume)
    results = runs.train_parts(run, parts, device, present, watch, workers)
    joined = join(recipe, run, [run / part.name for part in parts], device, results)
    result = summary(results, joined)
    files.write_text(run / KIND.summary, json.dumps(result, indent=1) + "\n")
    return result


@memory_explained()
def join(
    recipe: Recipe,
    run: Path,
    folders: Sequence[Path],
    device: str,
    results: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Write the folder of the model that averages the members.

    Args:
        recipe: The recipe of all.
        run: Folder of the runs.
        folders: Folders of the members.
        device: Where it is measured.
        results: The members' ``metrics.json``.

    Returns:
        Its ``metrics.json``.
    """
    started, where = time.monotonic(), torch_device(device)
    data = inputs.read(recipe)
    members: list[BaseMethod] = [
        checkpoint.load(folder).method.to(where) for folder in folders
    ]
    method = ensemble.of(members).eval()
    trained = Trained(
        method=method,
        scorer=Scorer.of_method(method, where),
        progress=Progress(),
        training=training_of(results),
        caveats=[],
    )
    stored = checkpoint.load(folders[0]).description
    resolved = msgspec.structs.replace(recipe, options=stored.options)
    folder = run / checkpoint.MODEL
    run_folder.prepare_folder(folder, resolved, False, True)
    result = finishing.measure(recipe, folders[0], data, trained)
    finishing.write(resolved, folder, data, trained, result, started)
    return result


def training_of(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sum up the trainings of the members."""
    each = [result["training"] for result in results]
    return {
        "rounds": sum(one["rounds"] for one in each),
        "steps": sum(one["steps"] for one in each),
        "phases": {
            phase: sum(one["phases"][phase] for one in each)
            for phase in each[0]["phases"]
        },
        "stop_reason": MEMBERS,
        "gate": None,
        "unjudged": [],
        "balance": None,
        "members": each,
    }


def summary(
    results: Sequence[dict[str, Any]], joined: dict[str, Any]
) -> dict[str, Any]:
    """Compare the model with its members, by their ``metrics.json``."""
    return {
        "members": len(results),
        **{key: spread([result[key] for result in results]) for key in FIGURES},
        "model": {key: joined[key] for key in FIGURES},
    }


def table(summary: dict[str, Any]) -> str:
    """Show a summary as text: a row for each figure."""
    lines = [f"{summary['members']} members as one model, and each of them"]
    for key in FIGURES:
        each = " ".join(f"{value:.4f}" for value in summary[key]["values"])
        name = key.replace("_", " ")
        lines.append(f"{name:16}  {summary['model'][key]:.4f}  {each}")
    return "\n".join(lines)

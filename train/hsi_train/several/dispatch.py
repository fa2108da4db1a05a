"""One door for every recipe: one run, folds with a last model, or members of one."""

from pathlib import Path
from typing import Any

from hsi_runtime.errors import OptionError
from hsi_train import training
from hsi_train.fitting.progress import UNWATCHED, Watch
from hsi_train.recipe import Recipe
from hsi_train.several import folds, members

MOST_WORKERS = 256


def train(
    recipe: Recipe,
    run: Path,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    watch: Watch = UNWATCHED,
    workers: int = 1,
) -> dict[str, Any]:
    """Train what a recipe asks for.

    Args:
        recipe: The recipe.
        run: Folder of the run, or of the runs.
        device: As for `training.train`.
        resume: Continue what was interrupted.
        overwrite: Replace what is there.
        watch: As for `training.train`.
        workers: Runs that are trained at once, where there are several.

    Returns:
        The content of ``metrics.json``, ``folds.json`` or ``members.json``.

    Raises:
        HsiError: Any of its kinds.
    """
    if not (type(workers) is int and 1 <= workers <= MOST_WORKERS):
        raise OptionError(f"{workers!r} is not in 1 to {MOST_WORKERS}.", "workers")
    common = recipe, run, device, resume, overwrite, watch
    if recipe.split.mode == "folds" and recipe.split.fold is None:
        return folds.train_folds(*common, workers)
    if recipe.members > 1:
        return members.train_members(*common, workers)
    if workers > 1:
        raise OptionError(
            "several runs are trained at once, and this is one. Give --seeds, --folds "
            "or --members, or start it by torchrun.",
            "workers",
        )
    return training.train(*common)


def table(result: dict[str, Any]) -> str | None:
    """Show the summary of several runs as text; None of a single run."""
    if isinstance(result.get("folds"), int):
        return folds.table(result)
    if isinstance(result.get("members"), int):
        return members.table(result)
    return None

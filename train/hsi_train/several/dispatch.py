"""One door for every recipe: one run, folds with a last model, or members of one."""

from pathlib import Path
from typing import Any

from hsi_train import training
from hsi_train.fitting.progress import UNWATCHED, Watch
from hsi_train.recipe import Recipe
from hsi_train.several import folds, members


def train(
    recipe: Recipe,
    run: Path,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    watch: Watch = UNWATCHED,
) -> dict[str, Any]:
    """Train what a recipe asks for.

    Args:
        recipe: The recipe.
        run: Folder of the run, or of the runs.
        device: As for `training.train`.
        resume: Continue what was interrupted.
        overwrite: Replace what is there.
        watch: As for `training.train`.

    Returns:
        The content of ``metrics.json``, ``folds.json`` or ``members.json``.

    Raises:
        HsiError: Any of its kinds.
    """
    if recipe.split.mode == "folds" and recipe.split.fold is None:
        return folds.train_folds(recipe, run, device, resume, overwrite, watch)
    if recipe.members > 1:
        return members.train_members(recipe, run, device, resume, overwrite, watch)
    return training.train(recipe, run, device, resume, overwrite, watch)


def table(result: dict[str, Any]) -> str | None:
    """Show the summary of several runs as text; None of a single run."""
    if isinstance(result.get("folds"), int):
        return folds.table(result)
    if isinstance(result.get("members"), int):
        return members.table(result)
    return None

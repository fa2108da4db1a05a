"""Training from Python: a recipe in, a run folder and its figures out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec

from hsi_train import recipe
from hsi_train.fitting.progress import Watch
from hsi_train.recipe import Recipe
from hsi_train.several import dispatch

AnyPath = str | PathLike[str]


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        folder: Run folder with checkpoint, metrics and report, as ``hsi-export`` needs.
        metrics: Content of ``metrics.json``: accuracy of the test pixels, and more. Of
            folds and members that of ``folds.json`` or ``members.json``.
    """

    folder: Path
    metrics: dict[str, Any]


def train(
    recipe_or_path: AnyPath | Mapping[str, Any] | Recipe,
    output: AnyPath | None = None,
    *,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 1,
    progress: Callable[[int, int, float], None] = lambda *_: None,
) -> Run:
    """Train one method, as ``hsi-train`` does.

    Args:
        recipe_or_path: A recipe file, the name of one that ships, or what such a file
            holds: a mapping of its keys, or a `Recipe`.
        output: Run folder; by default ``runs/`` and the name of the recipe, or of the
            method.
        device: ``auto``, ``cpu`` or ``cuda``.
        resume: Continue an interrupted run.
        overwrite: Replace a run that is there.
        workers: Runs that are trained at once, of a recipe with folds or members.
        progress: Called with finished steps, all steps and the loss.

    Raises:
        HsiError: Any of its kinds; an unusable input leaves no folder behind.
    """
    if isinstance(recipe_or_path, Recipe):
        # Nothing checks the fields of one that is built by hand.
        settings = recipe.parse(msgspec.to_builtins(recipe_or_path))
        name = settings.method
    elif isinstance(recipe_or_path, Mapping):
        settings = recipe.parse(dict(recipe_or_path))
        name = settings.method
    else:
        path = Path(recipe_or_path)
        settings, name = recipe.parse(recipe.load(str(path))), path.stem
    folder = Path("runs") / name if output is None else Path(output)
    watch = Watch(step=progress)
    metrics = dispatch.train(
        settings, folder, device, resume, overwrite, watch, workers
    )
    return Run(folder=folder, metrics=metrics)

"""A training that a script starts again after each crash."""

import shutil
from pathlib import Path

import torch

from hsi_train.recipe import Recipe
from hsi_train.run_folder import folder
from hsi_train.training import train


def go_on(settings: Recipe, run: Path) -> None:
    """Begin, resume, or begin anew where a crash left nothing to resume."""
    torch.set_num_threads(1)
    if run.is_dir() and not (run / folder.RECIPE).is_file():
        shutil.rmtree(run)
    begun = folder.interrupted(run)
    train(settings, run, "cpu", resume=begun, overwrite=run.is_dir() and not begun)

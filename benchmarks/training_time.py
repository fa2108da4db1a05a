"""How long does a training take?

    HSI_DATA=... python benchmarks/training_time.py

Trains each method once by its recipe for SalinasA and for EnMAP Potsdam, on all cores
of an idle machine, from reading the scene to writing the report. The recipe of S2Former
for SalinasA first pre-trains the encoder on three unlabelled scenes. Processor seconds
are the sum over all cores.
"""

import tempfile
import time
from pathlib import Path

import click
import code_digest
import common

from hsi_train import methods, recipe
from hsi_train.recipe import Recipe
from hsi_train.training import train

SCENES = ("salinas_a", "enmap_potsdam")
RECIPES = [f"{scene}-{method}" for scene in SCENES for method in methods.names()]


def measure(settings: Recipe) -> dict[str, float]:
    """Train once, and time it."""
    started, worked = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = train(settings, Path(folder) / "run", "cpu")
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(time.process_time() - worked, 1),
        "overall_accuracy": result["overall_accuracy"],
    }


@click.command()
@click.option("--recipe", "recipes", multiple=True, default=RECIPES)
def main(recipes: tuple[str, ...]) -> None:
    figures = {name: measure(recipe.parse(recipe.load(name))) for name in recipes}
    common.report("training_time", figures, code_digest.of_training(*methods.names()))


if __name__ == "__main__":
    main()

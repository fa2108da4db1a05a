"""Is the largest abundance of a pixel that of its class?

    HSI_DATA=... python benchmarks/abundances.py

S2VNet on SalinasA by its recipe, ten training pixels a class. The fields are all but
pure, so a pixel's largest abundance should be its label's; the network's answer is its
class probabilities, and abundances are by the way.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import common
import numpy as np
import torch
from numpy.typing import NDArray

from hsi_train import recipe, training
from hsi_train.methods.s2vnet import Method
from hsi_train.run_folder import checkpoint

RECIPE = "salinas_a-s2vnet"


@torch.no_grad()
def agreement(method: Method, cube: NDArray[Any], classes: NDArray[Any]) -> float:
    """Return the share of labelled pixels whose largest abundance is their class's.

    Args:
        method: Trained, in evaluation mode.
        cube: Stored units, shape ``(band, row, col)``.
        classes: Class index, negative without a label, shape ``(row, col)``.
    """
    stored = torch.from_numpy(cube.astype(np.float32))[None]
    largest = method.network.abundances(stored)[0].argmax(dim=0)
    known = classes >= 0
    return float((largest.numpy() == classes)[known].mean())


@click.command()
@click.option("--seeds", default=5)
def main(seeds: int) -> None:
    rows = []
    content = recipe.load(RECIPE)
    scene = training.read_data(recipe.parse(content), 0).scenes[0]
    for seed in range(seeds):
        wanted = recipe.parse(content | {"seed": seed})
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            result = training.train(wanted, run, "cpu")
            method = checkpoint.load(run).method
        assert isinstance(method, Method)
        share = agreement(method, scene.cube, scene.classes)
        rows.append(
            {
                "seed": seed,
                "largest_abundance_is_the_class": round(share, 4),
                "overall_accuracy": round(result["overall_accuracy"], 4),
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    shares = [row["largest_abundance_is_the_class"] for row in rows]
    common.report(
        "abundances",
        {
            "command": " ".join(["python benchmarks/abundances.py", *sys.argv[1:]]),
            "recipe": RECIPE,
            "mean": round(float(np.mean(shares)), 4),
            "std": round(float(np.std(shares)), 4),
            "seeds": rows,
        },
    )


if __name__ == "__main__":
    main()

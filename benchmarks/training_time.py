"""How long does a training take, and how soon is it as accurate as it was before?

    HSI_DATA=... python benchmarks/training_time.py
    HSI_DATA=... python benchmarks/training_time.py --old ../hsi-edge-before

Trains each method once by its recipe for SalinasA and for EnMAP Potsdam, on all cores
of an idle machine, from reading the scene to writing the report. The recipe of S2Former
for SalinasA first pre-trains the encoder on three unlabelled scenes. Processor seconds
are the sum over all cores.

With an older checkout (`--old`) the same recipe is trained by its code, too. *Reached*
is the accuracy of EnMAP's validation pixels that the older training had at its best,
and the seconds that rounds of training took until it was reached: nothing before the
first round counts there, and no report. Finished runs are kept in `--folder`.
"""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import code_digest
import common

from hsi_train import methods

SCENES = ("salinas_a", "enmap_potsdam")
RECIPES = [f"{scene}-{method}" for scene in SCENES for method in methods.names()]
RUN = "from hsi_train.cli import main; main()"
ROOT = Path(__file__).parents[1]

Run = dict[str, Any]


def train(checkout: Path, recipe: str, run: Path) -> Run:
    """Train a recipe with the code of a checkout; return times and the history."""
    command = [sys.executable, "-c", RUN, recipe, "-o", str(run), "--json", "-q"]
    command += ["--device", "cpu", "--overwrite"]
    started, before = time.perf_counter(), common.children_seconds()
    done = subprocess.run(
        command,
        env=common.code_of(checkout),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    with (run / "history.csv").open(encoding="utf-8") as file:
        history = list(csv.DictReader(file))
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(common.children_seconds() - before, 1),
        "overall_accuracy": json.loads(done.stdout)["overall_accuracy"],
        "rounds": [
            [float(r["seconds"]), float(r["validation_accuracy"])]
            for r in history
            if r.get("validation_accuracy")
        ],
    }


def seconds_until(rounds: list[list[float]], accuracy: float) -> float | None:
    """Return the seconds of the rounds until one reached an accuracy; None if never.

    Args:
        rounds: Seconds and validation accuracy of each round.
        accuracy: Share in [0, 1].
    """
    total = 0.0
    for seconds, reached in rounds:
        total += seconds
        if reached >= accuracy:
            return round(total, 1)
    return None


def compared(now: Run, before: Run | None) -> Run:
    """Set a training beside that of an older checkout."""
    row = {key: value for key, value in now.items() if key != "rounds"}
    if before is None:
        return row
    row |= {f"before: {k}": v for k, v in before.items() if k != "rounds"}
    if before["rounds"] and now["rounds"]:
        best = max(accuracy for _, accuracy in before["rounds"])
        ours, theirs = (seconds_until(r["rounds"], best) for r in (now, before))
        row["reached: validation accuracy"] = best
        row["reached: seconds"] = "never" if ours is None else ours
        row["reached: seconds before"] = theirs
    return row


@click.command()
@click.option("--recipe", "recipes", multiple=True, default=RECIPES)
@click.option("--old", type=click.Path(path_type=Path), help="An older checkout.")
@click.option(
    "--folder", type=click.Path(path_type=Path), default="build/training_time"
)
def main(recipes: tuple[str, ...], old: Path | None, folder: Path) -> None:
    code = code_digest.of_training(*methods.names())
    checkouts = {code["sha256"]: ROOT} | ({} if old is None else {"before": old})
    journal = folder / "runs.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    lines = common.read_lines(journal)
    figures = {}
    for recipe in recipes:
        runs = []
        for version, checkout in checkouts.items():
            key = {"recipe": recipe, "version": version}
            known = [line for line in lines if line.items() >= key.items()]
            if not known:
                run = folder / f"{Path(recipe).stem}-{version[:8]}"
                known = [key | train(checkout, recipe, run)]
                common.add_line(journal, known[0], tuple(key))
                print(known[0], flush=True)
            times = {k: v for k, v in known[0].items() if k not in key}
            runs.append(times)
        figures[recipe] = compared(runs[0], runs[1] if old is not None else None)
    common.report("training_time", figures, code)


if __name__ == "__main__":
    main()

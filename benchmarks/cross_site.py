"""How accurate is a network that was trained on one site on another?

    HSI_DATA=... python benchmarks/cross_site.py

Tree crowns of four genera: trained at NEON MLBS (Virginia), measured on all labelled
pixels of NEON OSBS (Florida). S2AMSnet, the same network trained plainly, and a random
forest use the same training pixels, and nothing of the other site. A kappa of zero is
chance.
"""

import dataclasses
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import code_digest
import common
import numpy as np
from common import SHARES

from hsi_train import inputs, recipe, target, training
from hsi_train.data.labelled_scene import UNLABELLED, LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting.statistics import describe_problem
from hsi_train.measuring import metrics
from hsi_train.methods import method_class
from hsi_train.rivals.classical import fit_all
from hsi_train.run_folder import description

RECIPE = "neon_mlbs_osbs-s2amsnet"
NETWORKS: dict[str, dict[str, Any]] = {
    "s2amsnet": {},
    "s2amsnet, no max step": {"max_step": False},
    "s2amsnet, no mutual information": {"mi_weight": 0.0},
    "s2amsnet, trained plainly": {"spectral_randomisation": False},
}
RIVALS = ("random-forest",)

Scored = dict[str, Any]


def network(options: dict[str, Any], seed: int) -> tuple[Scored, Scored]:
    """Train; return the scores on the source's test pixels and on the target."""
    content = recipe.load(RECIPE) | {"seed": seed, "options": options}
    with tempfile.TemporaryDirectory() as folder:
        result = training.train(recipe.parse(content), Path(folder) / "run", "cpu")
    return result, result["target"]


def classical(name: str, seed: int) -> tuple[Scored, Scored]:
    """Fit one of a run's classical rivals on the same pixels; return the same."""
    settings = recipe.parse(recipe.load(RECIPE) | {"seed": seed})
    assert settings.target is not None
    kind = method_class(settings.method)
    data = inputs.read_data(settings, kind.halo_of())
    data = inputs.divide(settings, data, kind.receptive_field)
    problem = describe_problem(data)
    fitted = next(one for one in fit_all(data, problem) if one.name == name)

    def scored(data: LabelledData) -> Scored:
        matrix = np.zeros((len(data.classes),) * 2, dtype=np.int64)
        for scene in data.scenes:
            tested = scene.roles == Role.TEST
            predicted = fitted.classes(scene, tested)[tested]
            true = scene.classes[tested]
            matrix += metrics.confusion(true, predicted, len(data.classes))
        return common.shares_of(matrix)

    values = description.values_of(settings, data, problem)
    target_data = target.check(
        settings.target, settings.data, description.bands_of(data), values, data.classes
    )
    scenes = [
        target.read(target_data, path, indices, 0)
        for path, indices in target_data.scenes
        if (indices != UNLABELLED).any()
    ]
    return scored(data), scored(dataclasses.replace(data, scenes=scenes))


def markdown(command: str, runs: list[dict[str, Any]]) -> str:
    """Write a row for each classifier: mean of the seeds in %, ± standard deviation."""
    head = ["", "seeds", *(f"{s} {k}" for s in ("MLBS", "OSBS") for k in SHARES)]
    lines = [*common.table_head([text.replace("_", " ") for text in head])]
    for row in dict.fromkeys(r["row"] for r in runs):
        own = [r for r in runs if r["row"] == row]
        cells = [
            f"{100 * np.mean(each):.1f}"
            + (f" ± {100 * np.std(each):.1f}" if len(each) > 1 else "")
            for site in ("source", "target")
            for each in ([r[site][key] for r in own] for key in SHARES)
        ]
        lines.append("| " + " | ".join([row, str(len(own)), *cells]) + " |")
    share = 100 * runs[0]["target"]["largest_class_share"]
    lines += [
        "",
        f"The largest genus has {share:.1f} % of the labelled pixels of OSBS.",
    ]
    return "\n".join([f"    {command}", "", *lines]) + "\n"


@click.command()
@click.option("--seeds", default=5)
@click.option("--row", "rows", multiple=True, default=[*NETWORKS, *RIVALS])
def main(seeds: int, rows: tuple[str, ...]) -> None:
    runs: list[dict[str, Any]] = []
    for seed in range(seeds):
        for row in rows:
            if row in NETWORKS:
                source, there = network(NETWORKS[row], seed)
            else:
                source, there = classical(row, seed)
            kept = {
                "source": {key: source[key] for key in SHARES},
                "target": {k: there[k] for k in (*SHARES, "largest_class_share")},
            }
            runs.append({"row": row, "seed": seed, **kept})
            print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    command = shlex.join(["python", "benchmarks/cross_site.py", *sys.argv[1:]])
    code = code_digest.of_training("s2amsnet")
    common.report("cross_site", {"command": command, "runs": runs}, code)
    (common.RESULTS / "cross_site.md").write_text(markdown(command, runs))


if __name__ == "__main__":
    main()

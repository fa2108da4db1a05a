"""Does pre-training without labels pay, with few labels on the target?

    python benchmarks/pretraining.py few.jsonl --steps 600 --seeds 0-4

``results/pretraining.jsonl`` holds first figures: one encoder (FDC, 600 steps, seed
100), three to five draws a protocol; too few to call a difference under 2 points real.

Every variant trains on the same draws of training pixels and is tested on the same
pixels. A finished run is one line of the output file; a call that was stopped goes on
where it was. The table compares every variant with training from scratch, draw by draw.

Needs the real scenes: HSI_DATA names the folder of salinas_a/, enmap_potsdam/ and
unlabelled/.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from hsi_train import method as methods
from hsi_train import metrics, patches, predict, recipe, split, training
from hsi_train.encoder_file import load_encoder
from hsi_train.labelled_scene import LabelledData
from hsi_train.pretrain import Pretrainable, Pretrainer, read_sources
from hsi_train.rasters import write_raster
from hsi_train.recipe import Pretrain, Recipe
from hsi_train.run_folder import ENCODER
from hsi_train.split import Role, Roles

METHOD = "s2former"
UNLABELLED = "$HSI_DATA/unlabelled"
SPATIAL_SEED = 0  # of the one disjoint split whose training part is drawn from


class Protocol(NamedTuple):
    recipe: str
    samples: int  # training pixels of each class
    mode: str


PROTOCOLS = {
    "salinas_a-random-5": Protocol("salinas_a-s2former", 5, "per-class"),
    "salinas_a-disjoint-5": Protocol("salinas_a-s2former", 5, "disjoint"),
    "enmap-10": Protocol("enmap_potsdam-s2former", 10, "file"),
}
# Encoder (options of its pre-training; None: random weights), options of the tuning.
PLAIN, FDC = {"frequency_weight": 0.0}, {"frequency_weight": 0.1}
TRAINED: dict[str, tuple[dict[str, float] | None, dict[str, Any]]] = {
    "scratch": (None, {}),
    "pre-trained": (PLAIN, {}),
    "pre-trained + FDC": (FDC, {}),
    "pre-trained + FDC + DAFT": (FDC, {"daft": True}),
}
PROBED = {"probe, random encoder": None, "probe": PLAIN, "probe + FDC": FDC}
SVM = "RBF-SVM"
VARIANTS = (*TRAINED, *PROBED, SVM)
SCRATCH = "scratch"


def wanted(protocol: Protocol, **changes: Any) -> Recipe:
    content = recipe.load(protocol.recipe) | {"seed": 0}
    content.pop("pretrain", None)
    changes["options"] = content.get("options", {}) | changes.get("options", {})
    return recipe.parse(content | changes)


def draw(protocol: Protocol, data: LabelledData, seed: int) -> Roles:
    """Draw training pixels; all others of the training part stay unused."""
    if protocol.mode == "per-class":
        return split.per_class(data, protocol.samples, seed)[0]
    if protocol.mode == "disjoint":
        whole = split.spatial(data, 13, SPATIAL_SEED)[0]
    else:
        whole = training.divide(wanted(protocol), data, 13)[0]
    rng = np.random.default_rng(seed)
    roles = np.where(whole == Role.TEST, Role.TEST, Role.NONE).astype(np.uint8)
    classes = data.scenes[0].classes
    for index in range(len(data.classes)):
        places = np.argwhere((whole == Role.TRAIN) & (classes == index))
        chosen = rng.permutation(len(places))[: protocol.samples]
        roles[tuple(places[chosen].T)] = Role.TRAIN
    return roles


def encoder(folder: Path, options: dict[str, float], steps: int, seed: int) -> Path:
    """Pre-train an encoder, or find it where an earlier call left it."""
    name = "-".join(f"{k}={v}" for k, v in options.items())
    run = folder / f"{name}-{steps}-{seed}"
    if not (run / ENCODER).is_file():
        run.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        unused = methods.Problem(
            *(torch.ones(1), torch.ones(1), torch.ones(2), torch.ones(2, 1)),
            torch.tensor(1.0),
        )
        method = methods.build(METHOD, unused, dict(options))
        assert isinstance(method, Pretrainable)
        settings = Pretrain(scenes=(UNLABELLED,), steps=steps)
        side = settings.outputs + 2 * method.halo
        sources = read_sources([recipe.expanded(UNLABELLED)], side, click.echo)
        started = time.monotonic()
        learner = Pretrainer(
            method, METHOD, sources, settings, seed, torch.device("cpu")
        )
        learner.run(run)
        click.echo(f"{run.name}: {time.monotonic() - started:.0f} s")
    return run / ENCODER


def train(
    protocol: Protocol,
    roles: Path,
    seed: int,
    options: dict[str, Any],
    init: str | None,
) -> metrics.Confusion:
    changes: dict[str, Any] = {"pretrain": {"init": init}} if init else {}
    asked = wanted(
        protocol,
        seed=seed,
        split={"mode": "file", "files": [str(roles)]},
        options=options,
        **changes,
    )
    with tempfile.TemporaryDirectory() as folder:
        result = training.train(asked, Path(folder) / "run", "cpu")
    return np.array(result["confusion"])


def probe(
    data: LabelledData, roles: Roles, seed: int, init: str | None
) -> metrics.Confusion:
    """Fit the head alone and test it."""
    torch.manual_seed(seed)
    scenes, splits = data.scenes, [roles]
    measured = patches.statistics(scenes, splits)
    problem = patches.problem(scenes, splits, len(data.classes))
    method = methods.build(METHOD, problem, {})
    assert isinstance(method, Pretrainable)
    method.pretrained = True  # a random encoder is probed as a trained one
    if init:
        load_encoder(Path(init), method.encoder, METHOD)
    method.prepare(patches.Windows(scenes, splits, method.halo, measured.mean))
    return predict.evaluate(
        method.network,
        scenes,
        splits,
        Role.TEST,
        measured.mean,
        method.halo,
        len(data.classes),
        torch.device("cpu"),
    )


def svm(data: LabelledData, roles: Roles, seed: int) -> metrics.Confusion:
    """Classify standardised spectra; C and gamma by cross-validation."""
    scene = data.scenes[0]
    train, test = roles == Role.TRAIN, roles == Role.TEST
    least = int(np.bincount(scene.classes[train]).min())
    search = GridSearchCV(
        make_pipeline(StandardScaler(), SVC()),
        {
            "svc__C": [1, 10, 100, 1000],
            "svc__gamma": ["scale", 1e-4, 1e-3, 1e-2],
        },
        cv=StratifiedKFold(min(5, least), shuffle=True, random_state=seed),
    )
    search.fit(scene.cube[:, train].T.astype(float), scene.classes[train])
    found = search.predict(scene.cube[:, test].T.astype(float))
    return metrics.confusion(scene.classes[test], found, len(data.classes))


def table(lines: list[dict[str, Any]]) -> None:
    """Print mean, deviation and the paired difference to scratch, in percent."""
    for protocol in dict.fromkeys(line["protocol"] for line in lines):
        here = [line for line in lines if line["protocol"] == protocol]
        by_variant: dict[str, dict[tuple[int, int], float]] = {}
        for line in here:
            key = line["seed"], line["pretraining_seed"]
            values = by_variant.setdefault(line["variant"], {})
            values[key] = 100 * line["overall_accuracy"]
        print(f"\n{protocol}: overall accuracy, %; difference to scratch")
        reference = by_variant.get(SCRATCH, {})
        for variant, values in by_variant.items():
            both = [values[k] - reference[k] for k in values if k in reference]
            text = f"{statistics.fmean(values.values()):.1f}"
            if len(values) > 1:
                text += f" sd {statistics.stdev(values.values()):.1f}"
            if len(both) > 1 and variant != SCRATCH:
                error = statistics.stdev(both) / len(both) ** 0.5
                text += f"; {statistics.fmean(both):+.1f} +- {error:.1f}"
            print(f"  {variant:26} n={len(values):2} {text}")


def seeds_of(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--protocol", "protocols", multiple=True, type=click.Choice(PROTOCOLS))
@click.option("--variant", "variants", multiple=True, type=click.Choice(VARIANTS))
@click.option("--seeds", default="0-9", help="Of the draws, FIRST-LAST.")
@click.option("--steps", default=600, help="Of pre-training.")
@click.option("--pretraining-seed", default=0)
@click.option("--encoders", default="build/encoders", type=click.Path(path_type=Path))
def main(
    output: Path,
    protocols: tuple[str, ...],
    variants: tuple[str, ...],
    seeds: str,
    steps: int,
    pretraining_seed: int,
    encoders: Path,
) -> None:
    lines = []
    if output.is_file():
        lines = [json.loads(line) for line in output.read_text().splitlines()]
    done = {tuple(line[k] for k in KEYS) for line in lines}

    def init(options: dict[str, float] | None) -> str | None:
        if options is None:
            return None
        return str(encoder(encoders, options, steps, pretraining_seed))

    for name in protocols or PROTOCOLS:
        protocol = PROTOCOLS[name]
        data = training.read_data(wanted(protocol), 6)
        for seed in seeds_of(seeds):
            roles = draw(protocol, data, seed)
            for variant in variants or VARIANTS:
                key = (name, variant, seed, steps, pretraining_seed)
                if key in done:
                    continue
                started = time.monotonic()
                matrix = run_one(protocol, variant, data, roles, seed, init)
                line = dict(zip(KEYS, key, strict=True)) | {
                    "overall_accuracy": metrics.overall_accuracy(matrix),
                    "average_accuracy": metrics.average_accuracy(matrix),
                    "kappa": metrics.kappa(matrix),
                    "seconds": round(time.monotonic() - started, 1),
                }
                lines.append(line)
                with output.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
    table([line for line in lines if line["steps"] == steps])


KEYS = ("protocol", "variant", "seed", "steps", "pretraining_seed")


def run_one(
    protocol: Protocol,
    variant: str,
    data: LabelledData,
    roles: Roles,
    seed: int,
    init: Callable[[dict[str, float] | None], str | None],
) -> metrics.Confusion:
    if variant == SVM:
        return svm(data, roles, seed)
    if variant in PROBED:
        return probe(data, roles, seed, init(PROBED[variant]))
    options, tuning = TRAINED[variant]
    scene = data.scenes[0]
    whole = np.zeros((scene.info.rows, scene.info.cols), dtype=np.uint8)
    height, width = roles.shape
    whole[scene.row : scene.row + height, scene.col : scene.col + width] = roles
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "split.tif"
        write_raster(path, whole, scene.info)
        return train(protocol, path, seed, tuning, init(options))


if __name__ == "__main__":
    main()

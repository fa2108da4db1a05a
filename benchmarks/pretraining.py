"""Does S2Former's pre-training on unlabelled scenes pay if labels are few?

    HSI_DATA=... python benchmarks/pretraining.py

Three protocols: 5 random pixels of each class of SalinasA; 5 of each class from the
training blocks of one spatially disjoint split of SalinasA; and 10 of each class from
the training tiles of EnMAP Potsdam. Training pixels are drawn ten times. All variants
of a draw train and are tested on the same pixels. One encoder is pre-trained for each
setting, so the spread is that of the draws, not of pre-training.

For the random pixels the encoder was pre-trained on other scenes only. For the two
disjoint protocols it also saw those parts of both scenes that no window of a test pixel
reaches, without their labels, as a user would have them. Settings were chosen on the
draws 100 to 109 of the disjoint protocols. Only two variants were run on random pixels.

Each finished run is one line, so repeat the command to continue. Lines of an earlier
version of the training code do not count.
"""

import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import code_digest
import common
import numpy as np
import rasterio
import torch
from rasterio.errors import NotGeoreferencedWarning
from scipy import ndimage
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from hsi_train import inputs, methods, recipe
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting import windows as patches
from hsi_train.fitting.encoder_file import ENCODER, load_encoder
from hsi_train.fitting.pretrain import Pretrainable, Pretrainer, read_sources
from hsi_train.fitting.settings import choose_settings
from hsi_train.fitting.statistics import describe_problem
from hsi_train.fitting.trainer import Trainer
from hsi_train.measuring import metrics
from hsi_train.method import Defaults, Problem
from hsi_train.recipe import Pretrain, Recipe
from hsi_train.splitting import split
from hsi_train.splitting.blocks import spatial

METHOD = "s2former"
UNLABELLED = "$HSI_DATA/unlabelled"
SPATIAL_SEED = 0  # of the one disjoint split whose training part is drawn from
RECEPTIVE_FIELD, HALO = 13, 6
# After the probe; hsi-train stops there if it is not asked for epochs.
TUNED = Defaults(
    learning_rate=1e-3,
)
NODATA = -32768


class Protocol(NamedTuple):
    recipe: str
    samples: int  # training pixels of each class
    mode: str


PROTOCOLS = {
    "salinas_a-random-5": Protocol("salinas_a-s2former", 5, "per-class"),
    "salinas_a-disjoint-5": Protocol("salinas_a-s2former", 5, "disjoint"),
    "enmap-10": Protocol("enmap_potsdam-s2former", 10, "file"),
}
DISJOINT = ("salinas_a-disjoint-5", "enmap-10")
OTHERS, WITH_TARGETS = "other scenes", "other scenes and parts of the targets"
# Encoder (options of its pre-training; None: random weights), options of the tuning.
PLAIN, FDC = {"frequency_weight": 0.0}, {"frequency_weight": 0.1}
TRAINED: dict[str, tuple[dict[str, float] | None, dict[str, Any]]] = {
    "scratch": (None, {}),
    "random encoder, tuned": (None, {}),
    "pre-trained, tuned": (PLAIN, {}),
    "pre-trained + FDC, tuned": (FDC, {}),
    "pre-trained + FDC, tuned with DAFT": (FDC, {"daft": True}),
}
PROBED = {"probe, random encoder": None, "probe": PLAIN, "probe + FDC": FDC}
SVM = "RBF-SVM"
VARIANTS = (*TRAINED, *PROBED, SVM)
SCRATCH = "scratch"
# What is compared with what to say what a part adds.
PARTS = {
    "pre-training, to the probe": ("probe + FDC", "probe, random encoder"),
    "pre-training, to the tuned network": (
        *("pre-trained + FDC, tuned", "random encoder, tuned"),
    ),
    "FDC, to the probe": ("probe + FDC", "probe"),
    "FDC, to the tuned network": ("pre-trained + FDC, tuned", "pre-trained, tuned"),
    "tuning, to the probe": ("pre-trained + FDC, tuned", "probe + FDC"),
    "DAFT, to the tuned network": (
        *("pre-trained + FDC, tuned with DAFT", "pre-trained + FDC, tuned"),
    ),
}


def recipe_of(protocol: Protocol) -> Recipe:
    content = recipe.load(protocol.recipe)
    content.pop("pretrain", None)
    return recipe.parse(content | {"seed": 0})


def draw(protocol: Protocol, data: LabelledData, seed: int) -> LabelledData:
    """Draw training pixels; all others of the training part stay unused."""
    if protocol.mode == "per-class":
        return split.per_class(data, protocol.samples, seed)
    if protocol.mode == "disjoint":
        divided = spatial(data, RECEPTIVE_FIELD, SPATIAL_SEED)
    else:
        divided = inputs.divide(recipe_of(protocol), data, RECEPTIVE_FIELD)
    whole = divided.scenes[0].roles
    rng = np.random.default_rng(seed)
    roles = np.where(whole == Role.TEST, Role.TEST, Role.NONE).astype(np.uint8)
    classes = data.scenes[0].classes
    for index in range(len(data.classes)):
        places = np.argwhere((whole == Role.TRAIN) & (classes == index))
        chosen = rng.permutation(len(places))[: protocol.samples]
        roles[tuple(places[chosen].T)] = Role.TRAIN
    return data.divided([roles])


def untested_part(name: str, folder: Path) -> Path:
    """Write a target without every pixel that a window of a test pixel reaches."""
    path = folder / f"{name}.tif"
    if path.is_file():
        return path
    protocol = PROTOCOLS[name]
    data = inputs.read_data(recipe_of(protocol), HALO)
    scene = data.scenes[0]
    tested = (
        draw(protocol, data, 0).scenes[0].roles == Role.TEST
    )  # the same for all draws
    distance = ndimage.distance_transform_cdt(~tested, "chessboard")
    cube = np.where(scene.valid & (distance > HALO), scene.cube, NODATA)
    bands, rows, cols = cube.shape
    folder.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "width": cols, "height": rows, "count": bands}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", **profile, dtype="int16", nodata=NODATA, compress="deflate"
        ) as raster:
            raster.write(cube.astype(np.int16))
    return path


def encoder(
    folder: Path, sources: str, options: dict[str, float], steps: int, seed: int
) -> Path:
    """Pre-train an encoder, or find it where an earlier call left it."""
    scenes = [recipe.expanded(UNLABELLED)]
    if sources == WITH_TARGETS:
        scenes += [str(untested_part(name, folder)) for name in DISJOINT]
    name = "-".join([*sources.split(), *(f"{k}={v}" for k, v in options.items())])
    run = folder / f"{name}-{steps}-{seed}"
    if not (run / ENCODER).is_file():
        run.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        unused = Problem(
            *(torch.ones(1), torch.ones(1), torch.ones(2), torch.ones(2, 1)),
            torch.tensor(1.0),
        )
        method = methods.build(METHOD, unused, dict(options))
        assert isinstance(method, Pretrainable)
        settings = Pretrain(scenes=tuple(scenes), steps=steps)
        side = settings.outputs + 2 * method.halo
        started = time.monotonic()
        learner = Pretrainer(
            method,
            METHOD,
            read_sources(scenes, side, click.echo),
            settings,
            seed,
            torch.device("cpu"),
        )
        learner.run(run)
        click.echo(f"{run.name}: {time.monotonic() - started:.0f} s")
    return run / ENCODER


def network(
    protocol: Protocol,
    variant: str,
    data: LabelledData,
    seed: int,
    init: Path | None,
) -> metrics.Confusion:
    """Fit the head, train the rest unless the variant is a probe, and test."""
    content, problem = recipe_of(protocol), describe_problem(data)
    windows = patches.Windows(data.scenes, HALO, problem.fill)
    options = {} if variant in PROBED else TRAINED[variant][1]
    torch.manual_seed(seed)
    method = methods.build(METHOD, problem, content.options | options)
    assert isinstance(method, Pretrainable)
    # A random encoder is probed as a trained one.
    method.pretrained = variant != SCRATCH
    if init is not None:
        load_encoder(init, method.encoder, METHOD)
        torch.manual_seed(seed)  # as a run that is given an encoder does
    # DAFT takes as many steps as tuning without it, not its own default.
    defaults = TUNED if method.pretrained else method.fit_defaults()
    settings = choose_settings(content.fit, windows, HALO, defaults)
    trainer = Trainer(method, data, windows, settings, seed, torch.device("cpu"))
    method.prepare(windows)
    method.eval()
    if variant in TRAINED:
        trainer.run()
    return trainer.score(Role.TEST).confusion()


def svm(data: LabelledData, seed: int) -> metrics.Confusion:
    """Classify standardised spectra; C and gamma by cross-validation."""
    scene = data.scenes[0]
    train, test = scene.roles == Role.TRAIN, scene.roles == Role.TEST
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
    predicted = search.predict(scene.cube[:, test].T.astype(float))
    return metrics.confusion(scene.classes[test], predicted, len(data.classes))


Accuracy = dict[str, dict[str, dict[int, float]]]  # protocol, variant, draw


def table(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Compare every variant with training from scratch, then the parts, by draw."""
    accuracies: Accuracy = {}
    for line in lines:
        variants = accuracies.setdefault(line["protocol"], {})
        values = variants.setdefault(line["variant"], {})
        values[line["seed"]] = 100 * line["overall_accuracy"]
    sources = {(v["protocol"], v["variant"]): v["pretrained_on"] for v in lines}
    yield "Overall accuracy on the test pixels in %, mean ± standard deviation of the"
    yield "draws. Differences are in points, paired by draw, mean ± standard error; a"
    yield "difference of less than two errors is not established. A *probe* is a linear"
    yield "head fitted on the encoder as it is, which is what hsi-train does with few"
    yield "labels and an encoder. *Tuned* networks are trained further after that, with"
    yield "the same number of steps with and without DAFT."
    for protocol, variants in accuracies.items():
        yield f"\n### {protocol}\n"
        yield "| variant, encoder from | draws | overall accuracy | to scratch |"
        yield "|---|---|---|---|"
        for variant in (v for v in VARIANTS if v in variants):
            values = variants[variant]
            source = sources[protocol, variant]
            mean = statistics.fmean(values.values())
            spread = statistics.stdev(values.values()) if len(values) > 1 else 0.0
            other = {} if variant == SCRATCH else variants.get(SCRATCH, {})
            yield (
                f"| {variant}{f', {source}' if source else ''} | {len(values)} "
                f"| {mean:.1f} ± {spread:.1f} | {gap(values, other)} |"
            )
    yield "\n### What each part adds\n"
    yield "| part | " + " | ".join(accuracies) + " |"
    yield "|---" * (1 + len(accuracies)) + "|"
    for part, (with_it, without) in PARTS.items():
        gaps = [
            gap(v.get(with_it, {}), v.get(without, {})) for v in accuracies.values()
        ]
        yield f"| {part} | " + " | ".join(gaps) + " |"


def gap(values: dict[int, float], other: dict[int, float]) -> str:
    """Average the difference over the draws that both have."""
    both = [values[seed] - other[seed] for seed in values if seed in other]
    if len(both) < 2:
        return "-"
    error = statistics.stdev(both) / len(both) ** 0.5
    return f"{statistics.fmean(both):+.1f} ± {error:.1f}"


def seeds_of(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


@click.command()
@click.option("--protocol", "protocols", multiple=True, type=click.Choice(PROTOCOLS))
@click.option("--variant", "variants", multiple=True, type=click.Choice(VARIANTS))
@click.option("--seeds", default="0-9", help="Of the draws, FIRST-LAST.")
@click.option("--steps", default=600, help="Of pre-training.")
@click.option("--pretraining-seed", default=100)
@click.option("--encoders", default="build/encoders", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    default=Path(__file__).parent / "results" / "pretraining.jsonl",
)  # fmt: skip
def main(
    protocols: tuple[str, ...],
    variants: tuple[str, ...],
    seeds: str,
    steps: int,
    pretraining_seed: int,
    encoders: Path,
    output: Path,
) -> None:
    code = code_digest.of_training(METHOD)
    lines = [x for x in common.read_lines(output) if x.get("code") == code]
    done = {tuple(line[k] for k in KEYS) for line in lines}
    for name in protocols or PROTOCOLS:
        data = inputs.read_data(recipe_of(PROTOCOLS[name]), HALO)
        sources = WITH_TARGETS if name in DISJOINT else OTHERS
        for seed in seeds_of(seeds):
            divided = draw(PROTOCOLS[name], data, seed)
            for variant in variants or VARIANTS:
                key = (name, variant, seed, steps, pretraining_seed)
                if key in done:
                    continue
                path, options = None, pretraining_of(variant)
                if options is not None:  # not part of the time below
                    path = encoder(encoders, sources, options, steps, pretraining_seed)
                started = time.monotonic()
                if variant == SVM:
                    matrix = svm(divided, seed)
                else:
                    matrix = network(PROTOCOLS[name], variant, divided, seed, path)
                line = dict(zip(KEYS, key, strict=True)) | {
                    "pretrained_on": sources if path else None,
                    "overall_accuracy": metrics.overall_accuracy(matrix),
                    "average_accuracy": metrics.average_accuracy(matrix),
                    "kappa": metrics.kappa(matrix),
                    "seconds": round(time.monotonic() - started, 1),
                    "code": code,
                }
                lines.append(line)
                common.add_line(output, line, KEYS)
    text = "\n".join(table([line for line in lines if line["steps"] == steps])) + "\n"
    output.with_suffix(".md").write_text(text, encoding="utf-8")
    click.echo(text)


KEYS = ("protocol", "variant", "seed", "steps", "pretraining_seed")


def pretraining_of(variant: str) -> dict[str, float] | None:
    """Return the options of a variant's pre-training; None where it has none."""
    if variant in PROBED:
        return PROBED[variant]
    return None if variant == SVM else TRAINED[variant][0]


if __name__ == "__main__":
    main()

"""Is S2AMSnet more accurate under a shift than its controls and its rivals?

    HSI_DATA=... python benchmarks/domain_shift.py --quick
    HSI_DATA=... python benchmarks/domain_shift.py --scene enmap_potsdam

All variants train on the same pixels of one scene and see nothing else. Their test
pixels are then classified as they are, under simulated shifts of sensor and sky (five
draws at three strengths each; the gain falls towards the infrared in one draw and rises
in the next), and under shifts of other families: see `shift_families`. Each variant is
measured once more on scenes whose moments were fitted to those of the training scene,
as `hsi-run --adapt moments` does: land cover is the same here, which is the best case.
Each finished run is one line, so repeat the command to continue. Runs of an earlier
version of the training code do not count.
"""

import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import code_digest
import common
import numpy as np
import torch
from common import SHARES
from numpy.typing import NDArray
from shift_families import FAMILIES, Cube, Shift, sensor_and_sky
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC

from hsi_runtime.matching import adapting
from hsi_train import changes, methods, recipe
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting.predict import Scorer
from hsi_train.fitting.progress import Watch
from hsi_train.fitting.statistics import describe_problem
from hsi_train.inputs import divide, read_data
from hsi_train.measuring import metrics
from hsi_train.run_folder import checkpoint
from hsi_train.training import train

Confusion = Callable[[LabelledData], NDArray[np.int64]]

BEARING = {"options": {"spectral_randomisation": True}}
PLAIN = {"options": {"spectral_randomisation": False}}
GAME = {"options": {"generators": True}}
ALONE = {"fit": {"epochs": 1}, "alone": True}  # the linear path, without the network
NO_PATH = {"fit": {"linear_path": False}}
VARIANTS: dict[str, dict[str, Any]] = {
    "s2amsnet": {},
    "plain": PLAIN,
    "linear path alone": BEARING | ALONE,
    "copies, no path": BEARING | NO_PATH,
    "generators": GAME,
    "generators, no max step": {"options": {"generators": True, "max_step": False}},
    "lda": {"method": "lda"},
    "svm": {"copies": 0},
    "svm on copies": {"copies": 6},
}
ADAPTED = "adapted"
STRENGTHS = (1, 2, 3)
DRAWS = 5
KEYS = ("scene", "variant", "seed", "epochs", "draws", "strengths")
# 1-based bands of AVIRIS that the corrected Salinas scene lacks.
NO_SALINAS = {*range(108, 113), *range(154, 168), 224}


def wavelengths(data: LabelledData) -> NDArray[np.float64]:
    """Band centres of the used bands; those of Salinas are in a file beside it."""
    centres = data.reference.wavelengths_nm
    if centres is None:
        text = Path(os.environ["HSI_DATA"], "sensor_wavelengths.json").read_text()
        every = json.loads(text)["AVIRIS_224_SaltonSea"]
        centres = np.array(
            [nm for band, nm in enumerate(every, start=1) if band not in NO_SALINAS]
        )
    return centres[data.bands]


def measure(
    scene: str, variant: str, seed: int, epochs: int | None, shifts: dict[str, Any]
) -> dict[str, Any]:
    """Train one variant, and measure it on the source as it is and shifted."""
    chosen = VARIANTS[variant]
    content = recipe.load(f"{scene}-s2amsnet")
    content |= {"seed": seed, "method": chosen.get("method", "s2amsnet")}
    content["options"] = chosen.get("options", {})
    content["fit"] = content.get("fit", {}) | chosen.get("fit", {})
    if epochs is not None and "epochs" not in content["fit"]:
        content["fit"]["epochs"] = epochs
    settings = recipe.parse(content)
    halo = methods.method_class("s2amsnet").halo_of()
    data = divide(settings, read_data(settings, halo), 2 * halo + 1)
    centres = wavelengths(data)
    started = time.monotonic()
    if "copies" in chosen:
        confusion, updates = svm(data, chosen["copies"], seed), 0
    else:
        confusion, updates = trained(settings, alone=chosen.get("alone", False))
    seconds = time.monotonic() - started

    def accuracy(shift: Shift, adapt: bool) -> dict[str, float]:
        scenes = []
        for scene in data.scenes:
            cube = shift(scene.cube, centres)
            if adapt:
                cube = fitted(cube, scene.cube, scene.valid)
            scenes.append(dataclasses.replace(scene, cube=cube))
        return common.shares_of(confusion(dataclasses.replace(data, scenes=scenes)))

    def measured(adapt: bool) -> dict[str, Any]:
        return {
            "unshifted": accuracy(lambda cube, _: cube, adapt),
            "shifted": [
                {"draw": d, "strength": s, **accuracy(sensor_and_sky(d, s), adapt)}
                for d in shifts["draws"]
                for s in shifts["strengths"]
            ],
            "families": {n: accuracy(shift, adapt) for n, shift in FAMILIES.items()},
        }

    return {
        "updates": updates,
        "seconds": round(seconds, 1),
        **measured(adapt=False),
        ADAPTED: measured(adapt=True),
    }


def fitted(cube: Cube, source: Cube, valid: NDArray[np.bool_]) -> Cube:
    """Give the bands of a cube the means and deviations of the source's."""
    measured = []
    for values in (cube, source):
        measured.append(adapting.Moments())
        measured[-1].add(values[:, valid])
    gain, offset = adapting.fitted(*(one.result() for one in measured))
    moved = cube * gain[:, None, None] + offset[:, None, None]
    return np.asarray(moved.astype(np.float32))


def trained(settings: recipe.Recipe, *, alone: bool) -> tuple[Confusion, int]:
    """Train by a recipe; return what measures its map, and the number of steps.

    Args:
        settings: The recipe.
        alone: Measure the linear path without the network.
    """
    updates = 0

    def count(done: int, *_: float) -> None:
        nonlocal updates
        updates = done

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        train(settings, run, "auto", watch=Watch(step=count))
        model = checkpoint.load(run)
    method = model.method
    scorer = Scorer(
        network=method.path if alone and method.path else method.classifier,
        fill=np.array(model.description.values.fill),
        halo=method.halo,
        device=torch.device("cpu"),
    )
    return lambda data: scorer.score(data, Role.TEST).confusion(), updates


def svm(data: LabelledData, copies: int, seed: int) -> Confusion:
    """Fit a support vector machine to unit spectra and changed copies of them."""
    fill = describe_problem(data).fill
    spectra, classes = spectra_of(data, Role.TRAIN, fill)
    torch.manual_seed(seed)
    cube = torch.from_numpy(spectra)[:, :, None, None]
    changed = [changes.draw(cube, float(fill.mean())).flatten(1) for _ in range(copies)]
    seen = np.concatenate([spectra, *(c.numpy() for c in changed)])
    model = make_pipeline(Normalizer(), StandardScaler(), SVC(C=100))
    model.fit(seen, np.tile(classes, copies + 1))

    def confusion(shifted: LabelledData) -> NDArray[np.int64]:
        spectra, truth = spectra_of(shifted, Role.TEST, fill)
        return metrics.confusion(truth, model.predict(spectra), len(data.classes))

    return confusion


def spectra_of(
    data: LabelledData, role: Role, fill: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the spectra ``(pixel, band)`` and classes of all pixels of a role."""
    spectra, classes = [], []
    for scene in data.scenes:
        chosen = scene.roles == role
        own = scene.cube[:, chosen].T.astype(np.float32)
        spectra.append(np.where(np.isfinite(own), own, fill.astype(np.float32)))
        classes.append(scene.classes[chosen].astype(np.int64))
    return np.concatenate(spectra), np.concatenate(classes)


def mean_lines(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Average the runs of each variant, over seeds and draws."""
    yield "Each cell has overall accuracy, average accuracy and kappa in %. The last"
    yield "column says how many points the overall accuracy under all shifts is below"
    yield "that of S2AMSnet with the same seeds: mean and standard error."
    yield ""
    strengths = [f"strength {s}" for s in STRENGTHS]
    names = ["unshifted", *strengths, "all shifted", "other families", "below"]
    yield "| scene, variant (seeds, updates) | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    runs = [*runs, *(_adapted_run(run) for run in runs if ADAPTED in run)]
    for scene in dict.fromkeys(r["scene"] for r in runs):
        for variant in (*VARIANTS, *map(_adapted, VARIANTS)):
            own = [r for r in runs if (r["scene"], r["variant"]) == (scene, variant)]
            if not own:
                continue
            shifted = [one for r in own for one in r["shifted"]]
            columns = [
                [r["unshifted"] for r in own],
                *([o for o in shifted if o["strength"] == s] for s in STRENGTHS),
                shifted,
                [one for r in own for one in r["families"].values()],
            ]
            updates = sorted({r["updates"] for r in own})
            cells = [*(_cell(column) for column in columns), _below(own, runs)]
            yield (
                f"| {scene}, {variant} ({len(own)}, {'/'.join(map(str, updates))}) | "
                + " | ".join(cells)
                + " |"
            )
        largest = next(r for r in runs if r["scene"] == scene)["unshifted"]
        share = 100 * largest["largest_class_share"]
        yield f"| {scene}, largest class everywhere | {share:.1f}" + " |" * len(names)


def _adapted(variant: str) -> str:
    return f"{variant}, moments fitted"


def _adapted_run(run: dict[str, Any]) -> dict[str, Any]:
    """Return the results with fitted moments as those of a variant of its own."""
    adapted: dict[str, Any] = run[ADAPTED]
    return run | adapted | {"variant": _adapted(run["variant"])}


def _cell(results: list[dict[str, float]]) -> str:
    if not results:
        return "-"
    return " ".join(f"{100 * np.mean([r[k] for r in results]):.1f}" for k in SHARES)


def _below(own: list[dict[str, Any]], runs: list[dict[str, Any]]) -> str:
    """Compare a variant with the method, seed by seed."""
    of_method = {
        r["seed"]: _shifted_accuracy(r)
        for r in runs
        if (r["scene"], r["variant"]) == (own[0]["scene"], "s2amsnet")
    }
    gaps = [
        100 * (of_method[r["seed"]] - _shifted_accuracy(r))
        for r in own
        if r["seed"] in of_method
    ]
    if own[0]["variant"] == "s2amsnet" or len(gaps) < 2:
        return ""
    error = np.std(gaps, ddof=1) / len(gaps) ** 0.5
    return f"{np.mean(gaps):.1f} ± {error:.1f}"


def _shifted_accuracy(run: dict[str, Any]) -> float:
    return float(np.mean([one["overall_accuracy"] for one in run["shifted"]]))


@click.command()
@click.option("--scene", "scenes", multiple=True, default=["salinas_a"])
@click.option("--variant", "variants", multiple=True, default=list(VARIANTS))
@click.option("--seeds", default="0,1,2,3,4")
@click.option("--epochs", type=int, help="[default: the recipe's]")
@click.option("--first-draw", default=0, help="Use others to choose settings.")
@click.option("--quick", is_flag=True, help="One seed, two epochs, two draws.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    default=Path(__file__).parent / "results" / "domain_shift.jsonl",
)  # fmt: skip
def main(
    scenes: tuple[str, ...],
    variants: tuple[str, ...],
    seeds: str,
    epochs: int | None,
    first_draw: int,
    quick: bool,
    output: Path,
) -> None:
    shifts: dict[str, Any] = {
        "draws": list(range(first_draw, first_draw + DRAWS)),
        "strengths": list(STRENGTHS),
    }
    if quick:
        seeds, epochs = seeds.split(",")[0], 2
        shifts = {"draws": [first_draw, first_draw + 1], "strengths": [2]}
    runs = common.read_lines(output)
    cases: list[dict[str, Any]] = [
        {"scene": scene, "variant": variant, "seed": int(seed), "epochs": epochs}
        for seed in seeds.split(",")  # outermost: a stop leaves whole comparisons
        for scene in scenes
        for variant in variants
    ]
    code = code_digest.of_training("s2amsnet")
    for case in cases:
        key = case | shifts | {"code": code}
        if any(key.items() <= run.items() for run in runs):
            continue
        runs.append(key | measure(**case, shifts=shifts))
        common.add_line(output, runs[-1], KEYS)
        print(json.dumps(runs[-1]["unshifted"] | key), flush=True)
    of_now = shifts | {"code": code}
    shown = [r for r in runs if any((c | of_now).items() <= r.items() for c in cases)]
    table = "\n".join(mean_lines(shown)) + "\n"
    output.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()

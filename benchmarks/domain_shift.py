"""Is S2AMSnet more accurate under a shift than its controls?

    HSI_DATA=... python benchmarks/domain_shift.py --quick
    HSI_DATA=... python benchmarks/domain_shift.py --scene enmap_potsdam

All variants train on the same pixels of one scene, with the same number of updates, and
see nothing else. Their test pixels are then classified as they are, and under simulated
shifts of sensor and sky: five draws at three strengths each. The gain falls towards the
infrared in one draw and rises in the next. Each finished run is one line, so repeat the
command to continue. Runs of an earlier version of the training code do not count.
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import code_digest
import common
import numpy as np
import torch
from common import SHARES
from numpy.typing import NDArray

from hsi_train import recipe
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting.predict import Scorer
from hsi_train.run_folder import checkpoint
from hsi_train.simulate import DomainShift, shift_cube
from hsi_train.training import divide, read_data, train

VARIANTS: dict[str, dict[str, Any]] = {
    "s2amsnet": {},
    "plain": {"generators": False},
    "no max step": {"max_step": False},
    "no mutual information": {"mi_weight": 0.0},
    "free change": {"smooth_change": False},
    "randomised": {"generators": False, "spectral_randomisation": True},
    "plain, layer norm": {"generators": False, "norm": "ln"},
}
STRENGTHS = (1, 2, 3)
DRAWS = 5
KEYS = ("scene", "variant", "seed", "epochs", "draws", "strengths")
UNIT = 10_000  # stored value of a reflectance of one, in both scenes
# 1-based bands of AVIRIS that the corrected Salinas scene lacks.
NO_SALINAS = {*range(108, 113), *range(154, 168), 224}


def draw_shift(draw: int, strength: float) -> DomainShift:
    """Draw a shift whose direction is the draw's and whose size is the strength's."""
    rng = np.random.default_rng(draw)
    sign = 1 if draw % 2 else -1
    return DomainShift(
        gain=1 + strength * rng.uniform(-0.1, 0.1),
        gain_slope=strength * sign * rng.uniform(0.05, 0.12),
        offset=strength * rng.uniform(0, 0.01),
        haze=strength * rng.uniform(0, 0.02),
        spectral_shift_nm=strength * rng.uniform(-2, 2),
    )


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
    content = recipe.load(f"{scene}-s2amsnet")
    content["seed"] = seed
    content["options"] = VARIANTS[variant]
    if epochs is not None:
        content.setdefault("fit", {})["epochs"] = epochs
    settings = recipe.parse(content)
    updates = 0

    def count(done: int, *_: float) -> None:
        nonlocal updates
        updates = done

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        result = train(settings, run, "auto", after_step=count)
        trained = checkpoint.load(run)
    method = trained.method
    scorer = Scorer(
        network=method.network,
        fill=np.array(trained.description.values.fill),
        halo=method.halo,
        device=torch.device("cpu"),
    )
    data = divide(settings, read_data(settings, method.halo), method.receptive_field)
    centres = wavelengths(data)

    def accuracy(shift: DomainShift | None) -> dict[str, float]:
        scenes = data.scenes
        if shift is not None:
            scenes = [
                dataclasses.replace(s, cube=shift_cube(s.cube, centres, shift, UNIT))
                for s in scenes
            ]
        shifted = dataclasses.replace(data, scenes=scenes)
        return common.shares_of(scorer.score(shifted, Role.TEST).confusion())

    return {
        "updates": updates,
        "seconds": round(result["seconds"], 1),
        "unshifted": accuracy(None),
        "shifted": [
            {"draw": draw, "strength": strength, **accuracy(draw_shift(draw, strength))}
            for draw in shifts["draws"]
            for strength in shifts["strengths"]
        ],
    }


def mean_lines(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Average the runs of each variant, over seeds and draws."""
    yield "Each cell has overall accuracy, average accuracy and kappa in %. The last"
    yield "column says how many points the overall accuracy under all shifts is below"
    yield "that of S2AMSnet with the same seeds: mean and standard error."
    yield ""
    names = ["unshifted", *(f"strength {s}" for s in STRENGTHS), "all shifted", "below"]
    yield "| scene, variant (seeds, updates) | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for scene in dict.fromkeys(r["scene"] for r in runs):
        for variant in VARIANTS:
            own = [r for r in runs if (r["scene"], r["variant"]) == (scene, variant)]
            if not own:
                continue
            shifted = [one for r in own for one in r["shifted"]]
            columns = [
                [r["unshifted"] for r in own],
                *([o for o in shifted if o["strength"] == s] for s in STRENGTHS),
                shifted,
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

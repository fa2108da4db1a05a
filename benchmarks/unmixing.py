"""How good are endmembers and abundances without a single label?

    HSI_DATA=... python benchmarks/unmixing.py

The autoencoder of S2VNet on the Samson scene (three materials), beside vertex component
analysis (VCA) with non-negative least squares. Both use one convention: endmembers have
a peak of one, and abundances are shares of the coefficients, so brightness does not
count. Every start of VCA is reported, including those that lose a material. The
reference does not choose a start: the repeated runs begin at the largest simplex,
because a lost material makes the simplex smaller. Only the mean over the starts that
lost nothing uses the reference, to know which they are.

Learning rates, steps and the weight of the nonlinear term were set by looking at the
reference for two starts.
"""

import itertools
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click
import code_digest
import common
import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.optimize import nnls

from hsi_train import methods
from hsi_train.method import Problem
from hsi_train.methods.s2vnet import Method

Floats = NDArray[np.float64]

CROPS, SIDE = 64, 4  # from everywhere: every step sees the whole scene's mix
RATE, ENDMEMBER_RATE, DECAY = 1e-2, 1e-3, 1e-4
WARM_UP, MAX_GRADIENT_NORM = 0.1, 1.0
LOST_RAD = 0.2  # a mean angle beyond this means a material without an endmember


class Scene(NamedTuple):
    """Spectra ``(band, row, col)`` and the reference of Samson.

    Attributes:
        cube: Stored units.
        endmembers: Shape ``(band, endmember)``.
        abundances: Shape ``(endmember, row, col)``.
    """

    cube: NDArray[np.float32]
    endmembers: Floats
    abundances: Floats


class Unmixed(NamedTuple):
    endmembers: Floats  # (band, endmember)
    abundances: Floats  # (endmember, row, col)
    loss: float


def read_samson(folder: Path) -> Scene:
    with rasterio.open(folder / "scene.tif") as file:
        cube = file.read().astype(np.float32)
    reference = loadmat(folder / "end3.mat")
    rows, cols = cube.shape[1:]
    # MATLAB counts pixels down the columns.
    shares = reference["A"].reshape(-1, cols, rows).transpose(0, 2, 1)
    return Scene(cube, reference["M"].astype(np.float64), shares.astype(np.float64))


def vca(spectra: Floats, count: int, rng: np.random.Generator) -> tuple[Floats, float]:
    """Find the purest pixels by extreme projections on random directions.

    Nascimento, Bioucas-Dias, IEEE TGRS 43, 2005, with the affine projection that the
    paper takes for noisy scenes: on Samson it is the better one.

    Args:
        spectra: Shape ``(band, pixel)``.
        count: Endmembers.
        rng: Of the directions.

    Returns:
        Spectra ``(band, endmember)``, and the volume of their simplex.
    """
    centred = spectra - spectra.mean(axis=1, keepdims=True)
    axes = np.linalg.svd(centred @ centred.T)[0][:, : count - 1]
    projected = axes.T @ centred
    lift = np.linalg.norm(projected, axis=0).max()
    points = np.vstack([projected, np.full(spectra.shape[1], lift)])
    purest = np.zeros((count, count))
    purest[-1, 0] = 1
    chosen = []
    for number in range(count):
        direction = rng.standard_normal(count)
        direction -= purest @ np.linalg.pinv(purest) @ direction
        chosen.append(int(np.abs(direction @ points).argmax()))
        purest[:, number] = points[:, chosen[-1]]
    return spectra[:, chosen], float(abs(np.linalg.det(purest)))


def least_squares(endmembers: Floats, cube: NDArray[np.float32]) -> Floats:
    """Unmix by non-negative least squares on endmembers of unit peak."""
    peaks = endmembers / endmembers.max(axis=0)
    spectra = cube.reshape(len(cube), -1).T.astype(np.float64)
    coefficients = np.array([nnls(peaks, spectrum)[0] for spectrum in spectra])
    shares: Floats = (coefficients / coefficients.sum(axis=1, keepdims=True)).T
    return shares.reshape(-1, *cube.shape[1:])


def autoencoder(
    cube: NDArray[np.float32], start: Floats, steps: int, seed: int
) -> Unmixed:
    """Train the unmixing part of S2VNet from given endmembers ``(band, endmember)``."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    spectra = torch.from_numpy(cube.reshape(len(cube), -1).astype(np.float64))
    problem = Problem(
        band_mean=spectra.mean(dim=1),
        band_std=spectra.std(dim=1),
        class_counts=torch.ones(start.shape[1]),
        class_means=torch.from_numpy(start.T.copy()),
        top=torch.tensor(np.percentile(cube, 99.9)),
    )
    built = methods.build("s2vnet", problem, {})
    assert isinstance(built, Method)
    others = [p for n, p in built.named_parameters() if n != "theta"]
    optimizer = torch.optim.AdamW(
        [
            {"params": others, "lr": RATE},
            {"params": [built.theta], "lr": ENDMEMBER_RATE},
        ],
        weight_decay=DECAY,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [RATE, ENDMEMBER_RATE], total_steps=steps, pct_start=WARM_UP
    )
    whole = torch.from_numpy(cube)[None]
    built.train()
    for _ in range(steps):
        rows = rng.integers(0, cube.shape[1] - SIDE + 1, CROPS)
        cols = rng.integers(0, cube.shape[2] - SIDE + 1, CROPS)
        crops = [
            whole[0, :, row : row + SIDE, col : col + SIDE]
            for row, col in zip(rows, cols, strict=True)
        ]
        optimizer.zero_grad()
        built.unmix(torch.stack(crops)).loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(built.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
    with torch.no_grad():  # in training mode: batch statistics of the whole scene
        result = built.unmix(whole)
    return Unmixed(
        built.endmembers().T.double().numpy(),
        result.abundances[0].double().numpy(),
        float(result.loss),
    )


def compare(endmembers: Floats, abundances: Floats, truth: Scene) -> dict[str, float]:
    """Match by the smallest angles; give the mean angle and the abundance error."""
    count = endmembers.shape[1]
    units = [e / np.linalg.norm(e, axis=0) for e in (endmembers, truth.endmembers)]
    angles = np.arccos(np.clip(units[0].T @ units[1], -1, 1))  # (found, reference)
    order = min(
        itertools.permutations(range(count)),
        key=lambda o: float(angles[list(o), range(count)].sum()),
    )
    error = abundances[list(order)] - truth.abundances
    return {
        "angle_rad": round(float(angles[list(order), range(count)].mean()), 4),
        "abundance_rmse": round(float(np.sqrt(np.square(error).mean())), 4),
    }


def summary(figures: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        key: {
            "mean": round(float(np.mean([f[key] for f in figures])), 4),
            "std": round(float(np.std([f[key] for f in figures])), 4),
        }
        for key in figures[0]
    }


def markdown(figures: dict[str, Any]) -> str:
    """Write a row for each start, and the means, as a Markdown table."""
    complete = figures["starts_that_lost_no_material"]
    largest = figures["start_of_the_largest_simplex"]
    cases = {str(row["start"]): row for row in figures["starts"]}
    cases[f"mean of the {complete['count']} starts that lost no material"] = complete
    seeds = f"{len(largest['s2vnet_seeds'])} seeds"
    cases[f"largest simplex (start {largest['start']}), {seeds}"] = largest
    head = ["start", "VCA: angle", "abundance error", "S2VNet: angle"]
    head += ["abundance error", "by least squares"]
    lines = [
        "Angles to the reference endmembers in rad; root mean square errors of the",
        "abundances. The last column solves each pixel by least squares on S2VNet's",
        "endmembers. Means have a standard deviation.",
        "",
        *common.table_head(head),
    ]
    for name, case in cases.items():
        vca, ours = case["vca_nnls"], case["s2vnet"]
        values = [vca["angle_rad"], vca["abundance_rmse"], ours["angle_rad"]]
        values += [ours["abundance_rmse"], ours["abundance_rmse_by_least_squares"]]
        lines.append(f"| {name} | {' | '.join(map(_cell, values))} |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['mean']:.3f} ± {value['std']:.3f}"
    return f"{value:.3f}"


@click.command()
@click.option("--starts", default=10)
@click.option("--seeds", default=5)
@click.option("--steps", default=4000)
def main(starts: int, seeds: int, steps: int) -> None:
    root = Path(__file__).parents[2]
    data = Path(os.environ.get("HSI_DATA", root / "shared" / "data"))
    truth = read_samson(data / "samson")
    spectra = truth.cube.reshape(len(truth.cube), -1).astype(np.float64)
    count = truth.endmembers.shape[1]

    def run(start: Floats, seed: int) -> dict[str, float]:
        unmixed = autoencoder(truth.cube, start, steps, seed)
        solved = least_squares(unmixed.endmembers, truth.cube)
        # The same endmembers, each pixel solved instead of encoded.
        by_least_squares = compare(unmixed.endmembers, solved, truth)["abundance_rmse"]
        return compare(unmixed.endmembers, unmixed.abundances, truth) | {
            "abundance_rmse_by_least_squares": by_least_squares,
            "loss": round(unmixed.loss, 4),
        }

    rows: list[dict[str, Any]] = []
    candidates = []
    for number in range(starts):
        start, volume = vca(spectra, count, np.random.default_rng(number))
        rows.append(
            {
                "start": number,
                "simplex_volume": float(f"{volume:.4g}"),
                "vca_nnls": compare(start, least_squares(start, truth.cube), truth),
                "s2vnet": run(start, number),
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
        candidates.append((volume, number, start))
    _, chosen, start = max(candidates)
    repeated = [run(start, 100 + seed) for seed in range(seeds)]
    complete = [r for r in rows if r["vca_nnls"]["angle_rad"] < LOST_RAD]
    figures: dict[str, Any] = {
        "command": " ".join(["python benchmarks/unmixing.py", *sys.argv[1:]]),
        "scene": "Samson",
        "steps": steps,
        "starts": rows,
        "starts_that_lost_no_material": {
            "count": len(complete),
            "vca_nnls": summary([r["vca_nnls"] for r in complete]),
            "s2vnet": summary([r["s2vnet"] for r in complete]),
        },
        "start_of_the_largest_simplex": {
            "start": chosen,
            "vca_nnls": rows[chosen]["vca_nnls"],
            "s2vnet_seeds": repeated,
            "s2vnet": summary(repeated),
        },
    }
    common.report("unmixing", figures, code_digest.of("hsi_train.methods.s2vnet"))
    text = f"{markdown(figures)}\n{common.machine_text()}\n"
    (common.RESULTS / "unmixing.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

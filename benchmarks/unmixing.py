"""How far are endmembers and shares within pixels from the truth?

    HSI_DATA=... python benchmarks/unmixing.py

S2VNet as it ships on the Samson scene (three materials, one of them dark water) and on
three simulated scenes whose true shares are known, with water, shade and asphalt among
their materials and pixels of 6, 8 and 10 m. Beside it vertex component analysis (VCA)
with fully constrained (FCLS) and with non-negative least squares (NNLS), and the same
with the means of the labels that S2VNet learns from.

One setting for all, chosen on other simulated scenes (seeds 5, 7 and 8). Two decisions
came after the first seed had been seen. Endmembers also have to reproduce the mixtures:
without that they left Samson's materials (0.075 rad, now 0.052). And a share is the
mean of two estimates with equal weights; a quarter for the classes gave errors of
shares 3 % smaller, and larger ones of areas.

Simulated labels are spots of 3 x 3 pixels, of which a material covers half at least.
Samson has no labels: those are the pixels whose spectra are the nearest to each
endmember of VCA, so the reference has no say in them. VCA has the largest simplex of
ten starts. A seed draws starts, spots and weights.

Areas are summed from the shares of S2VNet, or counted in its class map; their intervals
are over blocks of pixels. The reference of Samson holds shares of endmembers that peak
at one, which are no areas. The table also gives errors after the same conversion.

Each scene and seed is a line of ``unmixing.jsonl``; repeat the command to measure what
is missing.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import code_digest
import common
import numpy as np
import rasterio
import tomli_w
import torch
from accuracy_data import in_spots
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.optimize import linear_sum_assignment, nnls

from hsi_runtime.model.model_file import ABUNDANCES, PROBABILITIES
from hsi_train import inputs, recipe
from hsi_train.fitting.predict import output_maps
from hsi_train.measuring import shares
from hsi_train.run_folder import checkpoint
from hsi_train.simulate import SceneSpec, band_centres, write_scene
from hsi_train.simulate.sensor import library

Floats = NDArray[np.float64]

STARTS = 10  # of VCA
NEAREST = 100  # pixels of Samson that stand for an endmember
PURE = 0.5  # share from which a pixel is labelled
BANDS, SIDE = 60, 140
COVERS = ("grass", "broadleaf", "dry_vegetation", "bright_soil", "red_tile")
DARK = ("water", "asphalt", "shade")
MODULES = ("hsi_train.training", "hsi_train.methods.s2vnet")


class Scene(NamedTuple):
    """A scene with known endmembers and shares.

    Attributes:
        path: The file.
        cube: Stored units, shape ``(band, row, col)``.
        endmembers: Shape ``(band, endmember)``.
        shares: Shape ``(endmember, row, col)``.
        areas: False where shares are no areas.
    """

    path: Path
    cube: NDArray[np.float32]
    endmembers: Floats
    shares: Floats
    areas: bool

    @property
    def spectra(self) -> Floats:
        """Spectra of all pixels, shape ``(band, pixel)``."""
        return self.cube.reshape(len(self.cube), -1).astype(np.float64)


class Unmixed(NamedTuple):
    endmembers: Floats  # (band, endmember)
    shares: Floats  # (endmember, row, col)


def samson(folder: Path) -> Scene:
    source = Path(os.environ["HSI_DATA"]) / "samson"
    with rasterio.open(source / "scene.tif") as file:
        cube = file.read().astype(np.float32)
    reference = loadmat(source / "end3.mat")
    rows, cols = cube.shape[1:]
    # MATLAB counts pixels down the columns.
    true = reference["A"].reshape(-1, cols, rows).transpose(0, 2, 1)
    return Scene(
        path=source / "scene.tif",
        cube=cube,
        endmembers=reference["M"].astype(np.float64),
        shares=true.astype(np.float64),
        areas=False,
    )


def simulated(seed: int, resolution_m: float, *more: str) -> Callable[[Path], Scene]:
    """Return what writes a simulated scene into a folder."""

    def make(folder: Path) -> Scene:
        spec = SceneSpec(
            rows=SIDE,
            cols=SIDE,
            wavelengths_nm=band_centres(BANDS),
            materials=(*COVERS, *more, *DARK),
            resolution_m=resolution_m,
            seed=seed,
        )
        path, truth = folder / "scene.tif", folder / "shares.tif"
        if not truth.is_file():
            write_scene(spec, path, abundances=truth, overwrite=True)
        with rasterio.open(path) as scene, rasterio.open(truth) as file:
            cube = scene.read().astype(np.float32)
            true = file.read().astype(np.float64)
        spectra = library(spec).mean(axis=1).T.astype(np.float64)
        return Scene(path, cube, endmembers=spectra, shares=true, areas=True)

    return make


SCENES = {
    "samson": samson,
    "simulated_6m": simulated(101, 6.0, "conifer", "concrete"),
    "simulated_8m": simulated(102, 8.0),
    "simulated_10m": simulated(103, 10.0),
}


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


def best_vca(scene: Scene, seed: int) -> Floats:
    """Keep the largest simplex of several starts: a lost material makes it small."""
    count = scene.endmembers.shape[1]
    rngs = [np.random.default_rng([seed, start]) for start in range(STARTS)]
    starts = [vca(scene.spectra, count, rng) for rng in rngs]
    return max(starts, key=lambda start: start[1])[0]


def least_squares(endmembers: Floats, scene: Scene, constrained: bool) -> Floats:
    """Unmix by non-negative least squares; sums are one by constraint or by division.

    Args:
        endmembers: Shape ``(band, endmember)``, stored units.
        scene: What to unmix.
        constrained: Solve with the sum as one more equation of great weight.

    Returns:
        Shape ``(endmember, row, col)``.
    """
    weight = 1e3 * endmembers.max() * constrained
    system = np.vstack([endmembers, np.full(endmembers.shape[1], weight)])
    solved = [nnls(system, np.append(x, weight))[0] for x in scene.spectra.T]
    coefficients = np.array(solved)
    sums = coefficients.sum(axis=1, keepdims=True)
    found = np.where(
        sums > 0, coefficients / np.maximum(sums, 1e-12), 1 / len(system[0])
    )
    return found.T.reshape(-1, *scene.cube.shape[1:])


def angles(ours: Floats, theirs: Floats) -> Floats:
    """Return the angles between spectra in columns, rad, shape ``(ours, theirs)``."""
    units = [e / np.linalg.norm(e, axis=0) for e in (ours, theirs)]
    found: Floats = np.arccos(np.clip(units[0].T @ units[1], -1, 1))
    return found


def matched(unmixed: Unmixed, scene: Scene) -> Unmixed:
    """Put endmembers in the order of the reference, by the smallest angles."""
    ours, theirs = linear_sum_assignment(angles(unmixed.endmembers, scene.endmembers))
    order = ours[np.argsort(theirs)]
    return Unmixed(unmixed.endmembers[:, order], unmixed.shares[order])


def at_peak(unmixed: Unmixed) -> Floats:
    """Convert shares of areas to shares of endmembers that peak at one."""
    scaled = unmixed.shares * unmixed.endmembers.max(axis=0)[:, None, None]
    converted: Floats = scaled / scaled.sum(axis=0)
    return converted


def compare(unmixed: Unmixed, scene: Scene) -> dict[str, Any]:
    """Compare endmembers and shares, in the order of the reference, with it."""
    own = np.diag(angles(unmixed.endmembers, scene.endmembers))
    figures: dict[str, Any] = {
        "angle_rad": float(own.mean()),
        **error_of(unmixed.shares, scene),
    }
    if not scene.areas:
        figures["rmse_at_peak"] = error_of(at_peak(unmixed), scene)["rmse"]
    result: dict[str, Any] = rounded(figures)
    return result


def error_of(estimated: Floats, scene: Scene) -> dict[str, Any]:
    """Return the error of shares, and of areas with intervals over blocks."""
    valid = np.ones(scene.cube.shape[1:], dtype=bool)
    strips = [np.s_[t : t + shares.BLOCK] for t in range(0, len(valid), shares.BLOCK)]
    parts = [
        shares.sum_blocks(estimated[:, s], scene.shares[:, s], valid[s]) for s in strips
    ]
    found = shares.errors(shares.join(parts))
    kept = ["rmse"]
    if scene.areas:
        kept += ["block_rmse", "largest_area_error", "area_errors"]
    return {key: found[key] for key in kept}


def rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: rounded(value) for key, value in values.items()}
    if isinstance(values, list):
        return [rounded(value) for value in values]
    return round(values, 4)


def labels_of(scene: Scene, endmembers: Floats, seed: int) -> NDArray[np.uint8]:
    """Label pixels with the number of their material, from 1; 0 is none.

    Args:
        scene: Simulated, or without labels.
        endmembers: Of VCA, for a scene without labels.
        seed: Of the spots.
    """
    shape = scene.cube.shape[1:]
    if not scene.areas:
        near = angles(endmembers, scene.spectra)
        labels = np.zeros(near.shape[1], dtype=np.uint8)
        for number, distances in enumerate(near, start=1):
            labels[np.argsort(distances, kind="stable")[:NEAREST]] = number
        return labels.reshape(shape)
    major = scene.shares.argmax(axis=0) + 1
    sure = np.where(scene.shares.max(axis=0) >= PURE, major, 0)
    return in_spots(sure.astype(np.uint8), seed)


def write_labels(path: Path, labels: NDArray[np.uint8], scene: Path) -> None:
    with rasterio.open(scene) as file:
        profile = file.profile
    profile.update(count=1, dtype="uint8", nodata=0, photometric="MINISBLACK")
    profile.pop("interleave", None)
    with rasterio.open(path, "w", **profile) as file:
        file.write(labels, 1)


def s2vnet(scene: Scene, labels: Path, seed: int, folder: Path) -> tuple[Unmixed, Any]:
    """Train S2VNet as a user would, by a recipe that sets nothing.

    Returns:
        Endmembers and shares; and the class map, codes of shape ``(row, col)``.
    """
    path, run = folder / "recipe.toml", folder / "run"
    content = {
        "method": "s2vnet",
        "seed": seed,
        "data": {"scenes": [str(scene.path)], "labels": [str(labels)]},
        "split": {"mode": "fraction", "train_fraction": 0.8},
    }
    path.write_text(tomli_w.dumps(content), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("hsi-train")), str(path), "-o"]
    command += [str(run), "-q", "--device", "cpu", "--overwrite"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    method = checkpoint.load(run).method.eval()
    read = inputs.read_data(recipe.parse(content), method.halo).scenes[0]
    every = np.ones(scene.cube.shape[1:], dtype=bool)
    found, classes = (
        output_maps(method, output, read, every, torch.device("cpu"))
        for output in (ABUNDANCES, PROBABILITIES)
    )
    spectra = method.endmembers()
    assert spectra is not None
    unmixed = Unmixed(spectra.T.double().numpy(), found.astype(np.float64))
    return unmixed, classes.argmax(axis=0) + 1


def measure(scene: Scene, seed: int, folder: Path) -> dict[str, Any]:
    """Unmix a scene by all ways and compare each with the reference."""
    folder.mkdir(parents=True, exist_ok=True)
    pure = best_vca(scene, seed)
    labels = labels_of(scene, pure, seed)
    write_labels(folder / "labels.tif", labels, scene.path)
    flat = labels.ravel()
    numbers = range(1, pure.shape[1] + 1)
    means = np.stack([scene.spectra[:, flat == n].mean(axis=1) for n in numbers], 1)
    found, codes = s2vnet(scene, folder / "labels.tif", seed, folder)
    figures = {}
    for name, endmembers in (("vca", pure), ("means", means)):
        for way, constrained in (("fcls", True), ("nnls", False)):
            solved = least_squares(endmembers, scene, constrained)
            one = matched(Unmixed(endmembers, solved), scene)
            figures[f"{name}_{way}"] = compare(one, scene)
    # Labels of Samson are those of VCA, in its order.
    ordered = found if scene.areas else matched(found, scene)
    figures["s2vnet"] = compare(ordered, scene)
    if scene.areas:
        counted = np.stack([codes == n for n in numbers]).astype(np.float64)
        figures["counted"] = rounded(error_of(counted, scene))
    return figures


ROWS = {
    "vca_fcls": "VCA + FCLS",
    "vca_nnls": "VCA + NNLS",
    "means_fcls": "means of labels + FCLS",
    "means_nnls": "means of labels + NNLS",
    "s2vnet": "S2VNet",
    "counted": "pixels of S2VNet's class map, counted",
}


def markdown(lines: list[dict[str, Any]]) -> str:
    """Write a row for each scene and way: means over seeds with standard deviation."""
    head = ["scene", "way", "seeds", "angle, rad", "error of shares"]
    head += ["areas: largest error, points", "mean error", "half interval", "blocks"]
    text = [
        "Angles to the reference endmembers; root mean square errors of shares; errors",
        "of areas in points of the scene's area, half the mean width of their 95 %",
        "intervals over blocks, and the root mean square error of the areas of single",
        f"blocks of {shares.BLOCK} x {shares.BLOCK} pixels, in points. Means over",
        "seeds with a standard deviation. For Samson the second error is that of",
        "shares of endmembers that peak at one.",
        "",
        *common.table_head(head),
    ]
    for scene in SCENES:
        ours = [line["figures"] for line in lines if line["scene"] == scene]
        for row, title in ROWS.items():
            figures = [f[row] for f in ours if row in f]
            if figures:
                cells = [scene, title, str(len(figures)), *_cells(figures)]
                text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def _cells(figures: list[dict[str, Any]]) -> list[str]:
    def spread(values: list[float], digits: int = 3) -> str:
        return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"

    def column(key: str) -> str:
        return spread([f[key] for f in figures]) if key in figures[0] else ""

    error = column("rmse")
    if "rmse_at_peak" in figures[0]:
        error += f"; {column('rmse_at_peak')}"
    if "area_errors" not in figures[0]:
        return [column("angle_rad"), error, "", "", "", ""]
    areas = 100 * np.array([f["area_errors"] for f in figures])  # (seed, class, 3)
    largest = spread([100 * f["largest_area_error"] for f in figures], 2)
    mean = spread(np.abs(areas[..., 0]).mean(axis=1).tolist(), 2)
    half = f"{(areas[..., 2] - areas[..., 1]).mean() / 2:.2f}"
    blocks = spread([100 * f["block_rmse"] for f in figures], 2)
    return [column("angle_rad"), error, largest, mean, half, blocks]


@click.command()
@click.option("--scene", "names", multiple=True, type=click.Choice(list(SCENES)))
@click.option("--seeds", default=5)
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/unmixing"))
def main(names: tuple[str, ...], seeds: int, work: Path) -> None:
    path = common.RESULTS / "unmixing.jsonl"
    code = code_digest.of(*MODULES)
    for seed in range(seeds):
        for name in names or SCENES:
            known = common.read_lines(path)
            if any(
                (x["scene"], x["seed"], x["code"]) == (name, seed, code) for x in known
            ):
                continue
            folder = (work / name).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            figures = measure(SCENES[name](folder), seed, folder / str(seed))
            line = {"scene": name, "seed": seed, "figures": figures, "code": code}
            common.add_line(path, line, ("scene", "seed"))
            print(name, seed, figures["vca_fcls"], figures["s2vnet"], flush=True)
    text = f"{markdown(common.read_lines(path))}\n{common.machine_text()}\n"
    (common.RESULTS / "unmixing.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

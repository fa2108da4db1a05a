"""Are our methods faster and more accurate than what a user would use instead?

    HSI_DATA=... python benchmarks/classifier_speed.py --runs FOLDER

Two scenes: SalinasA with ten training pixels of each class, and EnMAP Potsdam with the
3,806 of its own split. On the same pixels, scikit-learn's support vector machines and
random forest classify as the simple rivals of a run do, by window means that no test
pixel chose, and our model files run densely as in hsi-run. SalinasA also has a plain
3-D CNN that runs patch by patch, as in research toolboxes, and our model files patch by
patch in batches of 256. The patches of EnMAP would not fit into memory.

All classify every pixel of the labelled part, in turns, on one thread. Processor time
is measured, and the fastest round counts. In EnMAP, pixels between the labelled tiles
are filled with copies of others while the clock runs, so that no tile is skipped.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import code_digest
import common
import numpy as np
import torch
from half_precision import trained
from numpy.typing import NDArray
from torch import Tensor, nn

import hsi_runtime
from hsi_export.exporting import export
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.model.model_file import read_model
from hsi_train import recipe
from hsi_train.data.labelled_scene import LabelledScene
from hsi_train.data.roles import Role
from hsi_train.fitting.statistics import describe_problem
from hsi_train.inputs import divide, read_data
from hsi_train.methods import names
from hsi_train.rivals.classical import Fitted, fit_all

SCENES = {"salinas_a": "SalinasA", "enmap_potsdam": "EnMAP Potsdam"}
WITH_PATCHES = "salinas_a"
PATCH = 5  # of the 3-D CNN
TOOLBOX_BATCH, RUNTIME_BATCH = 100, 256
STEPS = 300
SEED = 0

Cube = NDArray[Any]  # (band, row, col), stored units
Classes = NDArray[np.int64]  # (pixel,)
Rival = Callable[[Cube], Classes]
Figures = dict[str, Any]


class Plain3d(nn.Module):
    """Two 3-D convolutions and two spectral ones, then a linear layer.

    The kind of network that toolboxes offer: widths 20 and 35, 5x5 pixels.
    """

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv3d(1, 20, 3, padding=(1, 0, 0)), nn.ReLU()),
            *(nn.Conv3d(20, 20, (3, 1, 1), (2, 1, 1), (1, 0, 0)), nn.ReLU()),
            *(nn.Conv3d(20, 35, 3, padding=(1, 0, 0)), nn.ReLU()),
            *(nn.Conv3d(35, 35, (3, 1, 1), (2, 1, 1), (1, 0, 0)), nn.ReLU()),
            nn.Flatten(),
        )
        with torch.no_grad():
            width = self.features(torch.zeros(1, 1, bands, PATCH, PATCH)).shape[1]
        self.head = nn.Linear(width, classes)

    def forward(self, patches: Tensor) -> Tensor:
        """Map ``(batch, band, 5, 5)`` to class scores."""
        scores: Tensor = self.head(self.features(patches[:, None]))
        return scores


def patches_of(cube: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Cut a patch round every pixel: ``(pixel, band, side, side)``, a view."""
    half = side // 2
    padded = np.pad(cube, ((0, 0), (half, half), (half, half)), mode="reflect")
    views = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))
    return views.transpose(1, 2, 0, 3, 4).reshape(-1, len(cube), side, side)


def batches(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def spectra_of(cube: Cube) -> NDArray[np.float64]:
    """Return the spectra of all pixels, shape ``(pixel, band)``."""
    return cube.reshape(len(cube), -1).T.astype(np.float64)


def plain_3d(cube: Cube, train: NDArray[np.intp], classes: Classes) -> Rival:
    """Train the 3-D CNN on some pixels; return what classifies a cube."""
    torch.manual_seed(0)
    known = spectra_of(cube)[train]
    mean, std = (f(known, axis=0)[:, None, None] for f in (np.mean, np.std))

    def standard(cube: Cube) -> Tensor:
        return torch.from_numpy(
            patches_of(((cube - mean) / std).astype(np.float32), PATCH)
        )

    patches = standard(cube)[train]
    network = Plain3d(len(cube), int(classes.max()) + 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    truth = torch.from_numpy(classes)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(patches), truth)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    @torch.inference_mode()
    def classify(cube: Cube) -> Classes:
        patches = standard(cube)
        parts = batches(len(patches), TOOLBOX_BATCH)
        return np.concatenate([network(patches[p]).argmax(1).numpy() for p in parts])

    return classify


def by_patches(path: Path) -> Rival:
    """Return what classifies a cube, a patch for each pixel."""
    model = read_model(path)
    backend = open_backend(model, "cpu", threads=1)

    def classify(cube: Cube) -> Classes:
        patches = patches_of(cube.astype(np.float32), model.document.receptive_field)
        parts = batches(len(patches), RUNTIME_BATCH)
        answers = [backend.predict(patches[p])["probabilities"] for p in parts]
        return np.concatenate([f[:, :, 0, 0].argmax(1) for f in answers])

    return classify


def dense(path: Path, nodata: float | None) -> Rival:
    """Return what classifies a cube of the model's own bands as hsi-run does."""
    model = hsi_runtime.Model(path, "cpu", threads=1)
    codes = np.array([c.code for c in model.classes])

    def classify(cube: Cube) -> Classes:
        predicted = model.predict(
            cube, wavelengths_nm=model.wavelengths_nm, nodata=nodata
        ).classes
        return np.searchsorted(codes, predicted.ravel())

    return classify


def classical_rival(fitted: Fitted, scene: LabelledScene) -> Rival:
    """Return what classifies all pixels of a cube of the scene."""
    everywhere = np.ones(scene.valid.shape, dtype=bool)

    def classify(cube: Cube) -> Classes:
        whole = replace(scene, cube=cube, valid=everywhere)
        return fitted.classes(whole, everywhere).ravel().astype(np.int64)

    return classify


def without_gaps(scene: LabelledScene) -> Cube:
    """Fill the missing pixels with others, shape ``(band, row, col)``."""
    cube, missing = scene.cube.copy(), ~scene.valid
    others = scene.cube[:, scene.valid]
    cube[:, missing] = others[:, np.arange(missing.sum()) % others.shape[1]]
    return cube


def measure(name: str, runs: Path, methods: tuple[str, ...], rounds: int) -> Figures:
    """Fit all rivals on a scene and let them classify it, in turns."""
    content = recipe.parse(recipe.load(f"{name}-{methods[0]}"))
    data = divide(content, read_data(content, 0), 1)
    scene = data.scenes[0]
    truth = scene.classes.astype(np.int64).ravel()
    train, test = (np.flatnonzero(scene.roles == r) for r in (Role.TRAIN, Role.TEST))
    problem = describe_problem(data)
    rivals = {one.name: classical_rival(one, scene) for one in fit_all(data, problem)}
    if name == WITH_PATCHES:
        rivals["3-D CNN by patches"] = plain_3d(scene.cube, train, truth[train])
    nodata = scene.info.nodata[0]
    for method in methods:
        run = runs / f"{name}-{method}"
        trained(method, name, run)
        export(run, run / "fp32.onnx", overwrite=True)
        if name == WITH_PATCHES:
            rivals[f"{method} by patches"] = by_patches(run / "fp32.onnx")
        rivals[method] = dense(
            run / "fp32.onnx", None if np.isnan(nodata) else float(nodata)
        )

    right = {k: (r(scene.cube) == truth)[test].mean() for k, r in rivals.items()}
    whole = without_gaps(scene)
    calls = {label: partial(rival, whole) for label, rival in rivals.items()}
    seconds, _ = common.in_turns(calls, rounds, time.process_time)
    return {
        **{"pixels": truth.size, "train": len(train), "test": len(test)},
        "rivals": {
            label: {
                "pixels_per_second": round(truth.size / min(seconds[label])),
                "overall_accuracy": round(float(right[label]), 4),
            }
            for label in rivals
        },
    }


def table(scenes: dict[str, Figures]) -> str:
    """Lay out all scenes as Markdown, the fastest first."""
    lines = []
    for name, figures in scenes.items():
        lines += [
            f"### {SCENES[name]}, {figures['train']:,} training pixels\n",
            *common.table_head(["", "px/s on one core", "overall accuracy"]),
        ]
        rows = sorted(
            figures["rivals"].items(), key=lambda item: -item[1]["pixels_per_second"]
        )
        for label, row in rows:
            rate, accuracy = row["pixels_per_second"], row["overall_accuracy"]
            lines.append(f"| {label} | {rate:,} | {accuracy:.2%} |")
        lines.append("")
    return "\n".join([*lines, common.machine_text()]) + "\n"


@click.command()
@click.option("--runs", type=click.Path(path_type=Path), default="build/rivals")
@click.option("--scene", "scenes", multiple=True, default=tuple(SCENES))
@click.option("--method", "methods", multiple=True, default=names())
@click.option("--rounds", default=3)
def main(
    runs: Path, scenes: tuple[str, ...], methods: tuple[str, ...], rounds: int
) -> None:
    torch.set_num_threads(1)
    measured = {name: measure(name, runs, methods, rounds) for name in scenes}
    parts = (code_digest.of_training(*methods), code_digest.of_running(*methods))
    code = code_digest.of(*{m for part in parts for m in part["modules"]})
    common.report("classifier_speed", {"rounds": rounds, "scenes": measured}, code)
    text = table(measured)
    print(text)
    (common.RESULTS / "classifier_speed.md").write_text(text)


if __name__ == "__main__":
    main()

"""Is it faster than what a user would take instead, and more accurate?

    HSI_DATA=... python benchmarks/rivals.py --runs FOLDER

SalinasA, ten training pixels of each class, the same for all: scikit-learn's SVM with
an RBF kernel and random forest on single spectra; a plain 3-D CNN that runs patch by
patch, as in research toolboxes; and the methods of this project, whose model files run
densely as in hsi-run, and patch by patch in batches of 256. All classify every pixel
of the labelled part, in turns, with one thread; the clock counts the time of the
process on a core, and the fastest of the rounds counts. Runs that are there are not
repeated.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import baselines
import click
import common
import numpy as np
import torch
from half_precision import trained
from numpy.typing import NDArray
from torch import Tensor, nn

import hsi_runtime
from hsi_export.exporting import export
from hsi_runtime.backends import open_backend
from hsi_runtime.model_file import read_model
from hsi_train import recipe
from hsi_train.methods import names
from hsi_train.split import Role
from hsi_train.training import divide, read_data

SCENE = "salinas_a"
PATCH = 5  # of the 3-D CNN
TOOLBOX_BATCH, RUNTIME_BATCH = 100, 256
STEPS = 300

Classes = NDArray[np.int64]  # (pixel,)


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


def plain_3d(
    cube: NDArray[np.float32], train: NDArray[np.intp], classes: Classes
) -> Callable[[], Classes]:
    """Train the 3-D CNN on some pixels; return what classifies them all."""
    torch.manual_seed(0)
    patches = torch.from_numpy(patches_of(cube, PATCH))
    network = Plain3d(len(cube), int(classes.max()) + 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    wanted = torch.from_numpy(classes)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(patches[train]), wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    @torch.inference_mode()
    def classify() -> Classes:
        parts = batches(len(patches), TOOLBOX_BATCH)
        return np.concatenate([network(patches[p]).argmax(1).numpy() for p in parts])

    return classify


def by_patches(path: Path, cube: NDArray[np.float32]) -> Callable[[], Classes]:
    """Return what classifies all pixels, a patch each."""
    model = read_model(path)
    backend = open_backend(model, "cpu", threads=1)
    patches = patches_of(cube, model.document.receptive_field)

    def classify() -> Classes:
        parts = batches(len(patches), RUNTIME_BATCH)
        found = [backend.predict(patches[p])["probabilities"] for p in parts]
        return np.concatenate([f[:, :, 0, 0].argmax(1) for f in found])

    return classify


def dense(path: Path, cube: NDArray[Any]) -> Callable[[], Classes]:
    """Return what classifies all pixels as hsi-run does, tile by tile."""
    model = hsi_runtime.Model(path, "cpu", threads=1)
    codes = np.array([c.code for c in read_model(path).document.classes])

    def classify() -> Classes:
        found = model.predict(cube).classes
        return np.searchsorted(codes, found.ravel())

    return classify


@click.command()
@click.option("--runs", type=click.Path(path_type=Path), default="build/rivals")
@click.option("--method", "methods", multiple=True, default=names())
@click.option("--rounds", default=3)
def main(runs: Path, methods: tuple[str, ...], rounds: int) -> None:
    torch.set_num_threads(1)
    content = recipe.parse(recipe.load(f"{SCENE}-{methods[0]}"))
    data = read_data(content, 0)
    roles = divide(content, data, 1)[0]
    scene = data.scenes[0]
    cube = scene.cube.astype(np.float32)  # (band, row, col)
    spectra = cube.reshape(len(cube), -1).T.astype(np.float64)
    truth = scene.classes.astype(np.int64).ravel()
    train, test = (np.flatnonzero(roles == r) for r in (Role.TRAIN, Role.TEST))

    rivals: dict[str, Callable[[], Classes]] = {}
    for label, name in (("SVM, RBF", "svm"), ("random forest", "forest")):
        known = truth[train].astype(np.int16)
        model = baselines.BASELINES[name](spectra[train], known, content.seed)
        model.fit(spectra[train], truth[train])
        rivals[label] = partial(model.predict, spectra)
    mean, std = (f(spectra[train], axis=0) for f in (np.mean, np.std))
    standard = ((spectra - mean) / std).T.reshape(cube.shape).astype(np.float32)
    rivals["3-D CNN by patches"] = plain_3d(standard, train, truth[train])
    for name in methods:
        run = runs / f"{SCENE}-{name}"
        trained(name, SCENE, run)
        export(run, run / "fp32.onnx", overwrite=True)
        rivals[f"{name} by patches"] = by_patches(run / "fp32.onnx", cube)
        rivals[name] = dense(run / "fp32.onnx", scene.cube)

    seconds: dict[str, list[float]] = {label: [] for label in rivals}
    right = {}
    for _ in range(rounds):
        for label, classify in rivals.items():
            started = time.process_time()
            found = classify()
            seconds[label].append(time.process_time() - started)
            right[label] = float((found == truth)[test].mean())
    rates = {k: truth.size / min(v) for k, v in seconds.items()}
    figures: dict[str, Any] = {
        label: {
            "pixels_per_second": round(rates[label]),
            "overall_accuracy": round(right[label], 4),
        }
        for label in rivals
    }
    counts = {"pixels": truth.size, "train": len(train), "test": len(test)}
    given = {"scene": SCENE, **counts, "rounds": rounds}
    common.report("rivals", {**given, "rivals": figures})
    lines = ["| | px/s on one core | overall accuracy |", "|---|---|---|"]
    for label, row in sorted(figures.items(), key=lambda f: -f[1]["pixels_per_second"]):
        rate, accuracy = row["pixels_per_second"], row["overall_accuracy"]
        lines.append(f"| {label} | {rate:,} | {accuracy:.2%} |")
    text = "\n".join(lines) + "\n"
    print(text)
    (Path(__file__).parent / "results" / "rivals.md").write_text(text)


if __name__ == "__main__":
    main()

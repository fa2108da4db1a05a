"""Spectra as classical classifiers see them, and the maps that these make."""

from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from hsi_train.data.labelled_scene import LabelledScene
from hsi_train.fitting.predict import cut_tiles
from hsi_train.layers import BrightnessFree, trimmed
from hsi_train.linear.spectra import HALO, windows_at

RAW, SHAPE, UNIT = "spectra", "brightness-free spectra", "unit spectra"
SIDES = (1, 3, 5, 9)  # of the squares whose mean is seen, pixels
FILTER = 5  # side of the square in which the majority counts, pixels
BATCH = 256  # windows that are looked at together


class View(NamedTuple):
    """How a pixel is seen.

    Attributes:
        spectra: As they are, without brightness (SNV), or scaled to length one.
        side: Side of the averaged square, pixels.
    """

    spectra: str
    side: int


VIEWS = tuple(View(spectra, side) for spectra in (RAW, SHAPE, UNIT) for side in SIDES)


class Classifier(Protocol):
    """A fitted classifier of scikit-learn."""

    def predict(self, spectra: NDArray[np.float32]) -> NDArray[Any]:
        """Map ``(pixel, band)`` to class indices ``(pixel,)``."""


@torch.inference_mode()
def see(cubes: Tensor, view: View) -> Tensor:
    """Map ``(batch, band, row, col)`` to what is seen, without `HALO` on each side."""
    if view.spectra == SHAPE:
        cubes = BrightnessFree(torch.zeros(cubes.shape[1]))(cubes)
    elif view.spectra == UNIT:
        cubes = F.normalize(cubes, dim=1)
    return F.avg_pool2d(trimmed(cubes, HALO - view.side // 2), view.side, 1)


def spectra_at(
    scenes: list[LabelledScene],
    places: NDArray[np.intp],
    fill: NDArray[np.float64],
    views: Sequence[View],
) -> dict[View, NDArray[np.float32]]:
    """Collect the spectra of some pixels by every view, each ``(pixel, band)``.

    Args:
        scenes: Labelled scenes.
        places: Scene, row and column, shape ``(pixel, 3)``.
        fill: What stands for a missing value, shape ``(band,)``.
        views: The views.
    """
    parts: dict[View, list[NDArray[np.float32]]] = {view: [] for view in views}
    windows = windows_at(scenes, places, fill)
    while batch := list(islice(windows, BATCH)):
        cubes = torch.from_numpy(np.stack(batch))
        for view in views:
            parts[view].append(see(cubes, view)[:, :, 0, 0].numpy())
    return {view: np.concatenate(part) for view, part in parts.items()}


def classify(
    model: Classifier,
    scene: LabelledScene,
    requested: NDArray[np.bool_],
    fill: NDArray[np.float64],
    view: View,
    filtered: bool,
) -> NDArray[np.int16]:
    """Classify the requested pixels of a scene.

    Args:
        model: A fitted classifier.
        scene: The scene.
        requested: Pixels of interest, shape ``(row, col)``.
        fill: What stands for a missing value, shape ``(band,)``.
        view: How the classifier sees a pixel.
        filtered: Let the majority of the square around a pixel decide.

    Returns:
        Class index, shape ``(row, col)``; -1 elsewhere.
    """
    seen = requested
    if filtered:
        square = np.ones((FILTER, FILTER), dtype=bool)
        near: NDArray[np.bool_] = ndimage.binary_dilation(requested, square)
        seen = (near & scene.valid) | requested
    classes = np.full(requested.shape, -1, dtype=np.int16)
    for rows, cols, cube in cut_tiles(scene, seen, fill, HALO):
        inside = seen[rows, cols]
        spectra = see(cube, view)[0].numpy()[:, inside].T
        classes[rows, cols][inside] = model.predict(spectra)
    if filtered:
        classes = majority(classes)
    return np.where(requested, classes, np.int16(-1))


def majority(classes: NDArray[np.int16]) -> NDArray[np.int16]:
    """Give each pixel the most frequent class around it; its own one wins a tie.

    Args:
        classes: Class index, -1 where there is none, shape ``(row, col)``.
    """
    most = np.full(classes.shape, -np.inf)
    best = classes.copy()
    for index in np.unique(classes[classes >= 0]):
        own = (classes == index).astype(np.float64)
        votes = ndimage.convolve(own, np.ones((FILTER, FILTER)), mode="constant")
        votes += own / 2
        best[votes > most] = index
        most = np.maximum(most, votes)
    return np.where(classes >= 0, best, classes)

"""Spectra of training pixels as a linear classifier sees them.

A pixel is seen by its bands, or by its brightness-free spectrum (standard normal
variate, SNV), and either is averaged over a square around it. Brightness goes first:
the mean of brightness-free spectra costs a network next to nothing, and tells as much
as the brightness-free mean.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hsi_train import changes
from hsi_train.data.cutting import cut_cube
from hsi_train.data.labelled_scene import LabelledScene, on_ground, places_of
from hsi_train.data.roles import Role
from hsi_train.layers import LINEAR_SIDES, BrightnessFree

HALO = LINEAR_SIDES[-1] // 2
MAX_PIXELS = 20_000  # more tell a linear classifier nothing new
MIN_OF_CLASS = 200  # a class keeps up to this many of its pixels


class View(NamedTuple):
    """How a spectrum is taken.

    Attributes:
        side: Side of the averaged square, pixels.
        brightness_free: True if every spectrum has the mean 0 and the deviation 1.
    """

    side: int
    brightness_free: bool


VIEWS = tuple(
    View(side, brightness_free)
    for brightness_free in (False, True)
    for side in LINEAR_SIDES
)


class TrainingPixels(NamedTuple):
    """Training pixels as every view shows them.

    Attributes:
        spectra: Spectra of each view, shape ``(pixel, band)``.
        classes: Class indices, shape ``(pixel,)``.
        places: Scene, row and column of the whole scene, shape ``(pixel, 3)``.
        counts: Training pixels of each class, those left out included, ``(class,)``.
        changes: Covariance that changes of sensor and sky give to the spectra of each
            view, shape ``(band, band)``; None where they need not be borne.
    """

    spectra: dict[View, NDArray[np.float32]]
    classes: NDArray[np.intp]
    places: NDArray[np.intp]
    counts: NDArray[np.intp]
    changes: dict[View, NDArray[np.float64]] | None = None

    def changes_of(self, view: View) -> NDArray[np.float64] | None:
        """Return the covariance of changes that a discriminant of a view bears."""
        return None if self.changes is None else self.changes[view]

    def seen(self, view: View) -> NDArray[np.float64]:
        """Return the spectra of a view, shape ``(pixel, band)``."""
        return self.spectra[view].astype(np.float64)


def training_pixels(
    scenes: list[LabelledScene],
    fill: NDArray[np.float64],
    class_count: int,
    receptive_field: int = LINEAR_SIDES[-1],
) -> TrainingPixels:
    """Collect the spectra of the training pixels, at most `MAX_PIXELS` of them.

    Missing pixels are filled and the scene is mirrored at its edge, as a network sees
    both.

    Args:
        scenes: Labelled scenes.
        fill: What stands for a missing value, shape ``(band,)``.
        class_count: Number of classes.
        receptive_field: Side of the largest square that may be averaged, pixels.
    """
    views = [view for view in VIEWS if view.side <= receptive_field]
    places, classes = places_of(scenes, Role.TRAIN)
    counts = np.bincount(classes, minlength=class_count)
    kept = thinned(classes, MAX_PIXELS, MIN_OF_CLASS)
    places, classes = places[kept], classes[kept]
    spectra = {view: np.empty((len(places), len(fill)), np.float32) for view in views}
    free = BrightnessFree(torch.zeros(len(fill)))
    for number, window in enumerate(windows_at(scenes, places, fill)):
        shape = free(torch.from_numpy(window)[None])[0].numpy()
        for view in views:
            source = shape if view.brightness_free else window
            spectra[view][number] = _mean_of_square(source, view.side)
    return TrainingPixels(spectra, classes, on_ground(scenes, places), counts)


def averaged(
    scenes: list[LabelledScene],
    places: NDArray[np.intp],
    fill: NDArray[np.float64],
    side: int,
) -> NDArray[np.float64]:
    """Average spectra over the square around each place.

    Args:
        scenes: Labelled scenes.
        places: Scene, row and column, shape ``(pixel, 3)``.
        fill: What stands for a missing value, shape ``(band,)``.
        side: Side of the square, pixels; at most the largest of `VIEWS`.

    Returns:
        Stored units, shape ``(pixel, band)``.
    """
    spectra = np.empty((len(places), len(fill)))
    for number, window in enumerate(windows_at(scenes, places, fill)):
        spectra[number] = _mean_of_square(window, side)
    return spectra


def _mean_of_square(window: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Average the middle of a window ``(band, 2 HALO + 1, 2 HALO + 1)``."""
    inner = slice(HALO - side // 2, HALO + side // 2 + 1)
    mean: NDArray[np.float32] = window[:, inner, inner].mean(axis=(1, 2))
    return mean


def bearing_changes(
    pixels: TrainingPixels, level: float, strength: float
) -> TrainingPixels:
    """Ask for discriminants that bear changes of sensor and sky.

    Args:
        pixels: Training pixels.
        level: Mean value of the scene, stored units.
        strength: Share of the standard deviations of `hsi_train.changes`.
    """
    covariances = {
        view: changes.covariance(
            pixels.seen(View(view.side, False)), level, view.brightness_free, strength
        )
        for view in pixels.spectra
    }
    return pixels._replace(changes=covariances)


def thinned(
    classes: NDArray[np.intp], most: int, least_of_class: int
) -> NDArray[np.intp]:
    """Choose pixels evenly along each class's list; all, where they are few.

    Args:
        classes: Class indices, shape ``(pixel,)``.
        most: Pixels of all classes, but for those that rare classes keep.
        least_of_class: Up to so many pixels of a class are kept.

    Returns:
        Indices of the pixels, in order.
    """
    share = min(1.0, most / max(len(classes), 1))
    kept = [np.empty(0, dtype=np.intp)]
    for index in np.unique(classes):
        own = np.flatnonzero(classes == index)
        chosen = max(round(share * len(own)), min(len(own), least_of_class))
        kept.append(own[np.arange(chosen) * len(own) // max(chosen, 1)])
    return np.sort(np.concatenate(kept))


def windows_at(
    scenes: list[LabelledScene], places: NDArray[np.intp], fill: NDArray[np.float64]
) -> Iterator[NDArray[np.float32]]:
    """Cut the window that the largest square needs around each place.

    Args:
        scenes: Labelled scenes.
        places: Scene, row and column, shape ``(pixel, 3)``.
        fill: What stands for a missing value, shape ``(band,)``.

    Yields:
        Shape ``(band, 2 HALO + 1, 2 HALO + 1)``.
    """
    filler = fill.astype(np.float32)[:, None, None]
    for index, row, col in places.tolist():
        rows, cols = (row - HALO, row + HALO + 1), (col - HALO, col + HALO + 1)
        scene = scenes[index]
        yield cut_cube(scene, scene.valid, filler, rows, cols)

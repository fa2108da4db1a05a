"""Fits, on training pixels, what `hsi-run` measures the novelty of spectra by.

Spectra, averaged over a square, are projected on their principal components and
whitened by the covariance within the classes. Novelty is the distance to the nearest
class, in units of its scatter: see `hsi_runtime.matching.novelty`. On simulated scenes
that no table shows, this found left-out materials better than the nearest spectrum did.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from hsi_runtime.matching.adapting import Moments
from hsi_runtime.matching.novelty import Novelty
from hsi_runtime.model.array import Array
from hsi_runtime.model.training import KnownClasses, Training
from hsi_train.data.labelled_scene import LabelledData, on_ground, places_of
from hsi_train.data.roles import Role
from hsi_train.fitting.statistics import usable_deviation
from hsi_train.linear.folds import FOLDS, blocked_folds
from hsi_train.linear.spectra import MAX_PIXELS, MIN_OF_CLASS, averaged, thinned

COMPONENTS = 64  # principal components; more tell nothing new
FEWEST = 20  # left-out pixels that have quantiles
STEPS = 200  # of the quantiles: as many as the layer stores
ROWS_AT_ONCE = 64  # of a scene, while its pixels are summed up
USUAL = 10  # pixels that scatter as all do, beside those of a class
LEAST = 1e-9  # variance, as a share of the largest: less is rounding

Floats = NDArray[np.float64]


def describe_training(data: LabelledData, side: int, fill: Floats) -> Training:
    """Collect what a model's document says of its training.

    Args:
        data: Labelled scenes with the roles of their pixels.
        side: Side of the square over which spectra are averaged, px.
        fill: What stands for a missing value, shape ``(band,)``.
    """
    mean, deviation = moments(data)
    places, classes = places_of(data.scenes, Role.TRAIN)
    kept = thinned(classes, MAX_PIXELS, MIN_OF_CLASS)
    places, classes = places[kept], classes[kept]
    spectra = averaged(data.scenes, places, fill, side)
    return Training(
        mean=mean.tolist(),
        deviation=deviation.tolist(),
        known=known_classes(spectra, classes, on_ground(data.scenes, places), side),
    )


def moments(data: LabelledData) -> tuple[Floats, Floats]:
    """Measure all pixels with data of the training scenes; no label is used.

    Returns:
        Mean and standard deviation, stored units, both ``(band,)``.
    """
    measured = Moments()
    for scene in data.scenes:
        for top in range(0, len(scene.valid), ROWS_AT_ONCE):
            rows = slice(top, top + ROWS_AT_ONCE)
            measured.add(scene.cube[:, rows][:, scene.valid[rows]])
    return measured.result()


def known_classes(
    spectra: Floats, classes: NDArray[np.intp], places: NDArray[np.intp], side: int
) -> KnownClasses | None:
    """Describe the classes to measure spectra by; left-out pixels tell the scale.

    Args:
        spectra: Of training pixels, averaged, stored units, shape ``(pixel, band)``.
        classes: Their class indices, shape ``(pixel,)``.
        places: Scene, row and column, shape ``(pixel, 3)``.
        side: Side of the square over which they were averaged, px.

    Returns:
        None where too few pixels can be left out.
    """
    folds = blocked_folds(places, classes)
    directions = _directions(spectra)
    distances = []
    for fold in range(FOLDS):
        held = folds == fold
        if not held.any():
            continue
        others = _fit(spectra[~held], classes[~held], side, directions)
        if others is not None:
            distances.append(Novelty.of(others).distance(spectra[held]))
    measured = np.concatenate(distances) if distances else np.empty(0)
    fitted = _fit(spectra, classes, side, directions)
    if fitted is None or len(measured) < FEWEST:
        return None
    quantiles = np.quantile(measured.astype(np.float64), np.linspace(0, 1, STEPS + 1))
    return msgspec.structs.replace(fitted, distances=quantiles.tolist())


def _directions(spectra: Floats) -> Floats:
    """Return principal components of standardised spectra, for spectra as stored.

    They are of all pixels: without some of them, fewer pixels than bands would span
    other, fewer dimensions, in which distances are shorter.

    Returns:
        Shape ``(band, component)``.
    """
    mean = spectra.mean(axis=0)
    unit = usable_deviation(mean, spectra.std(axis=0))
    scaled = (spectra - mean) / unit
    scatter, directions = np.linalg.eigh(scaled.T @ scaled)
    used = scatter[::-1][:COMPONENTS] > LEAST * scatter[-1]
    return directions[:, ::-1][:, :COMPONENTS][:, used] / unit[:, None]


def _fit(
    spectra: Floats, classes: NDArray[np.intp], side: int, directions: Floats
) -> KnownClasses | None:
    """Project and whiten spectra; None where they do not scatter within classes."""
    if not directions.size:
        return None
    components = (spectra - spectra.mean(axis=0)) @ directions
    present, number = np.unique(classes, return_inverse=True)
    means = np.array([components[classes == k].mean(axis=0) for k in present])
    within = components - means[number]
    covariance, _ = ledoit_wolf(within, assume_centered=True)
    variance, axes = np.linalg.eigh(np.atleast_2d(covariance))
    if variance[-1] <= 0:
        return None
    whitening = axes / np.sqrt(np.maximum(variance, LEAST * variance[-1]))
    projection = (directions @ whitening).T
    projected = spectra @ projection.T
    centres = np.array([projected[classes == k].mean(axis=0) for k in present])
    # Few pixels tell little of their class: they count beside some that scatter as all
    # do. And pixels lie nearer to their own mean than others of the class will.
    squares = np.bincount(number, np.square(projected - centres[number]).sum(axis=1))
    pixels = np.bincount(number)
    of_all = squares.sum() / (len(number) - len(pixels))
    variances = (squares + USUAL * of_all) / (pixels - 1 + USUAL)
    scatter = np.sqrt((1 + 1 / pixels) * variances)
    return KnownClasses(
        side=side,
        projection=Array.pack(projection.astype(np.float32)),
        centres=Array.pack(centres.astype(np.float32)),
        scatter=scatter.tolist(),
        distances=[0.0, 0.0],
    )

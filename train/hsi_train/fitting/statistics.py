"""Statistics of the training pixels, and of no others; values that would spoil them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.matching.missing import LEAST_BANDS, MANY_ZEROS, fill_spectra
from hsi_runtime.scenes.scene import Cube
from hsi_train.data.labelled_scene import (
    UNLABELLED,
    LabelledData,
    LabelledScene,
)
from hsi_train.data.roles import Role
from hsi_train.method import Problem

ROWS_AT_ONCE = 64  # of a scene, while spectra are summed up
TOP_PERCENTILE = 99.9  # of all training values: a scale that a few spikes do not move
SUSPECT = 1e3  # over the usual value: -9999 among reflectances, but no bright pixel
FACTOR = 1e6  # over the usual value; float32 sums up to 1.7e7 values of one size
UNITS_APART = 50.0  # usual values of two scenes: percent to reflectance is 100
MOST = 1e30  # means of squares of pixels overflow in float32 some way above
SAMPLE = 10_000  # pixels of which the usual value is measured


def mean_and_deviation(
    spectra: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure spectra ``(band, pixel)``; a band that never varies has deviation one."""
    mean, std = spectra.mean(axis=1), spectra.std(axis=1)
    return mean, usable_deviation(mean, std)


def usable_deviation(
    mean: NDArray[np.float64], std: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Replace the standard deviation of bands that never vary by one."""
    # Less than float32 resolves is rounding, not variation.
    varies = std > np.finfo(np.float32).eps * np.abs(mean)
    return np.where(varies, std, 1.0)


def describe_problem(data: LabelledData) -> Problem:
    """Measure what a method must know of the training pixels, and of no others.

    Some rows at a time: a copy of all spectra in double precision would be large.
    """
    shape = len(data.classes), len(data.bands)
    pixels = data.pixels_by_role()[:, Role.TRAIN]
    total, squares, totals = np.zeros(shape[1]), np.zeros(shape[1]), np.zeros(shape)
    for spectra, classes in _training_spectra(data.scenes):
        total = _added(total, spectra)
        for k in np.unique(classes):
            totals[k] = _added(totals[k], spectra[classes == k])
    mean = total / pixels.sum()
    for spectra, _ in _training_spectra(data.scenes):
        squares = _added(squares, (spectra - mean) ** 2)
    std = np.sqrt(squares / pixels.sum())
    return Problem(
        band_mean=torch.from_numpy(mean),
        band_std=torch.from_numpy(usable_deviation(mean, std)),
        class_counts=torch.from_numpy(pixels),
        class_means=torch.from_numpy(totals / pixels[:, None]),
        top=torch.tensor(_percentile(data.scenes, TOP_PERCENTILE), dtype=torch.float64),
    )


def _training_spectra(
    scenes: list[LabelledScene],
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int16]]]:
    """Yield spectra ``(pixel, band)`` and classes ``(pixel,)``, some rows at a time."""
    for scene in scenes:
        for top in range(0, len(scene.roles), ROWS_AT_ONCE):
            rows = slice(top, top + ROWS_AT_ONCE)
            train = scene.roles[rows] == Role.TRAIN
            if train.any():
                spectra = scene.cube[:, rows][:, train].T.astype(np.float64)
                yield spectra, scene.classes[rows][train]


def _added(total: NDArray[np.float64], more: NDArray[np.float64]) -> Any:
    """Add ``(pixel, band)`` pixel by pixel: the sum is that of all pixels at once."""
    return np.add.reduce(np.vstack([total, more]), axis=0)


def _percentile(scenes: list[LabelledScene], percent: float) -> float:
    """Interpolate a percentile of all training values, which stay in their own type."""
    values = np.concatenate([s.cube[:, s.roles == Role.TRAIN].ravel() for s in scenes])
    place = (len(values) - 1) * (percent / 100)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    values.partition((low, high))
    below, above = float(values[low]), float(values[high])
    share, step = place - low, above - below
    # From the nearer end, as NumPy interpolates.
    return above - step * (1 - share) if share >= 0.5 else below + step * share


def check_extremes(name: str, cube: Cube, valid: NDArray[np.bool_]) -> list[str]:
    """Refuse a scene with a value a million times as large as the usual ones.

    Args:
        name: File name of the scene.
        cube: Stored units, shape ``(band, row, col)``.
        valid: Pixels that are used, shape ``(row, col)``.

    Returns:
        A warning about values that are a thousand times as large, or about whole
        spectra of a fill value, if there are some.

    Raises:
        SceneError: There is one, or one too large for single precision.
    """
    if described := describe_extremes(name, cube, valid, FACTOR):
        raise SceneError(
            f"{described} Declare them as nodata (gdal_edit.py -a_nodata), or correct "
            "the scene."
        )
    largest = max(_largest(band, valid) for band in cube)
    if largest > MOST:
        raise SceneError(
            f"{name} holds values such as {largest:g}, too large to compute with. "
            "Declare them as nodata (gdal_edit.py -a_nodata), or divide the scene."
        )
    suspect = describe_extremes(name, cube, valid, SUSPECT)
    if not suspect:
        return _warnings_of_fills(name, cube, valid)
    return [f"{suspect} If they stand for missing ones, declare them as nodata."]


def _largest(band: NDArray[Any], valid: NDArray[np.bool_]) -> float:
    return float(np.abs(band[valid].astype(np.float64)).max(initial=0.0))


def _warnings_of_fills(name: str, cube: Cube, valid: NDArray[np.bool_]) -> list[str]:
    """Name a fill value that some spectra consist of, and that nothing declares."""
    fills = fill_spectra(cube) & valid
    if not fills.any():
        return []
    return [
        f"{name} holds {int(fills.sum())} pixel(s) whose whole spectrum is "
        f"{float(cube[0][fills][0]):g}, a fill value that nothing declares. hsi-run "
        "takes such pixels as nodata: declare it as nodata (gdal_edit.py -a_nodata)."
    ]


def check_differ(data: LabelledData) -> None:
    """Refuse scenes of which nothing can be learned.

    Raises:
        SceneError: All labelled spectra are the same.
    """
    labelled = [_labelled(scene) for scene in data.scenes]
    values = [spectra for spectra in labelled if spectra.size]
    first = values[0][:, :1]
    if all((spectra == first).all() for spectra in values):
        raise SceneError(
            "All labelled pixels have the same values, by which no class can be told. "
            "Check that the scene holds data, and not a mask or an empty band."
        )


def _labelled(scene: LabelledScene) -> NDArray[Any]:
    """Return the spectra of the labelled pixels, shape ``(band, pixel)``."""
    return scene.cube[:, scene.classes != UNLABELLED]


def dark_labels(data: LabelledData) -> list[str]:
    """Warn of labelled spectra that are 0 in all bands, as outside a flight line."""
    messages = []
    for parts in data.by_file():
        labelled = [_labelled(scene) for scene in parts]
        dark = sum(int((~spectra.any(axis=0)).sum()) for spectra in labelled)
        total = sum(spectra.shape[1] for spectra in labelled)
        share, number = MANY_ZEROS
        if len(labelled[0]) >= LEAST_BANDS and dark >= max(share * total, number):
            messages.append(
                f"{dark} of {total} labelled pixels of {parts[0].info.path.name} are 0 "
                "in all bands, and are learned like any other. If they lie outside the "
                "scene, declare 0 as nodata (gdal_edit.py -a_nodata 0)."
            )
    return messages


def units_apart(data: LabelledData) -> list[str]:
    """Warn of scenes whose values are so far apart that their units seem to differ."""
    sizes = {}
    for parts in data.by_file():
        values = [_labelled(scene).ravel() for scene in parts]
        size = float(np.median(np.abs(np.concatenate(values).astype(np.float64))))
        if size > 0:
            sizes[parts[0].info.path.name] = size
    low, high = (f(sizes, key=sizes.__getitem__, default="") for f in (min, max))
    if not sizes or sizes[high] < UNITS_APART * sizes[low]:
        return []
    return [
        f"Labelled values of {low} are usually {sizes[low]:.3g}, those of {high} "
        f"{sizes[high]:.3g}: their units seem to differ. Bring all scenes to one unit, "
        "or leave one out."
    ]


def describe_extremes(
    name: str, cube: Cube, valid: NDArray[np.bool_], factor: float
) -> str:
    """Name values that are too large, in the first band that has some; else nothing."""
    usual = _usual_sizes(cube, valid)
    for number, (band, size) in enumerate(zip(cube, usual, strict=True)):
        values = band[valid].astype(np.float64)
        wild = np.abs(values) > factor * size
        if size > 0 and wild.any():
            value = values[wild][np.abs(values[wild]).argmax()]
            return (
                f"{name} holds {int(wild.sum())} pixel(s) with values such as "
                f"{value:g} in used band {number + 1}, where {size:g} is usual."
            )
    return ""


def extreme_pixels(cube: Cube, valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return True for pixels that `check_extremes` would refuse, ``(row, col)``."""
    usual = _usual_sizes(cube, valid)
    wild = np.zeros_like(valid)
    for band, size in zip(cube, usual, strict=True):
        if size > 0:
            wild |= valid & (np.abs(band.astype(np.float64)) > FACTOR * size)
    return wild


def _usual_sizes(cube: Cube, valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Measure the usual size of a band's values, ``(band,)``; 0 where none is known.

    It is the median of its values without sign, or that of all bands where it is
    larger; zeros do not count where most values are zero, as in a border without data.
    """
    # Types of two bytes have too few bits to hold values of very different size.
    if cube.dtype.itemsize < 4 or not valid.any():
        return np.zeros(len(cube))
    pixels = np.flatnonzero(valid)[:: max(1, int(valid.sum()) // SAMPLE)]
    sizes = np.abs([band.ravel()[pixels].astype(float) for band in cube])
    medians = np.median(sizes, axis=1)
    overall = np.median(medians)
    if not overall and sizes.any():
        overall = np.median(sizes[sizes > 0])
    usual: NDArray[np.float64] = np.maximum(medians, overall)
    return usual

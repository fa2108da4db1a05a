"""Tells how far spectra are from those of training, which no class probability tells.

A network is as sure of a material that it has never seen as of any other. A spectrum,
averaged over a small square, is compared with the nearest class of training, in
coordinates in which the classes scatter alike in all directions (Mahalanobis distance),
and in units of the scatter of that class. Its novelty is the share of training pixels
that were nearer when they were left out: 0.99 is as far as one in a hundred of them.
"""

from dataclasses import dataclass
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.model.training import KnownClasses, Training

UNLIKE = 0.99  # novelty from which a spectrum is unlike those of training
WARNED = 0.2  # share of a scene's spectra; 0.01 is that of the training scene

ROWS_AT_ONCE = 64  # of a window, which bounds the memory in double precision

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Novelty:
    """Measures novelty by the classes that a model's document holds.

    In double precision: a product of matrices rounds by their shapes, and in single
    precision a map would depend on the tiles.

    Attributes:
        side: Side of the square over which a spectrum is averaged, px.
        projection: Shape ``(component, band)``.
        origin: Mean of the centres, ``(component,)``.
        centres: Less the origin, shape ``(class, component)``.
        scatter: Of each class, ``(class,)``.
        distances: Quantiles of the distances of left-out training pixels.
    """

    side: int
    projection: Doubles
    origin: Doubles
    centres: Doubles
    scatter: Doubles
    distances: Doubles

    @classmethod
    def of_model(cls, document: ModelDocument) -> Self | None:
        """Unpack what a model's document holds; None if it knows no classes.

        Raises:
            ModelFileError: It is damaged.
        """
        training = document.training
        if training is None or training.known is None:
            return None
        return cls.of(training.known)

    @classmethod
    def of(cls, known: KnownClasses) -> Self:
        """Unpack projection and centres.

        Raises:
            ModelFileError: They are damaged.
        """
        centres = known.centres.unpack().astype(np.float64)
        origin = centres.mean(axis=0)
        return cls(
            side=known.side,
            projection=known.projection.unpack().astype(np.float64),
            origin=origin,
            centres=centres - origin,
            scatter=np.array(known.scatter),
            distances=np.array(known.distances),
        )

    @np.errstate(over="ignore", invalid="ignore")
    def map(self, cube: Floats, halo: int) -> Floats:
        """Measure every pixel of a window.

        Args:
            cube: Model's stored units, shape ``(band, row + 2 halo, col + 2 halo)``.
            halo: Context on each side, px; at least half the square.

        Returns:
            Shape ``(row, col)``, 0 to 1.
        """
        spare = halo - self.side // 2
        rows, cols = cube.shape[1:]
        cube = cube[:, spare : rows - spare, spare : cols - spare]
        reach = self.side - 1
        rows, cols = (size - reach for size in cube.shape[1:])
        novelty = np.empty((rows, cols), np.float32)
        for top in range(0, rows, ROWS_AT_ONCE):
            part = cube[:, top : top + ROWS_AT_ONCE + reach].astype(np.float64)
            # The mean of projections is the projection of the mean, of fewer numbers.
            projected = np.tensordot(self.projection, part, axes=1)
            averaged = _mean_along(_mean_along(projected, 1, self.side), 2, self.side)
            distances = self._distance(averaged.reshape(len(averaged), -1).T)
            novelty[top : top + ROWS_AT_ONCE] = self._ranked(distances).reshape(
                -1, cols
            )
        return novelty

    def of_spectra(self, spectra: NDArray[Any]) -> Floats:
        """Measure the novelty of averaged spectra.

        Args:
            spectra: Stored units, shape ``(pixel, band)``.

        Returns:
            Shape ``(pixel,)``.
        """
        return self._ranked(self.distance(spectra))

    @np.errstate(over="ignore", invalid="ignore")
    def distance(self, spectra: NDArray[Any]) -> Doubles:
        """Measure the distance of averaged spectra to the nearest class.

        Args:
            spectra: Stored units, shape ``(pixel, band)``.

        Returns:
            In units of the scatter of that class, shape ``(pixel,)``.
        """
        return self._distance(spectra.astype(np.float64) @ self.projection.T)

    def _ranked(self, distances: Doubles) -> Floats:
        steps = np.linspace(0, 1, len(self.distances))
        return np.interp(distances, self.distances, steps).astype(np.float32)

    def _distance(self, projected: Doubles) -> Doubles:
        part = projected - self.origin
        products = np.square(self.centres).sum(axis=1) - 2 * part @ self.centres.T
        squares = products + np.square(part).sum(axis=1, keepdims=True)
        distances = np.sqrt(np.maximum(squares, 0)) / self.scatter
        # Values that are infinite are far from everything: they cost no pixel its
        # class. From (pixel, class).
        nearest: Doubles = np.nan_to_num(distances, nan=np.inf, posinf=np.inf).min(
            axis=1
        )
        return nearest


class Sums(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a comparison of some pixels leaves, to be added up.

    Attributes:
        pixels: Pixels that were compared.
        total: Sum of their spectra, model's stored units, ``(band,)``.
        measured: Pixels whose novelty the document can tell.
        unlike: Those of them whose novelty is at least `UNLIKE`.
    """

    pixels: int
    total: list[float]
    measured: int
    unlike: int


class Comparison:
    """Compares a scene with the training scenes while it is classified.

    Args:
        training: What training saw.
    """

    def __init__(self, training: Training) -> None:
        self._training = training
        self._total = np.zeros(len(training.mean))
        self._pixels = self._measured = self._unlike = 0

    def add(self, spectra: Floats, novelty: Floats | None) -> None:
        """Add some pixels.

        Args:
            spectra: Model's stored units, shape ``(pixel, band)``.
            novelty: Their novelty, ``(pixel,)``, where the document can tell it.
        """
        self._pixels += len(spectra)
        self._total += spectra.sum(axis=0, dtype=np.float64)
        if novelty is not None:
            self._measured += len(novelty)
            self._unlike += int((novelty >= UNLIKE).sum())

    def sums(self) -> Sums:
        """Return what `include` adds to another comparison."""
        return Sums(
            pixels=self._pixels,
            total=self._total.tolist(),
            measured=self._measured,
            unlike=self._unlike,
        )

    def include(self, sums: Sums) -> None:
        """Add the pixels of another comparison; those of other bands are no such."""
        if len(sums.total) != len(self._total):
            return
        self._pixels += sums.pixels
        self._total += np.array(sums.total)
        self._measured += sums.measured
        self._unlike += sums.unlike

    def report(self) -> dict[str, Any] | None:
        """Tell how far the scene is from training; None if no pixel was compared.

        ``shift`` is the difference of the mean spectra in standard deviations of the
        training scene: the median over the bands, and the largest. ``unlike`` is the
        share of the spectra whose novelty is at least `UNLIKE`, or None.
        """
        if not self._pixels:
            return None
        varies = self._training.varies
        mean = self._total / self._pixels
        shift = np.abs(mean - np.array(self._training.mean))[varies]
        shift /= np.array(self._training.deviation)[varies]
        unlike = self._unlike / self._measured if self._measured else None
        return {
            "pixels": self._pixels,
            "median_shift": float(np.median(shift)) if len(shift) else 0.0,
            "largest_shift": float(shift.max(initial=0)),
            "unlike": unlike,
        }


def describe(report: dict[str, Any]) -> tuple[str, bool]:
    """Say in a sentence how far a scene is from training, and whether to worry."""
    shift, unlike = report["median_shift"], report["unlike"]
    text = f"The mean spectrum is {shift:.1f} deviations from that of training"
    if unlike is None:
        return f"{text}.", False
    text += f"; {unlike:.0%} of the spectra are unlike those of training."
    if unlike < WARNED:
        return text, False
    return f"{text} Expect errors there: --novelty maps them.", True


def _mean_along(values: Doubles, axis: int, side: int) -> Doubles:
    """Average over a sliding span, of which the result has ``side - 1`` fewer."""
    lines = np.moveaxis(values, axis, 0)
    length = len(lines) - side + 1
    total = lines[:length].copy()
    for first in range(1, side):
        total += lines[first : first + length]
    total /= side
    return np.moveaxis(total, 0, axis)

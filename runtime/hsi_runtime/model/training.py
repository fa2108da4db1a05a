"""What a model's document says of its training, to tell how far a scene is from it."""

import math
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from hsi_runtime.model.array import Array, Part

NOVELTY = "novelty"  # an output that is computed beside the graph, from `KnownClasses`
MOST_QUANTILES = 10_001


class KnownClasses(Part, frozen=True):
    """Classes of training as `hsi_runtime.matching.novelty` measures spectra by them.

    Attributes:
        side: Side of the square over which a spectrum is averaged, px; odd.
        projection: From stored units to coordinates in which the classes scatter alike
            in all directions, shape ``(component, band)``.
        centres: Mean of each class in these coordinates, ``(class, component)``.
        scatter: How far pixels of each class lie from its centre, in the mean.
        distances: Of left-out training pixels to the nearest centre, over its scatter:
            quantiles, in even steps from 0 to 1.
    """

    side: Annotated[int, Meta(ge=1)]
    projection: Array
    centres: Array
    scatter: list[Annotated[float, Meta(gt=0)]]
    distances: Annotated[list[float], Meta(min_length=2, max_length=MOST_QUANTILES)]

    def __post_init__(self) -> None:
        """Refuse quantiles that are none."""
        pairs = zip(self.distances, self.distances[1:], strict=False)
        if self.side % 2 == 0 or not all(0 <= a <= b < math.inf for a, b in pairs):
            raise ValueError("training.known has an even side, or no quantiles")


class Training(Part, frozen=True):
    """What training saw, to tell how far a scene is from it; lists run over the bands.

    Attributes:
        mean: Of all pixels around the labels of the training scenes: in the smallest
            rectangle that holds them, or in several. Stored units.
        deviation: Standard deviation of the same.
        known: Classes to measure spectra by; null where training pixels were too few to
            leave some out.
    """

    mean: list[float]
    deviation: list[Annotated[float, Meta(ge=0)]]
    known: KnownClasses | None

    @property
    def varies(self) -> NDArray[np.bool_]:
        """True for bands that vary by more than rounding, shape ``(band,)``."""
        return vary(np.array(self.mean), np.array(self.deviation))

    def check(self, bands: int, receptive_field: int) -> None:
        """Refuse what contradicts the number of bands or the receptive field, px."""
        for name, values in (("mean", self.mean), ("deviation", self.deviation)):
            if len(values) != bands:
                raise ValueError(
                    f"training.{name} has {len(values)} values for {bands} bands"
                )
        if self.known is None:
            return
        projection, centres = self.known.projection.shape, self.known.centres.shape
        if (
            len(projection) != 2
            or projection[1] != bands
            or centres != [len(self.known.scatter), projection[0]]
            or self.known.side > receptive_field
        ):
            raise ValueError(
                f"training.known has a projection of {projection}, centres of "
                f"{centres} and squares of {self.known.side} px"
            )


def vary(
    mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return True for bands that vary by more than rounding, shape ``(band,)``."""
    varying: NDArray[np.bool_] = deviation > np.finfo(np.float32).eps * np.abs(mean)
    return varying

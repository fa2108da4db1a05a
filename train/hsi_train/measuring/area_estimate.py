"""Areas and accuracies of a whole map, estimated from a random sample of test pixels.

Olofsson, Foody, Herold, Stehman, Woodcock, Wulder, Good practices for estimating area
and assessing accuracy of land change, Remote Sensing of Environment 148, 2014,
DOI 10.1016/j.rse.2014.02.015, eqs. (1) to (11). Counting the pixels of a map repeats
its mistakes; a random sample tells how large they are. The mapped classes are the
strata: the sample is either drawn at random within each of them, or from the whole
scene and stratified afterwards. Labels that somebody chose are no such sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.model.model_file import ClassEntry
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.measuring.metrics import Confusion

Z_95 = 1.96  # half width of a 95 % interval in standard errors
MIN_SAMPLES = 2  # of a mapped class; one pixel has no variance


class Interval(NamedTuple):
    """An estimate and its 95 % confidence interval, shares of one."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class AreaEstimate:
    """Estimates from a sample of a map; lists run over the classes.

    Attributes:
        overall_accuracy: Share of the area that is mapped right.
        area_shares: Share of each class on the ground.
        users_accuracy: Share of a mapped class that is right; None where not mapped.
        producers_accuracy: Share of a class that is mapped as such; None where the
            sample has none of it.
    """

    overall_accuracy: Interval
    area_shares: list[Interval]
    users_accuracy: list[Interval | None]
    producers_accuracy: list[Interval | None]


def estimate(matrix: Confusion, mapped: NDArray[np.int64]) -> AreaEstimate:
    """Estimate areas and accuracies.

    Args:
        matrix: Sampled pixels, shape ``(true class, mapped class)``.
        mapped: Pixels of the map, shape ``(class,)``.

    Raises:
        ValueError: A mapped class has fewer than `MIN_SAMPLES` sampled pixels; see
            `unsampled`.
    """
    if unsampled(matrix, mapped):
        raise ValueError("a mapped class has too few sampled pixels")
    counts = matrix.T.astype(np.float64)  # n_ij: (map class i, true class j)
    drawn = counts.sum(axis=1)  # n_i.
    strata = mapped > 0
    weights = mapped / mapped.sum()  # W_i
    within = counts / np.maximum(drawn, 1)[:, None]  # n_ij / n_i.
    degrees = np.where(strata, drawn - 1, 1)
    spread = within * (1 - within) / degrees[:, None]  # variance of n_ij / n_i.

    shares = weights[:, None] * within  # p_ij, eq. (4)
    area = shares.sum(axis=0)  # p_.j, eq. (9)
    area_variance = (weights[:, None] ** 2 * spread).sum(axis=0)  # eq. (10)
    right, right_variance = np.diag(within), np.diag(spread)  # U_i, eqs. (2), (6)
    overall = np.trace(shares)  # eq. (1)
    overall_variance = (weights**2 * right_variance).sum()  # eq. (5)

    producers: list[Interval | None] = []
    for j, total in enumerate(area):
        if total == 0:
            producers.append(None)
            continue
        share = shares[j, j] / total  # P_j, eq. (3)
        others = np.arange(len(area)) != j
        # Eq. (7), with areas as shares: N cancels.
        own = (weights[j] * (1 - share)) ** 2 * right_variance[j]
        rest = share**2 * (weights[others] ** 2 * spread[others, j]).sum()
        producers.append(_interval(share, (own + rest) / total**2))
    return AreaEstimate(
        _interval(overall, overall_variance),
        [_interval(p, v) for p, v in zip(area, area_variance, strict=True)],
        [
            _interval(right[i], right_variance[i]) if strata[i] else None
            for i in range(len(area))
        ],
        producers,
    )


def unsampled(matrix: Confusion, mapped: NDArray[np.int64]) -> list[int]:
    """List the mapped classes, by index, that the sample says too little of."""
    drawn = matrix.sum(axis=0)
    return np.flatnonzero((mapped > 0) & (drawn < MIN_SAMPLES)).tolist()


def measure(
    matrix: Confusion, mapped: NDArray[np.int64], data: LabelledData
) -> tuple[dict[str, Any] | None, list[str]]:
    """Collect the table of `report`, or None and the message why it is missing."""
    lacking = [data.classes[k].name for k in unsampled(matrix, mapped)]
    if lacking:
        return None, [
            f"Areas are not estimated: fewer than {MIN_SAMPLES} test pixels are mapped "
            f"as {', '.join(lacking)}. Label more random pixels there."
        ]
    sides = {scene.info.resolution_m for scene in data.scenes}
    side = sides.pop() if len(sides) == 1 else None
    pixel_m2 = None if side is None else side**2
    return report(matrix, mapped, data.classes, pixel_m2), []


def report(
    matrix: Confusion,
    mapped: NDArray[np.int64],
    classes: Sequence[ClassEntry],
    pixel_m2: float | None,
) -> dict[str, Any]:
    """Collect the ``area_adjusted`` table of ``metrics.json``.

    Args:
        matrix: Sampled pixels, shape ``(true class, mapped class)``.
        mapped: Pixels of the map, shape ``(class,)``.
        classes: Classes in order of class index.
        pixel_m2: Area of a pixel, or None where it is not known.
    """
    estimated = estimate(matrix, mapped)
    total = None if pixel_m2 is None else float(mapped.sum()) * pixel_m2
    entries = [
        {
            "code": info.code,
            "name": info.name,
            "area_share": list(share),
            "area_m2": None if total is None else [v * total for v in share],
            "users_accuracy": None if users is None else list(users),
            "producers_accuracy": None if producers is None else list(producers),
        }
        for info, share, users, producers in zip(
            classes,
            estimated.area_shares,
            estimated.users_accuracy,
            estimated.producers_accuracy,
            strict=True,
        )
    ]
    return {"overall_accuracy": list(estimated.overall_accuracy), "classes": entries}


def _interval(value: float, variance: float) -> Interval:
    half = Z_95 * float(np.sqrt(variance))
    return Interval(float(value), max(float(value) - half, 0), min(value + half, 1))

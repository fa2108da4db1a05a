"""Accuracy from one confusion matrix; all shares lie in [0, 1]."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.model.model_file import ClassEntry

Confusion = NDArray[np.int64]  # (true class, predicted class)


class Scored(NamedTuple):
    """Class scores of pixels that have a label.

    Attributes:
        scores: Score of each class, before any softmax, shape ``(pixel, class)``.
        classes: Class index of the label, shape ``(pixel,)``.
        places: Scene, row and column of the whole scene, shape ``(pixel, 3)``; None
            where nobody asks.
    """

    scores: NDArray[np.float32]
    classes: NDArray[np.int16]
    places: NDArray[np.intp] | None = None

    def confusion(self) -> Confusion:
        """Count the pixels by label and best class."""
        best = self.scores.argmax(axis=1)
        return confusion(self.classes, best, self.scores.shape[1])


def confusion(
    true: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], classes: int
) -> Confusion:
    """Count pairs of class indices."""
    flat = true.astype(np.int64) * classes + predicted.astype(np.int64)
    return np.bincount(flat.ravel(), minlength=classes**2).reshape(classes, classes)


def overall_accuracy(matrix: Confusion) -> float:
    """Share of pixels that are right."""
    return float(np.trace(matrix) / matrix.sum())


def recalls(matrix: Confusion) -> list[float | None]:
    """Share of each class's pixels that are right; None for a class without pixels."""
    return [_ratio(matrix[k, k], matrix[k].sum()) for k in range(len(matrix))]


def average_accuracy(matrix: Confusion) -> float:
    """Mean recall over the classes that have pixels."""
    return float(np.mean([r for r in recalls(matrix) if r is not None]))


def largest_class_share(matrix: Confusion) -> float:
    """Overall accuracy of the best constant answer."""
    return float(matrix.sum(axis=1).max() / matrix.sum())


def kappa(matrix: Confusion) -> float:
    """Cohen's kappa: agreement beyond what the margins alone would give."""
    total = matrix.sum()
    expected = float((matrix.sum(axis=0) * matrix.sum(axis=1)).sum()) / float(total**2)
    if expected == 1:  # one class, all right: nothing beyond chance to measure
        return 0.0
    return (overall_accuracy(matrix) - expected) / (1 - expected)


def report(matrix: Confusion, classes: Sequence[ClassEntry]) -> dict[str, Any]:
    """Collect the accuracy keys of ``metrics.json``; None where nothing was tested."""
    per_class = []
    for k, (info, recall) in enumerate(zip(classes, recalls(matrix), strict=True)):
        precision = _ratio(matrix[k, k], matrix[:, k].sum())
        # Zero for a class that has pixels and is never predicted.
        both = matrix[k].sum() + matrix[:, k].sum()
        f1 = None if recall is None else _ratio(2 * matrix[k, k], both)
        per_class.append(
            {
                "code": info.code,
                "name": info.name,
                "recall": recall,
                "precision": precision,
                "f1": f1,
                "support": int(matrix[k].sum()),
            }
        )
    measured = bool(matrix.any())
    return {
        "overall_accuracy": overall_accuracy(matrix) if measured else None,
        "average_accuracy": average_accuracy(matrix) if measured else None,
        "kappa": kappa(matrix) if measured else None,
        "per_class": per_class,
        "confusion": matrix.tolist(),
    }


def _ratio(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None

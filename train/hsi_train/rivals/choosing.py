"""Chooses how a classical rival sees spectra, and its settings; no test pixel counts.

Validation pixels judge where they hold every class that trains. Otherwise blocked folds
of the training pixels do, the same that choose the linear discriminants.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_train.data.labelled_scene import LabelledData, on_ground, places_of
from hsi_train.data.roles import Role
from hsi_train.linear.folds import ALWAYS_TRAINED, FOLDS, blocked_folds
from hsi_train.linear.spectra import thinned
from hsi_train.method import Problem
from hsi_train.rivals.candidate import view_text
from hsi_train.rivals.views import FILTER, RAW, VIEWS, View, classify, spectra_at

MOST = 1_500  # pixels that choose: those that train, and those that judge
LEAST_OF_CLASS = 20
FINALISTS = 2  # views for which all settings are tried
SATURATED = 0.98  # accuracy from which folds tell nothing: fewer train then
UNCHECKED = View(RAW, 3)  # where no pixel can judge

Settings = dict[str, float]
Mask = NDArray[np.bool_]  # (pixel,)


@dataclass(frozen=True)
class Family:
    """A kind of classifier.

    Attributes:
        name: Short name, as ``metrics.json`` has it.
        make: Build an unfitted classifier of scikit-learn from settings, for a number
            of bands.
        grid: Settings to choose from; the first compare the views.
        final: Settings of the last fit in place of those that are quick.
    """

    name: str
    make: Callable[[Settings, int], Any]
    grid: Sequence[Settings]
    final: Settings = field(default_factory=dict)


class Chosen(NamedTuple):
    """How a classifier is best used.

    Attributes:
        view: How it sees spectra.
        settings: Its settings.
        filtered: True if the majority of the pixels around decides.
    """

    view: View
    settings: Settings
    filtered: bool

    def __str__(self) -> str:
        parts = [view_text(*self.view)]
        parts += [f"{name} {value:g}" for name, value in self.settings.items()]
        if self.filtered:
            parts.append(f"majority of {FILTER} x {FILTER} px")
        return ", ".join(parts)


class Judges:
    """Pixels that choose: each split of them trains with one part, judges by another.

    At most `MOST` pixels train or judge, so that a choice takes seconds, not hours.
    """

    def __init__(self, data: LabelledData, problem: Problem) -> None:
        self._data, self._fill = data, problem.fill
        places, classes = places_of(data.scenes, Role.TRAIN)
        kept = thinned(classes, MOST, LEAST_OF_CLASS)
        places, classes = places[kept], classes[kept]
        validation, labels = places_of(data.scenes, Role.VALIDATION)
        kept = thinned(labels, MOST, LEAST_OF_CLASS)
        folds = np.full(len(classes), ALWAYS_TRAINED)
        if set(classes) <= set(labels):
            places = np.concatenate([places, validation[kept]])
            classes = np.concatenate([classes, labels[kept]])
            folds = np.concatenate([folds, np.zeros(len(kept), dtype=folds.dtype)])
            present = [0]
        else:
            folds = blocked_folds(on_ground(data.scenes, places), classes)
            present = [fold for fold in range(FOLDS) if (folds == fold).any()]
            present = present if len(present) > 1 else []
        self._places, self._classes = places, classes
        self._spectra = spectra_at(data.scenes, places, self._fill, VIEWS)
        self._splits = self._usable([folds == fold for fold in present])
        pairs = [(folds != a) & (folds != b) for a, b in combinations(range(FOLDS), 2)]
        fewer = [mask & (folds != ALWAYS_TRAINED) for mask in pairs]
        self._fewer = self._usable(fewer) if len(present) > 1 else []

    def _usable(self, judged: list[Mask]) -> list[Mask]:
        """Keep the parts that leave two classes to train with."""
        return [
            mask
            for mask in judged
            if mask.any() and len(np.unique(self._classes[~mask])) > 1
        ]

    def choose(self, family: Family) -> Chosen | None:
        """Choose view, settings and filter, each by the accuracy of what judges.

        Accuracy is the mean of that over the pixels and that over the classes.

        Returns:
            None where no pixel can judge.
        """
        if not self._splits:
            return None
        first = family.grid[0]
        splits = self._splits

        def judge(view: View, settings: Settings) -> float:
            return self._judge(family, Chosen(view, settings, False), splits)

        by_view = {view: judge(view, first) for view in VIEWS}
        if max(by_view.values()) >= SATURATED and self._fewer:
            splits = self._fewer
            by_view = {view: judge(view, first) for view in VIEWS}
        scores = {(view, 0): score for view, score in by_view.items()}
        for view in sorted(VIEWS, key=lambda v: -by_view[v])[:FINALISTS]:
            for number, settings in enumerate(family.grid[1:], start=1):
                scores[view, number] = judge(view, settings)
        view, number = max(scores, key=scores.__getitem__)
        plain = Chosen(view, family.grid[number], False)
        smooth = plain._replace(filtered=True)
        gain = self._judge(family, smooth, splits) - scores[view, number]
        return smooth if gain > 0 else plain

    def _judge(self, family: Family, chosen: Chosen, splits: list[Mask]) -> float:
        predicted, true = [], []
        spectra = self._spectra[chosen.view]
        for judged in splits:
            model = family.make(chosen.settings, len(self._fill))
            model.fit(spectra[~judged], self._classes[~judged])
            if chosen.filtered:
                predicted.append(self._smoothed(model, chosen.view, judged))
            else:
                predicted.append(model.predict(spectra[judged]))
            true.append(self._classes[judged])
        return _accuracy(np.concatenate(predicted), np.concatenate(true))

    def _smoothed(self, model: Any, view: View, judged: Mask) -> NDArray[np.int16]:
        """Classify the judging pixels by the majority around each."""
        out = np.empty(judged.sum(), dtype=np.int16)
        places = self._places[judged]
        for index in np.unique(places[:, 0]):
            scene, own = self._data.scenes[index], places[:, 0] == index
            rows, cols = places[own, 1], places[own, 2]
            requested = np.zeros(scene.valid.shape, dtype=bool)
            requested[rows, cols] = True
            found = classify(model, scene, requested, self._fill, view, filtered=True)
            out[own] = found[rows, cols]
        return out


def _accuracy(predicted: NDArray[Any], true: NDArray[np.intp]) -> float:
    """Return the mean of the accuracies over pixels and over classes."""
    right = predicted == true
    by_class = [right[true == index].mean() for index in np.unique(true)]
    return float(right.mean() + np.mean(by_class)) / 2

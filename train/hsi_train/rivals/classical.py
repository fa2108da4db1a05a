"""Classical rivals: support vector machines and a random forest of scikit-learn."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_train.data.labelled_scene import LabelledData, LabelledScene, places_of
from hsi_train.data.roles import Role
from hsi_train.linear.spectra import thinned
from hsi_train.method import Problem
from hsi_train.rivals.candidate import Candidate
from hsi_train.rivals.choosing import UNCHECKED, Chosen, Family, Judges, Settings
from hsi_train.rivals.views import Classifier, classify, spectra_at

MOST = 6_000  # pixels that train: the time of a support vector machine grows squared
LEAST_OF_CLASS = 200
C, GAMMA = "C", "gamma x bands"  # after standardisation a band's variance is one
TREES = "trees"


def linear_svm(settings: Settings, bands: int) -> Any:
    """Build a linear support vector machine."""
    from sklearn.svm import SVC

    return _standardised(SVC(kernel="linear", C=settings[C]))


def rbf_svm(settings: Settings, bands: int) -> Any:
    """Build a support vector machine with radial basis functions."""
    from sklearn.svm import SVC

    return _standardised(SVC(C=settings[C], gamma=settings[GAMMA] / bands))


def forest(settings: Settings, bands: int) -> Any:
    """Build a random forest."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(int(settings[TREES]), random_state=0)


def _standardised(classifier: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), classifier)


FAMILIES = (
    Family("linear-svm", linear_svm, [{C: c} for c in (0.1, 0.001, 0.01, 1.0, 10.0)]),
    Family(
        "rbf-svm",
        rbf_svm,
        [
            {C: c, GAMMA: gamma}
            for gamma, c in product((1.0, 0.1, 10.0), (100.0, 1.0, 10.0, 1000.0))
        ],
    ),
    Family("random-forest", forest, [{TREES: 30}], final={TREES: 200}),
)


@dataclass(frozen=True)
class Fitted:
    """A classifier that was chosen and fitted.

    Attributes:
        name: Name of its family.
        variant: How it sees spectra, and its settings.
        chosen: The same, as it is used.
        model: The classifier of scikit-learn.
        fill: What stands for a missing value, shape ``(band,)``.
    """

    name: str
    variant: str
    chosen: Chosen
    model: Classifier
    fill: NDArray[np.float64]

    def classes(
        self, scene: LabelledScene, requested: NDArray[np.bool_]
    ) -> NDArray[np.int16]:
        """Classify the requested pixels of a scene; -1 elsewhere, ``(row, col)``."""
        view, filtered = self.chosen.view, self.chosen.filtered
        return classify(self.model, scene, requested, self.fill, view, filtered)


def candidates(data: LabelledData, problem: Problem) -> Iterator[Candidate]:
    """Choose and fit each classifier, and classify the test pixels."""
    for one in fit_all(data, problem):
        maps = [one.classes(scene, scene.roles == Role.TEST) for scene in data.scenes]
        yield Candidate(one.name, one.variant, maps)


def fit_all(data: LabelledData, problem: Problem) -> Iterator[Fitted]:
    """Choose and fit each classifier.

    Yields:
        One for each of `FAMILIES`; none where only one class trains.
    """
    places, classes = places_of(data.scenes, Role.TRAIN)
    kept = thinned(classes, MOST, LEAST_OF_CLASS)
    places, classes = places[kept], classes[kept]
    if len(np.unique(classes)) < 2:
        return
    judges = Judges(data, problem)
    for family in FAMILIES:
        chosen = judges.choose(family)
        note = "" if chosen else " (too few labels to choose)"
        chosen = chosen or Chosen(UNCHECKED, family.grid[0], False)
        chosen = chosen._replace(settings=chosen.settings | family.final)
        seen = spectra_at(data.scenes, places, problem.fill, [chosen.view])
        model = family.make(chosen.settings, len(problem.fill))
        model.fit(seen[chosen.view], classes)
        yield Fitted(
            name=family.name,
            variant=f"{chosen}{note}",
            chosen=chosen,
            model=model,
            fill=problem.fill,
        )

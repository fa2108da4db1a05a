"""Classical rivals: support vector machines and a random forest of scikit-learn."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from hsi_train.data.labelled_scene import LabelledData, places_of
from hsi_train.data.roles import Role
from hsi_train.linear.spectra import thinned
from hsi_train.method import Problem
from hsi_train.rivals.candidate import Candidate
from hsi_train.rivals.choosing import UNCHECKED, Chosen, Family, Judges, Settings
from hsi_train.rivals.views import classify, spectra_at

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


def candidates(data: LabelledData, problem: Problem) -> Iterator[Candidate]:
    """Choose and fit each classifier, and classify the test pixels.

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
        unchecked = chosen is None
        chosen = chosen or Chosen(UNCHECKED, family.grid[0], False)
        chosen = chosen._replace(settings=chosen.settings | family.final)
        seen = spectra_at(data.scenes, places, problem.fill, [chosen.view])
        model = family.make(chosen.settings, len(problem.fill))
        model.fit(seen[chosen.view], classes)
        maps = [
            classify(
                model,
                scene,
                scene.roles == Role.TEST,
                problem.fill,
                chosen.view,
                chosen.filtered,
            )
            for scene in data.scenes
        ]
        note = " (too few labels to choose)" if unchecked else ""
        yield Candidate(family.name, f"{chosen}{note}", maps)

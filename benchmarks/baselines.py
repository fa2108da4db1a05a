"""Classifies pixels by their spectrum alone: what a network has to beat.

    python benchmarks/baselines.py RECIPE.toml

The recipe's method is one of `BASELINES`; its scenes, labels, split and seed are read
as hsi-train reads them. Prints accuracy on the test pixels as JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from hsi_train import recipe, training
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.measuring import metrics

FOLDS = 5
TREES = 300

Spectra = NDArray[np.float64]  # (pixel, band)
Classes = NDArray[np.int16]  # (pixel,)


def spectra_of(data: LabelledData, role: Role) -> tuple[Spectra, Classes]:
    """Collect the pixels of a role: spectra in stored units, class indices."""
    chosen = [(s, s.roles == role) for s in data.scenes]
    spectra = np.concatenate([s.cube[:, where].T for s, where in chosen])
    classes = np.concatenate([s.classes[where] for s, where in chosen])
    return spectra.astype(np.float64), classes


def searched(
    classifier: SVC, grid: dict[str, list[float]], classes: Classes, seed: int
) -> Any:
    """Choose the settings by cross-validation on the training pixels alone.

    Standardisation is part of what is validated: each fold measures its own.

    Raises:
        SystemExit: A class has one training pixel.
    """
    folds = min(FOLDS, int(np.bincount(classes).min()))
    if folds < 2:
        raise SystemExit("Cross-validation needs two training pixels of each class.")
    return GridSearchCV(
        make_pipeline(StandardScaler(), classifier),
        {f"svc__{key}": values for key, values in grid.items()},
        cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
    )


def svm(spectra: Spectra, classes: Classes, seed: int) -> Any:
    # sklearn's gamma="scale" is 1 / bands once the bands are standardised.
    scale = 1 / spectra.shape[1]
    grid = {
        "C": [0.1, 1.0, 10.0, 100.0, 1000.0],
        "gamma": [scale * factor for factor in (0.01, 0.1, 1, 10)],
    }
    return searched(SVC(kernel="rbf"), grid, classes, seed)


def linear_svm(spectra: Spectra, classes: Classes, seed: int) -> Any:
    grid = {"C": [0.001, 0.01, 0.1, 1.0, 10.0]}
    return searched(SVC(kernel="linear"), grid, classes, seed)


def forest(spectra: Spectra, classes: Classes, seed: int) -> Any:
    return RandomForestClassifier(TREES, random_state=seed)


BASELINES: dict[str, Callable[[Spectra, Classes, int], Any]] = {
    "svm": svm,
    "linear_svm": linear_svm,
    "forest": forest,
}


def classify(settings: recipe.Recipe) -> dict[str, Any]:
    """Fit a baseline on the training pixels and count on the test pixels."""
    started = time.monotonic()
    data = training.divide(settings, training.read_data(settings, 0), 1)
    spectra, classes = spectra_of(data, Role.TRAIN)
    model = BASELINES[settings.method](spectra, classes, settings.seed)
    model.fit(spectra, classes)
    tested, true = spectra_of(data, Role.TEST)
    matrix = metrics.confusion(true, model.predict(tested), len(data.classes))
    return {
        **metrics.report(matrix, data.classes),
        "counts": {"train": len(classes), "test": len(true)},
        "settings": getattr(model, "best_params_", {}),
        "seconds": time.monotonic() - started,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    path = parser.parse_args().recipe
    print(json.dumps(classify(recipe.parse(recipe.load(path)))))


if __name__ == "__main__":
    main()

"""Divides spectra that were measured one by one: by object, since they have no place.

Spectra of one object, such as a leaf that was measured five times, train or test
together, if the user tells which they are.
"""

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_train.data.labelled_scene import UNLABELLED, LabelledData
from hsi_train.data.roles import Role

TEST_PART = 3  # one part of so many tests
FEW = 4  # objects of a class below which all train: too few to learn from and to test
ALWAYS_TRAINED = -1  # fold of objects that none tests


def held_out(data: LabelledData, seed: int) -> LabelledData:
    """Let a third of the objects of each class test, the others train.

    A class of fewer than `FEW` objects trains with all. Where every class is so small,
    nothing tests.
    """
    folds = _folds(data, TEST_PART, FEW, seed)
    return _with_test(data, folds == 0)


def cross_validated(data: LabelledData, count: int, seed: int) -> list[LabelledData]:
    """Divide the spectra once for each fold; each object is tested in one of them.

    Raises:
        SceneError: There are fewer objects than folds.
    """
    folds = _folds(data, count, 2, seed)
    used = len(np.unique(folds[folds != ALWAYS_TRAINED]))
    if used < count:
        raise SceneError(
            f"The spectra of classes with two objects or more fill {used} of {count} "
            "folds. Choose fewer folds, or leave out --folds."
        )
    return [_with_test(data, folds == fold) for fold in range(count)]


def caveats(data: LabelledData) -> list[str]:
    """Return messages about what limits the accuracy that was measured on spectra."""
    assert data.spectra is not None
    counts = data.pixels_by_role()
    tested = counts[:, Role.TEST]
    if not tested.any():
        return [
            f"No class has {FEW} objects, so all spectra train and no accuracy is "
            "measured. Measure it on a labelled scene (--target-scene, "
            "--target-labels)."
        ]
    messages = [
        "The accuracy is that of spectra like these, and no more: pixels of a scene "
        "are mixed, and seen through air by another sensor."
    ]
    if not data.spectra.grouped:
        messages.append(
            "Spectra of one object may train and test at once, which flatters the "
            "accuracy. --group-field keeps them together."
        )
    if (few := tested == 0).any():
        listed = ", ".join(
            f"{data.classes[k].name} ({counts[k].sum()})" for k in np.flatnonzero(few)
        )
        messages.append(
            f"Classes of too few objects train and are not tested: {listed}. Measure "
            "more of them, or merge them with others."
        )
    return messages


def _with_test(data: LabelledData, tested: NDArray[np.bool_]) -> LabelledData:
    """Give each spectrum its role; ``tested`` has the shape ``(row,)``."""
    (scene,) = data.scenes
    roles = np.where(tested[:, None], Role.TEST, Role.TRAIN)
    roles[scene.classes == UNLABELLED] = Role.NONE
    return data.divided([roles.astype(np.uint8)])


def _folds(data: LabelledData, count: int, least: int, seed: int) -> NDArray[np.intp]:
    """Deal the objects to folds, those of each class evenly.

    Args:
        data: The spectra.
        count: Number of folds.
        least: Objects of a class below which it is not dealt, nor is an object of it.
        seed: Of the order.

    Returns:
        Fold of each spectrum, or `ALWAYS_TRAINED`, shape ``(row,)``.
    """
    assert data.spectra is not None
    (scene,) = data.scenes
    classes, objects = scene.classes[:, 0], data.spectra.objects
    labelled = classes != UNLABELLED
    members = np.zeros((objects.max() + 1, len(data.classes)))
    np.add.at(members, (objects[labelled], classes[labelled]), 1)
    small = (members > 0).sum(axis=0) < least
    dealt = np.flatnonzero(members.any(axis=1) & ~members[:, small].any(axis=1))
    rng = np.random.default_rng(seed)
    rng.shuffle(dealt)
    fold_of = np.full(len(members), ALWAYS_TRAINED, dtype=np.intp)
    load = np.zeros((count, len(data.classes)))
    # The largest first; each to the fold that has least of its classes, then of all.
    for one in sorted(dealt, key=lambda one: -members[one].sum()):
        own = load[:, members[one] > 0].sum(axis=1)
        fold = int(np.lexsort([load.sum(axis=1), own])[0])
        load[fold] += members[one]
        fold_of[one] = fold
    for own in members.T > 0:
        if len(np.unique(fold_of[own])) == 1:  # that fold would not learn the class
            fold_of[own] = ALWAYS_TRAINED
    return fold_of[objects]

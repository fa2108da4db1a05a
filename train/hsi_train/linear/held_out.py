"""Holds training pixels out where no others validate."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hsi_train.data.labelled_scene import LabelledData, on_ground, places_of
from hsi_train.data.roles import Role
from hsi_train.linear.folds import FOLDS, blocked_folds
from hsi_train.linear.gate import MIN_PIXELS


def hold_out(data: LabelledData) -> LabelledData | None:
    """Let a fold of the training pixels validate; blocks of them, apart by class.

    Returns:
        The data with the roles changed; None where too few pixels would validate.
    """
    places, folds = _folds(data)
    held = folds == 0
    return None if held.sum() < MIN_PIXELS else _validating(data, places[held])


def leave_out(data: LabelledData) -> Iterator[LabelledData]:
    """Let each fold of the training pixels validate in turn, and no other pixels."""
    places, folds = _folds(data)
    roles = [
        np.where(scene.roles == Role.VALIDATION, Role.NONE, scene.roles)
        for scene in data.scenes
    ]
    alone = data.divided(roles)
    for fold in range(FOLDS):
        if (folds == fold).any():
            yield _validating(alone, places[folds == fold])


def _folds(data: LabelledData) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the place of every training pixel, ``(pixel, 3)``, and its fold."""
    places, classes = places_of(data.scenes, Role.TRAIN)
    return places, blocked_folds(on_ground(data.scenes, places), classes)


def _validating(data: LabelledData, places: NDArray[np.intp]) -> LabelledData:
    roles = [scene.roles.copy() for scene in data.scenes]
    for scene, row, col in places:
        roles[scene][row, col] = Role.VALIDATION
    return data.divided(roles)

"""Holds training pixels out where no others validate."""

from hsi_train.data.labelled_scene import LabelledData, on_ground, places_of
from hsi_train.data.roles import Role
from hsi_train.linear.folds import blocked_folds
from hsi_train.linear.gate import MIN_PIXELS


def hold_out(data: LabelledData) -> LabelledData | None:
    """Let a fold of the training pixels validate; blocks of them, apart by class.

    Returns:
        The data with the roles changed; None where too few pixels would validate.
    """
    places, classes = places_of(data.scenes, Role.TRAIN)
    held = blocked_folds(on_ground(data.scenes, places), classes) == 0
    if held.sum() < MIN_PIXELS:
        return None
    roles = [scene.roles.copy() for scene in data.scenes]
    for scene, row, col in places[held]:
        roles[scene][row, col] = Role.VALIDATION
    return data.divided(roles)

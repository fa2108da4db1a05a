"""Cuts classes that blocks of ground cannot serve, since they lie in one place.

A cut leaves training pixels near held-out ones. Training windows do not show these:
the buffer is taken from the windows, not from the labels.
"""

import numpy as np
from numpy.typing import NDArray

from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role, Roles
from hsi_train.splitting import overlap

# Shares of a class that is cut: strips in this order, with buffer between them.
CUT_TRAIN, CUT_VALIDATION, CUT_TEST = 0.5, 0.15, 0.25
# Shares of the training pixels of a class whose validation is cut from them.
VALIDATED, SEPARATED = 0.2, 0.05
MIN_VALIDATED = 20  # training pixels of such a class; of fewer none is given away


def cut(
    data: LabelledData,
    classes: NDArray[np.intp],
    rng: np.random.Generator,
    hide: bool = False,
) -> LabelledData:
    """Divide some classes by cuts, and let validation see every class it can.

    Args:
        data: Divided pixels.
        classes: Indices of the classes whose division is replaced by a cut.
        rng: Chooses the ends.
        hide: Hide held-out pixels from training windows though nothing is cut.
    """
    roles = [scene.roles.copy() for scene in data.scenes]
    for index in classes:
        _cut_class(data, roles, int(index), rng)
    covered = data.divided(roles).pixels_by_role()
    unseen = np.flatnonzero(
        (covered[:, Role.VALIDATION] == 0) & (covered[:, Role.TRAIN] >= MIN_VALIDATED)
    )
    for index in unseen:
        _cut_validation(data, roles, int(index), rng)
    if not (len(classes) or len(unseen) or hide):
        return data
    # The same ground, seen in another scene, is hidden there, too, and trains nothing.
    held_out = [np.isin(r, (Role.TEST, Role.VALIDATION)) for r in roles]
    met = overlap.meetings(data.scenes, 0, labelled_only=False)
    hidden = overlap.near(held_out, 0, met)
    for one, shown in zip(roles, hidden, strict=True):
        one[(one == Role.TRAIN) & shown] = Role.BUFFER
    return data.divided(roles, hidden)


def _cut_class(
    data: LabelledData, roles: list[Roles], index: int, rng: np.random.Generator
) -> None:
    """Cut a class where it has most pixels; elsewhere it becomes buffer."""
    places = [np.argwhere(scene.classes == index) for scene in data.scenes]
    largest = int(np.argmax([len(place) for place in places]))
    for scene, place in enumerate(places):
        roles[scene][tuple(place.T)] = Role.BUFFER
    order = _along(places[largest], rng)
    train = max(1, round(CUT_TRAIN * len(order)))
    test = max(1, round(CUT_TEST * len(order)))
    validation = round(CUT_VALIDATION * len(order))
    between = (len(order) - train - test - validation) // 2
    for role, strip in (
        (Role.TRAIN, order[:train]),
        (Role.VALIDATION, order[train + between :][:validation]),
        (Role.TEST, order[len(order) - test :]),
    ):
        roles[largest][tuple(strip.T)] = role


def _cut_validation(
    data: LabelledData, roles: list[Roles], index: int, rng: np.random.Generator
) -> None:
    """Take the validation pixels of a class from its training pixels."""
    places = [
        np.argwhere((scene.classes == index) & (one == Role.TRAIN))
        for scene, one in zip(data.scenes, roles, strict=True)
    ]
    largest = int(np.argmax([len(place) for place in places]))
    order = _along(places[largest], rng)
    validation = round(VALIDATED * len(order))
    between = round(SEPARATED * len(order))
    for role, strip in (
        (Role.VALIDATION, order[:validation]),
        (Role.BUFFER, order[validation:][:between]),
    ):
        roles[largest][tuple(strip.T)] = role


def _along(place: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    """Order pixels ``(pixel, 2)`` along their longer axis, from a random end."""
    longer = int(np.ptp(place[:, 1]) > np.ptp(place[:, 0]))
    order = place[np.argsort(place[:, longer], kind="stable")]
    return order[:: rng.choice([-1, 1])]

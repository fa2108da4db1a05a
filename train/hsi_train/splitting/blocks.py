"""Divides labelled pixels by blocks of ground, at least one receptive field apart.

Scenes that overlap are divided together, so that this holds on the ground.
"""

import json
import shlex
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_train.data.labelled_scene import UNLABELLED, LabelledData
from hsi_train.data.roles import Role, Roles
from hsi_train.measuring.calibration import MIN_PIXELS
from hsi_train.splitting import overlap

MIN_SIDE = 8  # of a block, px, however small the receptive field
VALIDATION_SHARE, TEST_SHARE = 0.15, 0.25  # of the labelled pixels
TRAIN_SHARE = 1 - VALIDATION_SHARE - TEST_SHARE
GOOD_SPLIT = 0.85  # rating at which smaller blocks are not tried; see `_rate`
BETTER = 1.05  # larger blocks are further apart: smaller ones must be clearly better
# Shares of the labelled pixels that a split keeps to wherever one of those tried does.
TRAIN_BOUNDS, TEST_BOUNDS = (0.3, 0.8), (0.12, 0.4)
MARGIN = 0.03  # by which they are kept before classes are cut
# A class that lies in one place is cut there; what lies between is buffer.
CUT_TRAIN, CUT_TEST = 0.5, 0.25

Rating = tuple[bool, int, float]


def spatial(data: LabelledData, receptive_field: int, seed: int) -> LabelledData:
    """Give whole blocks of the scenes to training, validation and test.

    Training pixels nearer than one receptive field to a validation or test pixel, and
    validation pixels that near to a test pixel, become buffer; scenes that overlap on
    the map share their blocks, and the buffer reaches from one into the other. Blocks
    of several sizes are tried at several places; the split that serves most classes,
    and then the worst of them best, is kept. A class that no block can serve, since it
    lies in one place, is cut in two there: its training windows reach over held-out
    pixels, which are hidden in them.

    Raises:
        SceneError: A class has one pixel, which cannot both train and test.
    """
    _check_sizes(data)
    rng = np.random.default_rng(seed)
    pixels = sum(s.classes.size for s in data.scenes)
    attempts = int(np.clip(2e7 // pixels, 4, 48))
    offsets = overlap.grid_offsets(data.scenes)
    met = overlap.meetings(data.scenes, receptive_field - 1)
    best: tuple[Rating, LabelledData] | None = None
    for multiple in (8, 4, 2, 1):
        if best is not None and best[0] >= (True, len(data.classes), GOOD_SPLIT):
            break
        for _ in range(attempts):
            side = max(receptive_field * multiple, MIN_SIDE)
            splits = _in_blocks(data, offsets, side, rng)
            _add_buffer(splits, receptive_field, met)
            tried = data.divided(splits)
            rating = _rate(tried.pixels_by_role())
            if best is None or rating > (*best[0][:2], best[0][2] * BETTER):
                best = rating, tried
    assert best is not None
    return _cut_classes(best[1], rng)


def _check_sizes(data: LabelledData) -> None:
    """Refuse classes of a single pixel, and only these."""
    single = [c.name for c, n in zip(data.classes, data.counts(), strict=True) if n < 2]
    if single:
        setting = f"data.exclude={json.dumps(single, ensure_ascii=False)}"
        raise SceneError(
            "One labelled pixel cannot both train and test a class: "
            f"{', '.join(single)}. Label more of it, or leave it out: --set "
            f"{shlex.quote(setting)}."
        )


def _cut_classes(data: LabelledData, rng: np.random.Generator) -> LabelledData:
    """Serve the classes that lie in one place, by a cut through each of them."""
    counts = data.pixels_by_role()
    unserved = (counts[:, [Role.TRAIN, Role.TEST]] == 0).any(axis=1)
    if not unserved.any():
        return data
    roles = [scene.roles.copy() for scene in data.scenes]
    for index in np.flatnonzero(unserved):
        places = [np.argwhere(scene.classes == index) for scene in data.scenes]
        largest = int(np.argmax([len(place) for place in places]))
        for scene, place in enumerate(places):
            rows, cols = place.T
            roles[scene][rows, cols] = Role.BUFFER
            if scene == largest:
                longer = int(np.ptp(cols) > np.ptp(rows))
                order = place[np.argsort(place[:, longer], kind="stable")]
                order = order[:: rng.choice([-1, 1])]
                train = order[: max(1, round(CUT_TRAIN * len(order)))]
                test = order[-max(1, round(CUT_TEST * len(order))) :]
                roles[scene][train[:, 0], train[:, 1]] = Role.TRAIN
                roles[scene][test[:, 0], test[:, 1]] = Role.TEST
    # The same ground, seen in another scene, is hidden there, too, and trains nothing.
    held_out = [np.isin(r, (Role.TEST, Role.VALIDATION)) for r in roles]
    met = overlap.meetings(data.scenes, 0, labelled_only=False)
    hidden = overlap.near(held_out, 0, met)
    for one, covered in zip(roles, hidden, strict=True):
        one[(one == Role.TRAIN) & covered] = Role.BUFFER
    return data.divided(roles, hidden)


def _in_blocks(
    data: LabelledData,
    offsets: Sequence[overlap.GridOffset],
    side: int,
    rng: np.random.Generator,
) -> list[Roles]:
    """Lay randomly shifted grids over the scenes and give each block one role."""
    shifts, spans = {}, []
    for number, (scene, place) in enumerate(zip(data.scenes, offsets, strict=True)):
        if place.grid == number:
            shifts[number] = rng.integers(0, side, 2)
        rows, cols = (np.arange(n) for n in scene.classes.shape)
        shift = shifts[place.grid]
        row_block = (rows + place.row + shift[0]) // side
        col_block = (cols + place.col + shift[1]) // side
        spans.append((row_block, col_block))
    blocks: list[NDArray[np.intp]] = [np.empty(0, np.intp)] * len(spans)
    offset = 0
    for grid in shifts:
        members = [n for n, place in enumerate(offsets) if place.grid == grid]
        top = min(spans[n][0][0] for n in members)
        left = min(spans[n][1][0] for n in members)
        height = max(spans[n][0][-1] for n in members) + 1 - top
        width = max(spans[n][1][-1] for n in members) + 1 - left
        for n in members:
            row_block, col_block = spans[n]
            number_of = (row_block[:, None] - top) * width + col_block[None, :] - left
            blocks[n] = offset + number_of
        offset += int(width * height)
    counts = np.zeros((offset, len(data.classes)))
    for scene, block in zip(data.scenes, blocks, strict=True):
        used = scene.classes != UNLABELLED
        np.add.at(counts, (block[used], scene.classes[used]), 1)
    roles = _stratify(counts, rng)
    return [
        np.where(scene.classes == UNLABELLED, Role.NONE, roles[block]).astype(np.uint8)
        for scene, block in zip(data.scenes, blocks, strict=True)
    ]


def _stratify(
    counts: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Give every block a role so that each class meets its shares.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas, ECML PKDD 2011): the class
    with the fewest pixels left is served first, its largest block going to the role
    that has none of it yet, else to the one that lacks most. Random weights vary the
    order from one attempt to the next.

    Args:
        counts: Pixels, shape ``(block, class)``.
        rng: Source of the variation.
    """
    order = (Role.TRAIN, Role.TEST, Role.VALIDATION)
    shares = np.array([1 - VALIDATION_SHARE - TEST_SHARE, TEST_SHARE, VALIDATION_SHARE])
    target = shares[:, None] * counts.sum(axis=0)  # (role, class)
    lacking = target.copy()
    roles = np.full(len(counts), Role.NONE, dtype=np.uint8)
    weights = rng.uniform(0.5, 1.5, len(counts))
    free: NDArray[np.bool_] = counts.sum(axis=1) > 0
    while free.any():
        left = counts[free].sum(axis=0)
        rarest = int(np.where(left > 0, left, np.inf).argmin())
        block = int(np.where(free, counts[:, rarest] * weights, -1).argmax())
        # Training and test must have something of every class; validation may not.
        empty = lacking[:2, rarest] == target[:2, rarest]
        role = int(empty.argmax() if empty.any() else lacking[:, rarest].argmax())
        roles[block] = order[role]
        lacking[role] -= counts[block]
        free[block] = False
    return roles


def _add_buffer(
    splits: list[Roles], distance: int, met: Sequence[overlap.Meeting]
) -> None:
    """Turn pixels closer than ``distance`` to held-out ones into buffer, in place."""
    tested = [roles == Role.TEST for roles in splits]
    for roles, close in zip(
        splits, overlap.near(tested, distance - 1, met), strict=True
    ):
        roles[(roles == Role.VALIDATION) & close] = Role.BUFFER
    held_out = [(roles == Role.TEST) | (roles == Role.VALIDATION) for roles in splits]
    for roles, close in zip(
        splits, overlap.near(held_out, distance - 1, met), strict=True
    ):
        roles[(roles == Role.TRAIN) & close] = Role.BUFFER


def _rate(counts: NDArray[np.int64]) -> Rating:
    """Rate a split: by its shares, by the classes it serves, and how well, up to 1.

    The shares are within their bounds, and validation pixels are enough.

    The worst class that is served, the classes on average and all pixels together
    count alike, so that neither a small class nor the seed decides how many pixels
    train. Enough validation pixels to calibrate probabilities, and to choose the epoch,
    raise the rating by half.
    """
    pixels = counts.sum(axis=1)
    train, test, validation = (
        np.minimum(counts[:, role] / pixels / share, 1)
        for role, share in (
            (Role.TRAIN, TRAIN_SHARE),
            (Role.TEST, TEST_SHARE),
            (Role.VALIDATION, VALIDATION_SHARE),
        )
    )
    served = np.minimum(train, test)
    total = counts.sum(axis=0)
    overall = min(
        total[Role.TRAIN] / TRAIN_SHARE / total.sum(),
        total[Role.TEST] / TEST_SHARE / total.sum(),
        1.0,
    )
    worst = served[served > 0].min(initial=1.0) if served.any() else 0.0
    rating = 0.3 * (worst + served.mean() + overall) + 0.1 * validation.mean()
    required = min(MIN_PIXELS, VALIDATION_SHARE * total.sum())
    enough = min(float(total[Role.VALIDATION]) / required, 1)
    within = all(
        low + MARGIN <= total[role] / total.sum() <= high - MARGIN
        for role, (low, high) in ((Role.TRAIN, TRAIN_BOUNDS), (Role.TEST, TEST_BOUNDS))
    )
    return (
        within and enough == 1,
        int((served > 0).sum()),
        float(rating * (2 + enough) / 3),
    )

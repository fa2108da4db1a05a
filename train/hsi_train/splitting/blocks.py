"""Divides labelled pixels by blocks of ground, at least one receptive field apart.

Scenes that overlap are divided together, so that this holds on the ground.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hsi_train.data.labelled_scene import UNLABELLED, LabelledData
from hsi_train.data.roles import Role, Roles
from hsi_train.measuring.calibration import MIN_PIXELS
from hsi_train.splitting import overlap
from hsi_train.splitting.split import require

GOOD_SPLIT = 1.1  # score at which smaller blocks are not tried; see `_score`
MIN_SIDE = 8  # of a block, px, however small the receptive field
VALIDATION_SHARE, TEST_SHARE = 0.15, 0.25  # of the labelled pixels


def spatial(data: LabelledData, receptive_field: int, seed: int) -> LabelledData:
    """Give whole blocks of the scenes to training, validation and test.

    Training pixels nearer than one receptive field to a validation or test pixel, and
    validation pixels that near to a test pixel, become buffer; scenes that overlap on
    the map share their blocks, and the buffer reaches from one into the other. Blocks
    of several sizes are tried at several places; the split that serves its worst class
    best is kept.

    Raises:
        SceneError: No assignment gives every class training and test pixels.
    """
    rng = np.random.default_rng(seed)
    pixels = sum(s.classes.size for s in data.scenes)
    attempts = int(np.clip(2e7 // pixels, 4, 48))
    offsets = overlap.grid_offsets(data.scenes)
    met = overlap.meetings(data.scenes, receptive_field - 1)
    best: tuple[float, LabelledData] | None = None
    for multiple in (8, 4, 2, 1):
        if best is not None and best[0] >= GOOD_SPLIT:
            break
        for _ in range(attempts):
            side = max(receptive_field * multiple, MIN_SIDE)
            splits = _in_blocks(data, offsets, side, rng)
            _add_buffer(splits, receptive_field, met)
            tried = data.divided(splits)
            score = _score(tried.pixels_by_role())
            # Larger blocks are further apart: smaller ones must be clearly better.
            if best is None or score > best[0] * 1.1:
                best = score, tried
    assert best is not None
    require(
        best[1],
        (Role.TRAIN, Role.TEST),
        "label a second place of that class, drop it, give your own split (--split "
        "FILE), or use --samples-per-class N, which flatters the accuracy",
    )
    return best[1]


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


def _score(counts: NDArray[np.int64]) -> float:
    """Rate a split by its worst class: zero where one has no training or test pixel.

    Enough validation pixels to calibrate probabilities, and to choose the epoch, raise
    it by half.
    """
    total = counts.sum(axis=1)
    train = counts[:, Role.TRAIN] / total / (1 - VALIDATION_SHARE - TEST_SHARE)
    test = counts[:, Role.TEST] / total / TEST_SHARE
    validation = counts[:, Role.VALIDATION] / total / VALIDATION_SHARE
    served = np.minimum(np.minimum(train, 1), np.minimum(test, 1))
    if not served.min():
        return 0.0
    everyone = float(np.minimum(validation, 1).mean())
    required = min(MIN_PIXELS, VALIDATION_SHARE * total.sum())
    enough = min(float(counts[:, Role.VALIDATION].sum()) / required, 1)
    rating = served.min() + 0.2 * served.mean() + 0.1 * everyone
    return float(rating * (2 + enough) / 3)

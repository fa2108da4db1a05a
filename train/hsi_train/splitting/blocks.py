"""Divides labelled pixels by blocks of ground that are apart from each other.

Scenes that overlap are divided together, so that this holds on the ground.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_train.data.labelled_scene import UNLABELLED, LabelledData
from hsi_train.data.roles import Role, Roles
from hsi_train.measuring.calibration import MIN_PIXELS
from hsi_train.splitting import cuts, overlap

MIN_SIDE = 8  # of a block, px, however small the receptive field
VALIDATION_SHARE, TEST_SHARE = 0.15, 0.25  # of the labelled pixels
TRAIN_SHARE = 1 - VALIDATION_SHARE - TEST_SHARE
GOOD_SPLIT = 0.85  # rating at which smaller blocks are not tried; see `_rate`
BETTER = 1.05  # larger blocks are further apart: smaller ones must be clearly better
# Shares of the labelled pixels that every split keeps to.
BOUNDS = {Role.TRAIN: (0.3, 0.8), Role.VALIDATION: (0.0, 0.3), Role.TEST: (0.12, 0.4)}
MARGIN = 0.03  # by which they are kept before classes are cut

Rating = tuple[bool, int, float]


class Buffer(NamedTuple):
    """A distance between roles.

    Attributes:
        pixels: Smallest distance of two pixels that may keep their roles.
        met: Pixels that are nearer to the ground of another scene.
    """

    pixels: int
    met: Sequence[overlap.Meeting]


def spatial(data: LabelledData, receptive_field: int, seed: int) -> LabelledData:
    """Give whole blocks of the scenes to training, validation and test.

    Training pixels nearer than one receptive field to a test pixel become buffer, and
    so do those whose window would show a validation pixel, and validation pixels whose
    window would show a test pixel. Scenes that overlap on the map share their blocks,
    and the buffer reaches from one into the other. Blocks of several sizes are tried at
    several places; the split that serves most classes, and then the worst of them best,
    is kept.

    What blocks cannot serve is bought from the windows, which then hide held-out
    pixels. A class that lies in one place is cut there. Where the buffer leaves too few
    pixels to train or to test, it shrinks to half a receptive field, so that windows
    meet but show no test pixel; in the end every class is cut.

    Raises:
        SceneError: A class has one pixel, which cannot both train and test, or the
            rest of it lies on ground that another scene labels otherwise.
    """
    _check_sizes(data)
    rng = np.random.default_rng(seed)
    for gap in (receptive_field, receptive_field // 2 + 1):
        divided = _best_of_many(data, receptive_field, gap, rng)
        divided = cuts.cut(divided, _unserved(divided), rng)
        if _within_bounds(divided.pixels_by_role().sum(axis=0)):
            break
    else:
        divided = cuts.cut(divided, np.arange(len(data.classes)), rng)
    _check_served(divided)
    if gap == receptive_field:
        return divided
    message = (
        f"One receptive field ({receptive_field} px) between training and test pixels "
        "would leave too few of them, so that less is kept: the accuracy may be "
        "flattered, though no training window shows a test pixel. Label more places, "
        "or choose a method with a smaller receptive field."
    )
    return replace(divided, warnings=[*divided.warnings, message])


def _unserved(data: LabelledData) -> NDArray[np.intp]:
    """Return the indices of classes without training pixels, or without test pixels."""
    counts = data.pixels_by_role()
    return np.flatnonzero((counts[:, [Role.TRAIN, Role.TEST]] == 0).any(axis=1))


def _best_of_many(
    data: LabelledData, receptive_field: int, gap: int, rng: np.random.Generator
) -> LabelledData:
    """Try blocks of several sizes at several places, and return the best division."""
    pixels = sum(s.classes.size for s in data.scenes)
    attempts = int(np.clip(2e7 // pixels, 4, 48))
    offsets = overlap.grid_offsets(data.scenes)
    far, near = (
        Buffer(distance, overlap.meetings(data.scenes, distance - 1))
        for distance in (gap, receptive_field // 2 + 1)
    )
    best: tuple[Rating, LabelledData] | None = None
    for multiple in (8, 4, 2, 1):
        if best is not None and best[0] >= (True, len(data.classes), GOOD_SPLIT):
            break
        for _ in range(attempts):
            side = max(receptive_field * multiple, MIN_SIDE)
            splits = _in_blocks(data, offsets, side, rng)
            add_buffers(splits, far, near)
            tried = data.divided(splits)
            rating = _rate(tried.pixels_by_role())
            if best is None or rating > (*best[0][:2], best[0][2] * BETTER):
                best = rating, tried
    assert best is not None
    return best[1]


def _check_sizes(data: LabelledData) -> None:
    """Refuse classes of a single pixel, and only these."""
    single = [c.name for c, n in zip(data.classes, data.counts(), strict=True) if n < 2]
    if single:
        raise SceneError(
            "One labelled pixel cannot both train and test a class: "
            f"{', '.join(single)}. {_advice(single)}"
        )


def _check_served(data: LabelledData) -> None:
    """Refuse classes that even a cut leaves without training or test pixels."""
    lacking = [(data.classes[k].name, data.counts()[k]) for k in _unserved(data)]
    if lacking:
        listed = ", ".join(f"{name} ({count} px)" for name, count in lacking)
        raise SceneError(
            "Scenes label the same ground differently, which leaves no pixel to train "
            f"or to test: {listed}. {_advice([name for name, _ in lacking])}"
        )


def _advice(names: list[str]) -> str:
    setting = f"data.exclude={json.dumps(names, ensure_ascii=False)}"
    return f"Label more of it, or leave it out: --set {shlex.quote(setting)}."


def _in_blocks(
    data: LabelledData,
    offsets: Sequence[overlap.GridOffset],
    side: int,
    rng: np.random.Generator,
) -> list[Roles]:
    """Lay randomly shifted grids over the scenes and give each block one role."""
    blocks, counts = lay_blocks(data, offsets, side, rng)
    order = np.array((Role.TRAIN, Role.TEST, Role.VALIDATION))
    shares = (TRAIN_SHARE, TEST_SHARE, VALIDATION_SHARE)
    # Training and test must have something of every class; validation may not.
    roles = order[stratify(counts, shares, 2, rng)]
    return [
        np.where(scene.classes == UNLABELLED, Role.NONE, roles[block]).astype(np.uint8)
        for scene, block in zip(data.scenes, blocks, strict=True)
    ]


def lay_blocks(
    data: LabelledData,
    offsets: Sequence[overlap.GridOffset],
    side: int,
    rng: np.random.Generator,
) -> tuple[list[NDArray[np.intp]], NDArray[np.float64]]:
    """Lay randomly shifted grids over the scenes.

    Returns:
        Number of the block of every pixel, for each scene; pixels of each block, shape
        ``(block, class)``.
    """
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
    return blocks, counts


def stratify(
    counts: NDArray[np.float64],
    shares: Sequence[float],
    required: int,
    rng: np.random.Generator,
) -> NDArray[np.intp]:
    """Give every block to a part so that each class meets its shares.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas, ECML PKDD 2011): the class
    with the fewest pixels left is served first, its largest block going to the part
    that has none of it yet, else to the one that lacks most. Random weights vary the
    order from one attempt to the next.

    Args:
        counts: Pixels, shape ``(block, class)``.
        shares: Share of each part.
        required: The first so many parts get something of every class first.
        rng: Source of the variation.

    Returns:
        Number of the part, shape ``(block,)``; 0 for a block without pixels.
    """
    target = np.array(shares)[:, None] * counts.sum(axis=0)  # (part, class)
    lacking = target.copy()
    parts = np.zeros(len(counts), dtype=np.intp)
    weights = rng.uniform(0.5, 1.5, len(counts))
    free: NDArray[np.bool_] = counts.sum(axis=1) > 0
    while free.any():
        left = counts[free].sum(axis=0)
        rarest = int(np.where(left > 0, left, np.inf).argmin())
        block = int(np.where(free, counts[:, rarest] * weights, -1).argmax())
        empty = lacking[:required, rarest] == target[:required, rarest]
        part = int(empty.argmax() if empty.any() else lacking[:, rarest].argmax())
        parts[block] = part
        lacking[part] -= counts[block]
        free[block] = False
    return parts


def add_buffers(splits: list[Roles], far: Buffer, near: Buffer) -> None:
    """Turn pixels that are too close to held-out ones into buffer, in place.

    Args:
        splits: Roles of the pixels of every scene.
        far: Distance of training from test pixels.
        near: Distance of validation pixels from both.
    """
    for role, held_out, buffer in (
        (Role.TRAIN, Role.TEST, far),
        (Role.VALIDATION, Role.TEST, near),
        (Role.TRAIN, Role.VALIDATION, near),
    ):
        masks = [roles == held_out for roles in splits]
        close = overlap.near(masks, buffer.pixels - 1, buffer.met)
        for roles, mask in zip(splits, close, strict=True):
            roles[(roles == role) & mask] = Role.BUFFER


def _within_bounds(pixels: NDArray[np.int64], margin: float = 0.0) -> bool:
    """Return True if the shares of the roles are within `BOUNDS`.

    Args:
        pixels: Labelled pixels of each role.
        margin: By how much, so that there is room for what comes after.
    """
    shares = pixels / pixels.sum()
    return all(
        (low + margin if low else 0) <= shares[role] <= high - margin
        for role, (low, high) in BOUNDS.items()
    )


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
    return (
        _within_bounds(total, MARGIN) and enough == 1,
        int((served > 0).sum()),
        float(rating * (2 + enough) / 3),
    )

"""Divides the ground into folds, each of which is the test ground of one run."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_train.data.labelled_scene import UNLABELLED, LabelledData
from hsi_train.data.roles import Role, Roles
from hsi_train.splitting import blocks, cuts, overlap
from hsi_train.splitting.blocks import Buffer

VALIDATION_SHARE = 0.15  # of the blocks that a fold does not test
MIN_TRAIN = 0.4  # share of the labelled pixels that every fold should train on
NONE = -1  # fold of pixels that no fold tests


class Layout(NamedTuple):
    """Folds of the ground.

    Attributes:
        folds: Fold of every pixel, or `NONE`, for each scene.
        blocks: Block of every pixel, for each scene.
        counts: Pixels that a fold may test, shape ``(block, class)``.
        of_block: Fold of each block, shape ``(block,)``.
    """

    folds: list[NDArray[np.intp]]
    blocks: list[NDArray[np.intp]]
    counts: NDArray[np.float64]
    of_block: NDArray[np.intp]


def spatial(
    data: LabelledData, receptive_field: int, count: int, seed: int
) -> list[LabelledData]:
    """Divide the labelled pixels once for each fold; each is tested in one of them.

    Blocks of ground go to the folds, every class to as many folds as it has blocks. A
    fold's blocks are its test pixels; others train or validate, with the buffer that
    the default split keeps. A class in a single block trains in every fold and is
    tested in none; a warning names it. Where the buffer would leave a class without
    training pixels, these stay, and their windows hide the test pixels.

    Args:
        data: The labelled pixels.
        receptive_field: Of the method, px.
        count: Number of folds.
        seed: Of all draws.

    Raises:
        SceneError: The labels lie in fewer blocks than folds.
    """
    rng = np.random.default_rng(seed)
    offsets = overlap.grid_offsets(data.scenes)
    pixels = count * sum(s.classes.size for s in data.scenes)
    attempts = int(np.clip(5e6 // pixels, 1, 6))
    near_gap = receptive_field // 2 + 1
    near = Buffer(near_gap, overlap.meetings(data.scenes, near_gap - 1))
    best: tuple[tuple[bool, int, float], list[LabelledData]] | None = None
    for gap in (receptive_field, near_gap):
        far = Buffer(gap, overlap.meetings(data.scenes, gap - 1))
        for multiple in (4, 2, 1):
            for _ in range(attempts):
                side = max(receptive_field * multiple, blocks.MIN_SIDE)
                layout = _lay(data, offsets, side, count, rng)
                if layout is None:
                    continue
                divided = [
                    _divide(data, layout, k, far, near, rng) for k in range(count)
                ]
                rating = _rate(divided)
                if best is None or rating > best[0]:
                    best = rating, divided
            if best is not None and best[0][0]:
                break
        if best is not None and best[0][0]:
            break
    if best is None:
        raise SceneError(
            f"The labels lie in fewer than {count} blocks of {receptive_field} px, so "
            f"that {count} folds are not possible. Choose fewer, or label more places."
        )
    return _with_warnings(best[1])


def _lay(
    data: LabelledData,
    offsets: Sequence[overlap.GridOffset],
    side: int,
    count: int,
    rng: np.random.Generator,
) -> Layout | None:
    """Lay blocks and give them to folds; None if a fold would test nothing."""
    numbers, counts = blocks.lay_blocks(data, offsets, side, rng)
    single = (counts > 0).sum(axis=0) == 1
    divisible = np.where(single, 0, counts)
    if (divisible.sum(axis=1) > 0).sum() < count:
        return None
    of_block = blocks.stratify(divisible, [1 / count] * count, count, rng)
    used = divisible.sum(axis=1) > 0
    if len(np.unique(of_block[used])) < count:
        return None
    folds = []
    for scene, block in zip(data.scenes, numbers, strict=True):
        tested = (scene.classes != UNLABELLED) & ~single[scene.classes]
        folds.append(np.where(tested, of_block[block], NONE))
    return Layout(folds, numbers, divisible, of_block)


def _divide(
    data: LabelledData,
    layout: Layout,
    fold: int,
    far: Buffer,
    near: Buffer,
    rng: np.random.Generator,
) -> LabelledData:
    """Divide the pixels for one fold."""
    others = np.where((layout.of_block == fold)[:, None], 0, layout.counts)
    shares = (1 - VALIDATION_SHARE, VALIDATION_SHARE)
    validates = blocks.stratify(others, shares, 1, rng) == 1
    roles: list[Roles] = []
    for scene, folds, block in zip(
        data.scenes, layout.folds, layout.blocks, strict=True
    ):
        one = np.where(validates[block] & (folds != NONE), Role.VALIDATION, Role.TRAIN)
        one = np.where(folds == fold, Role.TEST, one)
        one = np.where(scene.classes == UNLABELLED, Role.NONE, one)
        roles.append(one.astype(np.uint8))
    whole = [one.copy() for one in roles]
    blocks.add_buffers(roles, far, near)
    counts = data.divided(roles).pixels_by_role()
    lost = np.flatnonzero(counts[:, Role.TRAIN] == 0)
    learning = data.divided(whole).pixels_by_role()[:, Role.TRAIN] > 0
    for scene, one, before in zip(data.scenes, roles, whole, strict=True):
        # Where all other blocks of a class would validate, they train.
        kept = np.where(learning[scene.classes], Role.TRAIN, Role.VALIDATION)
        back = np.isin(scene.classes, lost) & (before == kept)
        one[back] = Role.TRAIN
    nothing = np.empty(0, dtype=np.intp)
    return cuts.cut(data.divided(roles), nothing, rng, hide=len(lost) > 0)


def _rate(divided: list[LabelledData]) -> tuple[bool, int, float]:
    """Rate folds: by what the least of them trains on, and the classes they serve."""
    counts = np.stack([one.pixels_by_role() for one in divided])  # (fold, class, role)
    total = counts[0].sum()
    least = float(counts[:, :, Role.TRAIN].sum(axis=1).min() / total)
    trained, tested = counts[:, :, Role.TRAIN] > 0, counts[:, :, Role.TEST] > 0
    whole = bool(trained.all() and tested.any(axis=1).all())
    return whole and least >= MIN_TRAIN, int((trained & tested).sum()), least


def _with_warnings(divided: list[LabelledData]) -> list[LabelledData]:
    counts = np.stack([one.pixels_by_role() for one in divided])
    untested = np.flatnonzero((counts[:, :, Role.TEST] == 0).all(axis=0))
    if not len(untested):
        return divided
    listed = ", ".join(divided[0].classes[k].name for k in untested)
    message = (
        f"Labels of {listed} lie in one block: every fold trains on them, and none "
        "tests them."
    )
    return [replace(one, warnings=[*one.warnings, message]) for one in divided]

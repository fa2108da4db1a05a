"""Divides labelled pixels into training, validation and test.

Random modes choose pixel by pixel, so that windows of training and test pixels
overlap; `spatial` keeps them at least one receptive field apart, in whichever scene the
ground was seen.
"""

from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_train import overlap
from hsi_train.calibration import MIN_PIXELS
from hsi_train.labelled_scene import UNLABELLED, LabelledData, LabelledScene
from hsi_train.labels import read_codes


class Role(IntEnum):
    """What a labelled pixel is used for; the codes of ``split.tif``."""

    NONE = 0
    TRAIN = 1
    VALIDATION = 2
    TEST = 3
    BUFFER = 4


Roles = NDArray[np.uint8]

GOOD_SPLIT = 1.1  # score at which smaller blocks are not tried; see `_score`
MIN_SIDE = 8  # of a block, px, however small the receptive field
FEW_TRAIN, FEW_TEST = 5, 10  # pixels of a class below which little is learnt or told
VALIDATION_SHARE, TEST_SHARE = 0.15, 0.25  # of the labelled pixels, spatial split


def from_files(
    data: LabelledData, paths: Sequence[str], sampled: bool = False
) -> list[Roles]:
    """Read the roles from rasters on the scenes' grids: 1 train, 2 validation, 3 test.

    Args:
        data: What they divide.
        paths: One raster for each scene given.
        sampled: The test pixels are a probability sample, of which none may be missing.

    Raises:
        SceneError: A raster does not fit, holds other values, leaves a class without
            training pixels, or a sampled pixel has no label.
    """
    splits = []
    for path, scene, values in _on_scenes(data, paths):
        if values.max() > Role.BUFFER:
            raise SceneError(
                f"{path} holds {values.max()}; a split has 0 unused, 1 train, "
                "2 validation, 3 test, 4 buffer."
            )
        unlabelled = scene.classes == UNLABELLED
        drawn = scene.valid & (values == Role.TEST)
        if sampled and (lost := int((unlabelled & drawn).sum())):
            raise SceneError(
                f"{lost} of the {int(drawn.sum())} pixels of the probability sample in "
                f"{path} have no label; without them the rest is no random sample of "
                "the map. Label them, or leave out --probability-sample."
            )
        splits.append(np.where(unlabelled, 0, values).astype(np.uint8))
    _check_intent(data, splits, paths, "give each class training pixels (1)")
    return splits


def from_test_labels(data: LabelledData, paths: Sequence[str]) -> list[Roles]:
    """Test where a second label map has a label, train on all other labels.

    Args:
        data: Labelled by both maps; see `labelled_scene.load`.
        paths: Label maps of the test pixels, one for each scene.

    Raises:
        SceneError: A map does not fit, or leaves a class without training pixels.
    """
    splits = []
    for _, scene, codes in _on_scenes(data, paths):
        roles = np.where(codes != 0, Role.TEST, Role.TRAIN)
        roles[scene.classes == UNLABELLED] = Role.NONE
        splits.append(roles.astype(np.uint8))
    _check_intent(data, splits, paths, "label training pixels of each class")
    return splits


def _on_scenes(
    data: LabelledData, paths: Sequence[str]
) -> Iterator[tuple[str, LabelledScene, NDArray[np.int64]]]:
    """Read one raster for each labelled scene, cut to the scene's labelled part."""
    if len(paths) != len(data.labelled):
        raise SceneError(
            f"{len(paths)} split raster(s) for {len(data.labelled)} scene(s); give one "
            "for each, in the same order."
        )
    used = [path for path, has in zip(paths, data.labelled, strict=True) if has]
    for path, scene in zip(used, data.scenes, strict=True):
        values, _ = read_codes(path, scene.info)
        rows, cols = scene.classes.shape
        part = values[scene.row : scene.row + rows, scene.col : scene.col + cols]
        yield path, scene, part


def _check_intent(
    data: LabelledData, splits: list[Roles], paths: Sequence[str], remedy: str
) -> None:
    """Refuse a split that cannot be used.

    A file states its author's intent: a class that it does not test is reported (see
    `warnings`), a class that cannot be learned is refused.
    """
    counts = count(data, splits)
    if not counts[:, Role.TEST].any():
        raise SceneError(
            f"{', '.join(paths)}: no labelled pixel is test, so accuracy cannot "
            "be measured."
        )
    _require(data, counts, (Role.TRAIN,), remedy)


def per_class(data: LabelledData, samples: int, seed: int) -> list[Roles]:
    """Draw ``samples`` training pixels of each class at random; the rest is test.

    Raises:
        SceneError: A class has too few pixels.
    """
    small = {
        c.name: n
        for c, n in zip(data.classes, data.counts(), strict=True)
        if n <= samples
    }
    if small:
        listed = ", ".join(f"{name} has {n}" for name, n in small.items())
        most = min(small.values()) - 1
        fewer = f"Choose at most {most}, or merge" if most else "Merge"
        raise SceneError(
            f"--samples-per-class {samples} leaves no test pixel: {listed}. {fewer} or "
            "drop the class."
        )
    return _draw(data, seed, lambda _: samples)


def fraction(data: LabelledData, share: float, seed: int) -> list[Roles]:
    """Draw a share of each class, at least one pixel, for training; the rest is test.

    Raises:
        SceneError: A class is left without test pixels.
    """
    splits = _draw(data, seed, lambda size: max(1, round(share * size)))
    _require(
        data,
        count(data, splits),
        (Role.TRAIN, Role.TEST),
        "choose a smaller --train-fraction, or merge or drop the class",
    )
    return splits


def _draw(data: LabelledData, seed: int, size: Callable[[int], int]) -> list[Roles]:
    splits = [
        np.where(s.classes != UNLABELLED, Role.TEST, Role.NONE).astype(np.uint8)
        for s in data.scenes
    ]
    for index in range(len(data.classes)):
        # A stream of its own: another class more or less leaves this draw as it is.
        rng = np.random.default_rng([seed, data.classes[index].code])
        # (scene, flat pixel) of every pixel of the class
        places = [np.flatnonzero(s.classes == index) for s in data.scenes]
        owner = np.repeat(np.arange(len(places)), [len(p) for p in places])
        flat = np.concatenate(places)
        chosen = rng.permutation(len(flat))[: size(len(flat))]
        for scene, pixel in zip(owner[chosen], flat[chosen], strict=True):
            splits[scene].flat[pixel] = Role.TRAIN
    return splits


def spatial(data: LabelledData, receptive_field: int, seed: int) -> list[Roles]:
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
    places = overlap.places(data.scenes)
    met = overlap.meetings(data.scenes, receptive_field - 1)
    best: tuple[float, list[Roles]] | None = None
    for multiple in (8, 4, 2, 1):
        if best is not None and best[0] >= GOOD_SPLIT:
            break
        for _ in range(attempts):
            side = max(receptive_field * multiple, MIN_SIDE)
            splits = _in_blocks(data, places, side, rng)
            _add_buffer(splits, receptive_field, met)
            score = _score(count(data, splits))
            # Larger blocks are further apart: smaller ones must be clearly better.
            if best is None or score > best[0] * 1.1:
                best = score, splits
    assert best is not None
    _require(
        data,
        count(data, best[1]),
        (Role.TRAIN, Role.TEST),
        "label a second place of that class, drop it, give your own split (--split "
        "FILE), or use --samples-per-class N, which flatters the accuracy",
    )
    return best[1]


def _in_blocks(
    data: LabelledData,
    places: Sequence[overlap.Place],
    side: int,
    rng: np.random.Generator,
) -> list[Roles]:
    """Lay randomly shifted grids over the scenes and give each block one role."""
    shifts, spans = {}, []
    for number, (scene, place) in enumerate(zip(data.scenes, places, strict=True)):
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
        members = [n for n, place in enumerate(places) if place.grid == grid]
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
    wanted = shares[:, None] * counts.sum(axis=0)  # (role, class)
    lacking = wanted.copy()
    roles = np.full(len(counts), Role.NONE, dtype=np.uint8)
    weights = rng.uniform(0.5, 1.5, len(counts))
    free: NDArray[np.bool_] = counts.sum(axis=1) > 0
    while free.any():
        left = counts[free].sum(axis=0)
        rarest = int(np.where(left > 0, left, np.inf).argmin())
        block = int(np.where(free, counts[:, rarest] * weights, -1).argmax())
        # Training and test must have something of every class; validation may not.
        empty = lacking[:2, rarest] == wanted[:2, rarest]
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
    wanted = min(MIN_PIXELS, VALIDATION_SHARE * total.sum())
    enough = min(float(counts[:, Role.VALIDATION].sum()) / wanted, 1)
    rating = served.min() + 0.2 * served.mean() + 0.1 * everyone
    return float(rating * (2 + enough) / 3)


def count(data: LabelledData, splits: Sequence[Roles]) -> NDArray[np.int64]:
    """Count pixels, shape ``(class, role)``."""
    out = np.zeros((len(data.classes), len(Role)), dtype=np.int64)
    for scene, roles in zip(data.scenes, splits, strict=True):
        used = scene.classes != UNLABELLED
        np.add.at(out, (scene.classes[used], roles[used]), 1)
    return out


def seen_in_training(
    data: LabelledData, splits: Sequence[Roles], halo: int
) -> tuple[int, int]:
    """Count test pixels that lie inside the window of a training pixel.

    Where scenes overlap, the window of one shows the ground of the other.

    Returns:
        Test pixels that training windows contain, and all test pixels.
    """
    met = overlap.meetings(data.scenes, halo)
    windows = overlap.near([roles == Role.TRAIN for roles in splits], halo, met)
    tested = [roles == Role.TEST for roles in splits]
    seen = sum(int((w & t).sum()) for w, t in zip(windows, tested, strict=True))
    return seen, sum(int(t.sum()) for t in tested)


def warnings(data: LabelledData, splits: Sequence[Roles], halo: int) -> list[str]:
    """Say what limits the accuracy that this split can measure."""
    said = []
    seen, total = seen_in_training(data, splits, halo)
    if seen:
        said.append(
            f"{seen} of {total} test pixels ({100 * seen / total:.0f} %) lie inside "
            "windows of training pixels: the accuracy is flattered. --split disjoint "
            "avoids it."
        )
    counts = count(data, splits)
    trained, tested = counts[:, Role.TRAIN], counts[:, Role.TEST]

    def listed(few: NDArray[np.bool_], number: NDArray[np.int64]) -> str:
        return ", ".join(
            f"{data.classes[k].name} ({number[k]})" for k in np.flatnonzero(few)
        )

    if (untested := tested == 0).any():
        names = ", ".join(data.classes[k].name for k in np.flatnonzero(untested))
        said.append(f"No test pixel of {names}: it is not in the averages.")
    if (few := trained < FEW_TRAIN).any():
        said.append(
            f"Fewer than {FEW_TRAIN} training pixels: {listed(few, trained)}. Such a "
            "class is hardly learnt; label more of it, or merge it with another."
        )
    if (few := (tested > 0) & (tested < FEW_TEST)).any():
        said.append(
            f"Fewer than {FEW_TEST} test pixels: {listed(few, tested)}. Their accuracy "
            "is uncertain, and with it the average accuracy."
        )
    return said


def _require(
    data: LabelledData,
    counts: NDArray[np.int64],
    roles: tuple[Role, ...],
    remedy: str,
) -> None:
    lacking = (counts[:, list(roles)] == 0).any(axis=1)
    if not lacking.any():
        return
    listed = "; ".join(
        f"{c.name}: {n[Role.TRAIN]} train, {n[Role.VALIDATION]} validation, "
        f"{n[Role.TEST]} test of {n.sum()}"
        for c, n, lacks in zip(data.classes, counts, lacking, strict=True)
        if lacks
    )
    needed = " and ".join(r.name.lower() for r in roles)
    raise SceneError(
        f"The split leaves a class without {needed} pixels: {listed}. Remedy: {remedy}."
    )

"""Divides labelled pixels into training, validation and test: by files, or at random.

Random modes choose pixel by pixel, so that windows of training and test pixels
overlap; `hsi_train.splitting.blocks` keeps them apart.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_train.data.labelled_scene import UNLABELLED, LabelledData, LabelledScene
from hsi_train.data.labels import read_codes
from hsi_train.data.roles import Role
from hsi_train.splitting import overlap

FEW_TRAIN, FEW_TEST = 5, 10  # pixels of a class below which little is learnt or told


def from_files(
    data: LabelledData, paths: Sequence[str], sampled: bool = False
) -> LabelledData:
    """Read the roles from rasters on the scenes' grids: 1 train, 2 validation, 3 test.

    Args:
        data: Labelled pixels to divide.
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
    return _checked(data.divided(splits), paths, "give each class training pixels (1)")


def from_test_labels(data: LabelledData, paths: Sequence[str]) -> LabelledData:
    """Test where a second label map has a label, train on all other labels.

    Args:
        data: Labelled by both maps; see `loading.load`.
        paths: Label maps of the test pixels, one for each scene.

    Raises:
        SceneError: A map does not fit, or leaves a class without training pixels.
    """
    splits = []
    for _, scene, codes in _on_scenes(data, paths):
        roles = np.where(codes != 0, Role.TEST, Role.TRAIN)
        roles[scene.classes == UNLABELLED] = Role.NONE
        splits.append(roles.astype(np.uint8))
    return _checked(data.divided(splits), paths, "label training pixels of each class")


def _on_scenes(
    data: LabelledData, paths: Sequence[str]
) -> Iterator[tuple[str, LabelledScene, NDArray[np.int64]]]:
    """Read one raster for each labelled scene, cut to the scene's labelled part.

    The rasters are given for all scenes, or for the labelled ones as a run writes them.
    """
    groups = data.by_file()
    if len(paths) not in (len(data.labelled), len(groups)):
        raise SceneError(
            f"{len(paths)} split raster(s) for {len(data.labelled)} scene(s), "
            f"{len(groups)} of them labelled; give one for each, or for each "
            "labelled one, in the same order."
        )
    if len(paths) == len(data.labelled):
        paths = [path for path, has in zip(paths, data.labelled, strict=True) if has]
    for path, scenes in zip(paths, groups, strict=True):
        values, _ = read_codes(path, scenes[0].info)
        for scene in scenes:
            rows, cols = scene.classes.shape
            part = values[scene.row : scene.row + rows, scene.col : scene.col + cols]
            yield path, scene, part


def _checked(data: LabelledData, paths: Sequence[str], remedy: str) -> LabelledData:
    """Return the divided data, or refuse a split that cannot be used.

    A file states its author's intent: a class that it does not test is reported (see
    `caveats`), a class that cannot be learned is refused.
    """
    counts = data.pixels_by_role()
    if not counts[:, Role.TEST].any():
        raise SceneError(
            f"{', '.join(paths)}: no labelled pixel is test, so accuracy cannot "
            "be measured."
        )
    require(data, (Role.TRAIN,), remedy)
    return data


def all_train(data: LabelledData) -> LabelledData:
    """Train on every labelled pixel, and measure on none."""
    return data.divided(
        [
            np.where(s.classes != UNLABELLED, Role.TRAIN, Role.NONE).astype(np.uint8)
            for s in data.scenes
        ]
    )


def per_class(data: LabelledData, samples: int, seed: int) -> LabelledData:
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


def fraction(data: LabelledData, share: float, seed: int) -> LabelledData:
    """Draw a share of each class, at least one pixel, for training; the rest is test.

    Raises:
        SceneError: A class is left without test pixels.
    """
    drawn = _draw(data, seed, lambda size: max(1, round(share * size)))
    require(
        drawn,
        (Role.TRAIN, Role.TEST),
        "choose a smaller --train-fraction, or merge or drop the class",
    )
    return drawn


def _draw(data: LabelledData, seed: int, size: Callable[[int], int]) -> LabelledData:
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
    return data.divided(splits)


def seen_in_training(data: LabelledData, halo: int) -> tuple[int, int]:
    """Count test pixels that the window of a training pixel shows.

    Where scenes overlap, the window of one shows the ground of the other.

    Returns:
        Test pixels that training windows contain, and all test pixels.
    """
    met = overlap.meetings(data.scenes, halo)
    windows = overlap.near([s.roles == Role.TRAIN for s in data.scenes], halo, met)
    tested = [s.roles == Role.TEST for s in data.scenes]
    windows = [
        w if s.hidden is None else w & ~s.hidden
        for w, s in zip(windows, data.scenes, strict=True)
    ]
    seen = sum(int((w & t).sum()) for w, t in zip(windows, tested, strict=True))
    return seen, sum(int(t.sum()) for t in tested)


def caveats(data: LabelledData, halo: int) -> list[str]:
    """Return messages about what limits the accuracy that this split can measure."""
    messages = []
    seen, total = seen_in_training(data, halo)
    if seen:
        messages.append(
            f"{seen} of {total} test pixels ({100 * seen / total:.0f} %) lie inside "
            "windows of training pixels: the accuracy is flattered. --split disjoint "
            "avoids it."
        )
    if close := hidden_neighbours(data, halo, Role.TEST):
        messages.append(
            f"Labels of {', '.join(close)} lie in one place: training and test pixels "
            "are neighbours, though no training window shows a test pixel, so that "
            "their accuracy is flattered. Label a second place."
        )
    messages += _validation_caveats(data, halo)
    counts = data.pixels_by_role()
    trained, tested = counts[:, Role.TRAIN], counts[:, Role.TEST]

    def listed(few: NDArray[np.bool_], number: NDArray[np.int64]) -> str:
        return ", ".join(
            f"{data.classes[k].name} ({number[k]})" for k in np.flatnonzero(few)
        )

    if (untested := tested == 0).any():
        names = ", ".join(data.classes[k].name for k in np.flatnonzero(untested))
        messages.append(f"No test pixel of {names}: it is not in the averages.")
    if (few := trained < FEW_TRAIN).any():
        messages.append(
            f"Fewer than {FEW_TRAIN} training pixels: {listed(few, trained)}. Such a "
            "class is hardly learnt; label more of it, or merge it with another."
        )
    if (few := (tested > 0) & (tested < FEW_TEST)).any():
        messages.append(
            f"Fewer than {FEW_TEST} test pixels: {listed(few, tested)}. Their accuracy "
            "is uncertain, and with it the average accuracy."
        )
    return messages


def _validation_caveats(data: LabelledData, halo: int) -> list[str]:
    """Name the classes that validation does not see, or sees beside training pixels."""
    messages = []
    validated = data.pixels_by_role()[:, Role.VALIDATION]
    if validated.any() and not validated.all():
        unseen = ", ".join(data.classes[k].name for k in np.flatnonzero(validated == 0))
        messages.append(
            f"No validation pixel of {unseen}: the length of training and the "
            "confidence are chosen without it."
        )
    if close := hidden_neighbours(data, halo, Role.VALIDATION):
        messages.append(
            f"Validation pixels of {', '.join(close)} are neighbours of training "
            "pixels, though no training window shows one: confidence may be too high."
        )
    return messages


def hidden_neighbours(data: LabelledData, halo: int, held_out: Role) -> list[str]:
    """Name classes whose training windows reach over held-out pixels hidden in them."""
    names = []
    if any(scene.hidden is not None for scene in data.scenes):
        for index, entry in enumerate(data.classes):
            mine = [scene.classes == index for scene in data.scenes]
            trained, others = (
                [(s.roles == role) & m for s, m in zip(data.scenes, mine, strict=True)]
                for role in (Role.TRAIN, held_out)
            )
            reached = overlap.near(trained, halo, [])
            if any((r & o).any() for r, o in zip(reached, others, strict=True)):
                names.append(entry.name)
    return names


def require(data: LabelledData, roles: tuple[Role, ...], remedy: str) -> None:
    """Refuse a split that leaves a class without pixels of some roles.

    Args:
        data: The divided pixels.
        roles: Roles that every class needs.
        remedy: Advice for the user.

    Raises:
        SceneError: A class lacks a role.
    """
    counts = data.pixels_by_role()
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

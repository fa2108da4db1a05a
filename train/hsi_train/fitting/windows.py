"""Cuts training windows out of scenes in memory, and augments them.

Nothing is copied per pixel: a window is cut when its step comes. A window of side
``outputs + 2 halo`` yields ``outputs`` x ``outputs`` classified pixels, so a patch is
the case ``outputs = 1``.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from hsi_train.data.cutting import cut_cube
from hsi_train.data.labelled_scene import LabelledScene
from hsi_train.data.roles import Role
from hsi_train.method import IGNORED, Batch, Corner, Problem
from hsi_train.splitting import overlap


class Windows:
    """The training windows of all scenes."""

    def __init__(
        self,
        scenes: list[LabelledScene],
        halo: int,
        fill: NDArray[np.float64],
    ) -> None:
        """Prepare masks.

        Args:
            scenes: Labelled scenes.
            halo: Context of an output, pixels.
            fill: What stands for a missing value, shape ``(band,)``.
        """
        self._scenes = scenes
        self._halo = halo
        self._fill = fill.astype(np.float32)[:, None, None]
        self.targets = [
            np.where(s.roles == Role.TRAIN, s.classes, IGNORED) for s in scenes
        ]
        # A window shows what the patches of its training pixels would show and nothing
        # else, so batch statistics hold no pixel that no patch contains.
        shown = overlap.near([t != IGNORED for t in self.targets], halo, [])
        self._context = [
            s.valid & m if s.hidden is None else s.valid & m & ~s.hidden
            for s, m in zip(scenes, shown, strict=True)
        ]

    def training_pixels(self) -> list[Corner]:
        """List the training pixels, in order of scene, row and column."""
        return [
            Corner(index, int(row), int(col))
            for index, target in enumerate(self.targets)
            for row, col in zip(*np.nonzero(target != IGNORED), strict=True)
        ]

    def unlabelled(
        self, outputs: int, count: int, rng: np.random.Generator
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """Cut windows at random that show nothing of the test and validation pixels.

        Pixels that a patch of theirs holds, also in a scene that overlaps theirs, are
        filled, as missing ones are. No label is needed; where all pixels were drawn at
        random, no such window may be left.

        Yields:
            Cube ``(band, outputs + 2 halo, outputs + 2 halo)`` in stored units, and
            whether nothing is filled in the patch of an output, ``(outputs, outputs)``.
        """
        side = 2 * self._halo + 1
        held_out = (Role.TEST, Role.VALIDATION)
        tested = [np.isin(s.roles, held_out) for s in self._scenes]
        met = overlap.meetings(self._scenes, self._halo, labelled_only=False)
        shown = overlap.near(tested, self._halo, met)
        masks, corners = [], []
        for index, (scene, seen) in enumerate(zip(self._scenes, shown, strict=True)):
            known = scene.valid & ~seen
            whole = ndimage.minimum_filter(known, side, mode="mirror")
            masks.append((known, np.pad(whole, ((0, outputs), (0, outputs)))))
            starts = product(*(range(0, length, outputs) for length in known.shape))
            corners += [
                (index, row, col)
                for row, col in starts
                if whole[row : row + outputs, col : col + outputs].any()
            ]
        for number in rng.permutation(len(corners))[:count]:
            index, row, col = corners[number]
            known, whole = masks[index]
            rows, cols = (
                (start - self._halo, start + outputs + self._halo)
                for start in (row, col)
            )
            cube = cut_cube(self._scenes[index], known, self._fill, rows, cols)
            yield cube, whole[row : row + outputs, col : col + outputs]

    def grid(self, outputs: int, rng: np.random.Generator | None) -> list[Corner]:
        """List windows of a grid, randomly shifted, that hold a training pixel."""
        places = []
        for index, target in enumerate(self.targets):
            shift = (0, 0) if rng is None else -rng.integers(0, outputs, 2)
            for row in range(shift[0], target.shape[0], outputs):
                for col in range(shift[1], target.shape[1], outputs):
                    part = target[
                        max(row, 0) : row + outputs, max(col, 0) : col + outputs
                    ]
                    if (part != IGNORED).any():
                        places.append(Corner(index, int(row), int(col)))
        return places

    def cut(
        self, place: Corner, outputs: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Cut one window.

        Returns:
            Cube ``(band, outputs + 2 halo, outputs + 2 halo)`` in stored units, and
            class indices ``(outputs, outputs)``, `IGNORED` outside the scene.
        """
        scene, target = self._scenes[place.scene], self.targets[place.scene]
        cube = cut_cube(
            scene,
            self._context[place.scene],
            self._fill,
            (place.row - self._halo, place.row + outputs + self._halo),
            (place.col - self._halo, place.col + outputs + self._halo),
        )
        classes = np.full((outputs, outputs), IGNORED, dtype=np.int64)
        rows, cols = target.shape
        top, left = max(-place.row, 0), max(-place.col, 0)
        part = target[
            place.row + top : min(place.row + outputs, rows),
            place.col + left : min(place.col + outputs, cols),
        ]
        classes[top : top + part.shape[0], left : left + part.shape[1]] = part
        return cube, classes

    def batch(self, places: list[Corner], outputs: int) -> Batch:
        """Cut several windows into one batch."""
        cubes, classes = zip(*(self.cut(p, outputs) for p in places), strict=True)
        return Batch(
            torch.from_numpy(np.stack(cubes)), torch.from_numpy(np.stack(classes))
        )


def shuffled(
    places: list[Any], size: int, rng: np.random.Generator
) -> Iterator[list[Any]]:
    """Yield the places in random order, in even steps of at most ``size``.

    A short last step would weigh its places more, and a step of one patch has no batch
    statistics.
    """
    order = rng.permutation(len(places))
    for step in np.array_split(order, -(-len(order) // size)):
        yield [places[i] for i in step]


def augment(
    batch: Batch,
    problem: Problem,
    gain: float,
    noise: float,
    generator: torch.Generator,
    masked: float = 0.0,
) -> Batch:
    """Turn and flip windows, vary their brightness, add noise, hide pixels.

    A network that overfits learns windows by heart; of hidden pixels it has to learn
    what their neighbours say (He et al., CVPR 2022, hide patches for the same reason).

    Args:
        batch: Windows in stored units.
        problem: Units of gain and noise: one standard deviation of a band.
        gain: Standardised values are multiplied by 1 - gain to 1 + gain.
        noise: Standard deviation of the noise, in standard deviations of a band.
        generator: Source of all randomness.
        masked: Share of the pixels for which the band means stand, the classified ones
            included.

    Returns:
        A new batch; each window has its own turn and gain.
    """
    draws = torch.randint(0, 8, (len(batch.cube),), generator=generator).tolist()

    def turned(maps: Tensor) -> Tensor:
        """Turn and flip every window as its draw says."""
        flipped = [
            m.flip(-1) if d >= 4 else m for m, d in zip(maps, draws, strict=True)
        ]
        pairs = zip(flipped, draws, strict=True)
        return torch.stack([torch.rot90(m, d % 4, (-2, -1)) for m, d in pairs])

    cube = turned(batch.cube)
    mean = problem.band_mean.float()[:, None, None]
    std = problem.band_std.float()[:, None, None]
    factor = 1 + gain * (2 * torch.rand(len(cube), 1, 1, 1, generator=generator) - 1)
    cube = mean + factor * (cube - mean)
    cube = cube + noise * std * torch.randn(cube.shape, generator=generator)
    if masked > 0:
        drawn = torch.rand(len(cube), 1, *cube.shape[2:], generator=generator)
        cube = torch.where(drawn < masked, mean, cube)
    # What the linear path says of the window as it was is only turned with it.
    linear = None if batch.linear is None else turned(batch.linear)
    return Batch(cube, turned(batch.classes), linear)

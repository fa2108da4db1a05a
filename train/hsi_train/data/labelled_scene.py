"""Labelled scenes in memory: cube, classes and roles of the parts that have labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.model.model_file import ClassEntry
from hsi_runtime.scenes.scene import Cube, SceneInfo
from hsi_train.data.roles import Role, Roles

UNLABELLED = -1  # class index of a pixel without a label


@dataclass(frozen=True)
class LabelledScene:
    """The labelled part of a scene, with the context its edge pixels need.

    Attributes:
        info: The whole scene.
        row: First row of the part within the scene.
        col: First column of the part within the scene.
        cube: Stored units, used bands only, shape ``(band, row, col)``.
        valid: True for pixels with a value in every band, shape ``(row, col)``.
        classes: Class index or `UNLABELLED`, shape ``(row, col)``.
        roles: Role of every pixel, shape ``(row, col)``; all `Role.NONE` until the
            labelled pixels are divided.
        hidden: Held-out pixels that training windows must not show, shape ``(row,
            col)``; None where the split lets windows show what they reach.
    """

    info: SceneInfo
    row: int
    col: int
    cube: Cube
    valid: NDArray[np.bool_]
    classes: NDArray[np.int16]
    roles: Roles
    hidden: NDArray[np.bool_] | None = None


def places_of(
    scenes: Sequence[LabelledScene], role: Role
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """List the labelled pixels of a role, in order of scene, row and column.

    Returns:
        Scene, row and column, shape ``(pixel, 3)``; class indices, shape ``(pixel,)``.
    """
    places = np.concatenate(
        [
            np.insert(np.argwhere(scene.roles == role), 0, index, axis=1)
            for index, scene in enumerate(scenes)
        ]
    )
    classes = np.array([scenes[s].classes[r, c] for s, r, c in places], dtype=np.intp)
    return places, classes


def on_ground(
    scenes: Sequence[LabelledScene], places: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Count places from the corner of the whole scene instead of that of its part.

    Which part of a scene is read depends on the context that a method needs. Blocks of
    pixels are counted from the scene's corner, so that they are the same for all.

    Args:
        scenes: The labelled parts.
        places: Part, row and column, shape ``(pixel, 3)``.

    Returns:
        Scene, row and column, shape ``(pixel, 3)``; parts of a scene have one number.
    """
    first: dict[int, int] = {}
    corners = [
        (first.setdefault(id(scene.info), number), scene.row, scene.col)
        for number, scene in enumerate(scenes)
    ]
    numbers, *corner = np.array(corners, dtype=np.intp).reshape(-1, 3)[places[:, 0]].T
    return np.column_stack([numbers, places[:, 1:] + np.column_stack(corner)])


class Spectra(NamedTuple):
    """Which spectra a scene of one column holds, in order of row.

    Attributes:
        names: What the files call them.
        objects: Number of the object that each is of, such as a leaf, ``(row,)``.
        grouped: True if the user named the objects; else each spectrum is its own.
    """

    names: list[str]
    objects: NDArray[np.intp]
    grouped: bool


@dataclass(frozen=True)
class LabelledData:
    """All scenes of a training run, on one list of bands and one list of classes.

    Attributes:
        scenes: The labelled parts; several of one scene where its labels lie far apart.
        classes: Code, name and colour of every class, by class index.
        bands: 0-based bands of the first scene that are used.
        warnings: Sentences the user should read.
        labelled: For every scene given, True if it has a label and is in ``scenes``.
        spectra: Of spectra that were measured one by one: they are the pixels of the
            one scene, side by side by chance. None for real scenes.
    """

    scenes: list[LabelledScene]
    classes: list[ClassEntry]
    bands: NDArray[np.intp]
    warnings: list[str]
    labelled: list[bool]
    spectra: Spectra | None = None

    @property
    def units(self) -> str:
        """What is classified, for messages."""
        return "pixels" if self.spectra is None else "spectra"

    def by_file(self) -> list[list[LabelledScene]]:
        """Group the parts by the scene that they belong to."""
        groups: dict[int, list[LabelledScene]] = {}
        for scene in self.scenes:
            groups.setdefault(id(scene.info), []).append(scene)
        return list(groups.values())

    @property
    def reference(self) -> SceneInfo:
        """The scene that defines bands and units."""
        return self.scenes[0].info

    def counts(self) -> list[int]:
        """Count the labelled pixels of each class."""
        total = np.zeros(len(self.classes), dtype=np.int64)
        for scene in self.scenes:
            used = scene.classes[scene.classes != UNLABELLED]
            total += np.bincount(used, minlength=len(self.classes))
        return [int(n) for n in total]

    def divided(
        self,
        roles: Sequence[Roles],
        hidden: Sequence[NDArray[np.bool_]] | None = None,
    ) -> "LabelledData":
        """Return the same data with these roles, one array for each scene.

        Args:
            roles: Role of every pixel.
            hidden: Pixels that training windows must not show; None for no such rule.
        """
        masks = [None] * len(self.scenes) if hidden is None else hidden
        scenes = [
            replace(scene, roles=role, hidden=mask)
            for scene, role, mask in zip(self.scenes, roles, masks, strict=True)
        ]
        return replace(self, scenes=scenes)

    def pixels_by_role(self) -> NDArray[np.int64]:
        """Count the labelled pixels, shape ``(class, role)``."""
        total = np.zeros((len(self.classes), len(Role)), dtype=np.int64)
        for scene in self.scenes:
            used = scene.classes != UNLABELLED
            np.add.at(total, (scene.classes[used], scene.roles[used]), 1)
        return total

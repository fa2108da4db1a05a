"""Data sets of the accuracy benchmark that test another place than that of training.

Half of a scene, or another site of the same camera. Nothing of the place that is tested
is in training: not its labels, and no window reaches across.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
from numpy.typing import NDArray

from hsi_train import recipe
from hsi_train.data.labelled_scene import UNLABELLED, LabelledData, LabelledScene
from hsi_train.data.roles import Role
from hsi_train.splitting import blocks

LEARNED, TESTED = Role.TRAIN, Role.TEST
TREES = "$HSI_DATA/neon_trees"
INDIAN_PINES = "$HSI_BENCHMARKS/Indian_pines_corrected.mat:indian_pines_corrected"
SHARED_GENERA = ("Acer", "Nyssa", "Pinus", "Quercus")

# Gives LEARNED, TESTED or neither to every pixel of a scene.
Places = Callable[[LabelledScene], NDArray[np.uint8]]


def across(axis: int, cut: int, receptive_field: int, reverse: bool = False) -> Places:
    """Learn on one side of a line and test on the other, a receptive field apart.

    Args:
        axis: 0 for a cut between rows, 1 between columns.
        cut: Row or column at which the second side begins.
        receptive_field: Side of the largest window, px.
        reverse: Learn on the second side.
    """

    def places(scene: LabelledScene) -> NDArray[np.uint8]:
        offset = (scene.row, scene.col)[axis]
        at = np.indices(scene.classes.shape)[axis] + offset - cut
        at = -1 - at if reverse else at
        out = np.full(scene.classes.shape, Role.NONE, np.uint8)
        out[at < 0] = LEARNED
        out[at >= receptive_field - 1] = TESTED
        return out

    return places


def site(learned: str) -> Places:
    """Learn in the scenes whose names begin so, and test in all others."""

    def places(scene: LabelledScene) -> NDArray[np.uint8]:
        here = scene.info.path.name.startswith(learned)
        return np.full(scene.classes.shape, LEARNED if here else TESTED, np.uint8)

    return places


def divided(
    places: Places, receptive_field: int
) -> Callable[[LabelledData, int], LabelledData]:
    """Return what divides labelled data by place.

    Blocks of the place of training are held out by seed, and validate. What would be
    tested there is apart from them, and trains.
    """

    def divide(data: LabelledData, seed: int) -> LabelledData:
        all_places = [places(scene) for scene in data.scenes]
        learning = [
            replace(scene, classes=np.where(at == LEARNED, scene.classes, UNLABELLED))
            for scene, at in zip(data.scenes, all_places, strict=True)
        ]
        drawn = blocks.spatial(replace(data, scenes=learning), receptive_field, seed)
        roles = []
        for scene, at, own in zip(data.scenes, all_places, drawn.scenes, strict=True):
            part = np.where(own.roles == Role.TEST, Role.TRAIN, own.roles)
            labelled = scene.classes != UNLABELLED
            part[labelled & (at == TESTED)] = Role.TEST
            part[labelled & (at == Role.NONE)] = Role.BUFFER
            roles.append(part.astype(np.uint8))
        return data.divided(roles)

    return divide


def trees(folder: Path) -> dict[str, Any]:
    """Write the crowns of two sites, of the genera that both have, into one file."""
    path = folder / "crowns.fgb"
    fields, shapes = None, []
    names: list[NDArray[Any]] = []
    for name in ("MLBS", "OSBS"):
        source = recipe.expanded(f"{TREES}/crowns_{name}.gpkg")
        fields, _, geometry, values = pyogrio.raw.read(source, columns=["genus"])
        kept = np.isin(values[0], SHARED_GENERA)
        shapes.append(geometry[kept])
        names.append(values[0][kept])
    assert fields is not None
    pyogrio.raw.write(
        path,
        np.concatenate(shapes),
        [np.concatenate(names)],
        ["genus"],
        crs=fields["crs"],
        geometry_type="MultiPolygon",
        promote_to_multi=True,
    )
    return {
        "data": {
            "scenes": [f"{TREES}/scenes"],
            "labels": [str(path)],
            "label_field": "genus",
            "quantity": "reflectance",
        }
    }


def indian_pines(folder: Path) -> dict[str, Any]:
    """Leave out the classes that lie on one side of row 72 only."""
    return {
        "data": {
            "scenes": [INDIAN_PINES],
            "labels": ["$HSI_BENCHMARKS/Indian_pines_gt.mat:indian_pines_gt"],
            "exclude": ["4", "7", "8", "9", "12", "13", "15", "16"],
        }
    }

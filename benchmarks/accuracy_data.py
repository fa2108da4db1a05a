"""The data sets of the accuracy benchmark, and which pixel trains or tests in each.

A split is drawn once for a data set and a seed and written as rasters; every method and
every baseline reads those, so all see the same pixels. Distances are those of the
method with the largest receptive field, so one split is fair to all.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from hsi_runtime.errors import RecipeError, SceneError
from hsi_train import methods, recipe, training
from hsi_train.data.labelled_scene import UNLABELLED, LabelledData
from hsi_train.data.roles import Role
from hsi_train.run_folder import folder as run_folder
from hsi_train.run_folder import origin
from hsi_train.splitting import split

RECEPTIVE_FIELD = 19  # the largest of all methods

# SalinasA's fields are stripes that run from the upper left to the lower right, so
# column minus row cuts each of them. Two pixels whose u = column - row differ by 37 are
# at least 19 rows or 19 columns apart. The cut leaves class 1, the smallest, 21 pixels
# on each side.
TRAIN_TO, TEST_FROM = -14, -14 + 2 * RECEPTIVE_FIELD - 1


class DataSet(NamedTuple):
    """Scenes, labels and the way to divide them.

    Attributes:
        recipe: Recipe whose ``[data]`` and ``[split]`` tables count.
        split: Stands for the recipe's ``[split]``.
        divide: Divides in a way that no ``[split]`` can say.
    """

    recipe: str
    split: dict[str, Any] | None = None
    divide: Callable[[LabelledData, int], LabelledData] | None = None


class Division(NamedTuple):
    """A data set divided by one seed.

    Attributes:
        data: The ``[data]`` table of a recipe.
        split: Its ``[split]`` table, which names the rasters.
        digest: SHA-256 of every pixel's role and of the files of the scenes.
    """

    data: dict[str, Any]
    split: dict[str, Any]
    digest: str


def per_class(samples: int) -> dict[str, Any]:
    return {"mode": "per-class", "samples_per_class": samples}


def across_the_stripes(
    data: LabelledData, seed: int, samples: int = 10
) -> LabelledData:
    """Draw training pixels below one diagonal of a scene, test all above another.

    Raises:
        SceneError: A class has too few pixels on one side.
    """
    learning, roles = [], []
    for scene in data.scenes:
        rows, cols = np.indices(scene.classes.shape)
        u = cols + scene.col - rows - scene.row
        labelled = scene.classes != UNLABELLED
        classes = np.where(u <= TRAIN_TO, scene.classes, UNLABELLED)
        learning.append(replace(scene, classes=classes))
        part = np.where(labelled, Role.BUFFER, Role.NONE).astype(np.uint8)
        part[labelled & (u >= TEST_FROM)] = Role.TEST
        roles.append(part)
    drawn = split.per_class(replace(data, scenes=learning), samples, seed)
    for part, scene in zip(roles, drawn.scenes, strict=True):
        part[scene.roles == Role.TRAIN] = Role.TRAIN
    divided = data.divided(roles)
    untested = divided.pixels_by_role()[:, Role.TEST] == 0
    if untested.any():
        raise SceneError(f"No test pixel of {untested.sum()} class(es).")
    return divided


DATA_SETS = {
    "salinas_a": DataSet("salinas_a-mf2cnet", per_class(10)),
    "salinas_a_5": DataSet("salinas_a-mf2cnet", per_class(5)),
    "salinas_a_disjoint": DataSet("salinas_a-mf2cnet", divide=across_the_stripes),
    "enmap_potsdam": DataSet("enmap_potsdam-mf2cnet"),
    "neon_mlbs": DataSet("neon_mlbs-mf2cnet"),
}


def data_set(name: str) -> DataSet:
    """Return a data set.

    Raises:
        RecipeError: There is none of that name.
    """
    if name not in DATA_SETS:
        raise RecipeError(f"No data set {name!r}; there are {', '.join(DATA_SETS)}.")
    return DATA_SETS[name]


def check_receptive_field(method: str) -> None:
    """Refuse a method that sees further than the splits allow for.

    Raises:
        RecipeError: Its receptive field is larger.
    """
    side = methods.method_class(method).receptive_field
    if side > RECEPTIVE_FIELD:
        raise RecipeError(
            f"{method} sees {side} pixels, the splits are made for {RECEPTIVE_FIELD}; "
            "set RECEPTIVE_FIELD in accuracy_data.py."
        )


def divisions(name: str, seeds: range, folder: Path) -> dict[int, Division]:
    """Divide a data set once for each seed and write the splits below ``folder``."""
    chosen = data_set(name)
    content = recipe.load(chosen.recipe)
    content["split"] = chosen.split or content.get("split", {})
    parsed = recipe.parse(content)
    data = training.read_data(parsed, (RECEPTIVE_FIELD - 1) // 2)
    sources = [*parsed.data.scenes, *parsed.data.labels]
    scenes = [str(scene.info.path) for scene in data.scenes]
    present = origin.files_of([*map(recipe.expanded, sources), *scenes])
    files = sorted(origin.by_name(origin.digests(origin.stamps(present))).items())
    by_seed = {}
    for seed in seeds:
        if chosen.divide is not None:
            divided = chosen.divide(data, seed)
        else:
            seeded = msgspec.structs.replace(parsed, seed=seed)
            divided = training.divide(seeded, data, RECEPTIVE_FIELD)
        target = folder / f"{name}-{seed}"
        target.mkdir(parents=True, exist_ok=True)
        run_folder.write_splits(target, divided)
        # Scenes are read in the order of their names, and so are these.
        written = [str(p) for p in sorted(target.glob("split*.tif"))]
        digest = hashlib.sha256(repr(files).encode())
        for scene in divided.scenes:
            digest.update(repr((scene.row, scene.col, scene.roles.shape)).encode())
            digest.update(scene.roles.tobytes())
        by_seed[seed] = Division(
            content["data"], {"mode": "file", "files": written}, digest.hexdigest()
        )
    return by_seed

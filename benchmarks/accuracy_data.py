"""The data sets of the accuracy benchmark, and which pixel trains or tests in each.

A split is drawn once for a data set and a seed and written as rasters; every method and
its rivals read those, so all see the same pixels. Distances are those of the method
with the largest receptive field, so one split is fair to all.

Some data sets test another place than that of training: see `elsewhere`. In those of
few labels, five or ten pixels of each class train, and test pixels are apart from them.

Indian Pines is in $HSI_BENCHMARKS, a folder of your own, or left out; all else is in
$HSI_DATA or simulated. The simulated scenes are fixed: 2.5 m pixels that mix materials,
shadow, noise half as strong again as usual, and labels in squares of 3 x 3 pixels.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import code_digest
import elsewhere
import msgspec
import numpy as np
import rasterio
from numpy.typing import NDArray
from scipy.io import loadmat, savemat

from hsi_runtime.errors import RecipeError, SceneError
from hsi_train import inputs, methods, recipe
from hsi_train.data.labelled_scene import UNLABELLED, LabelledData
from hsi_train.data.roles import Role
from hsi_train.run_folder import folder as run_folder
from hsi_train.run_folder import origin
from hsi_train.simulate import DEFAULT_MATERIALS, SceneSpec, band_centres, write_scene
from hsi_train.simulate.materials import MATERIALS
from hsi_train.splitting import split

RECEPTIVE_FIELD = 19  # the largest of all methods

# SalinasA's fields are stripes that run from the upper left to the lower right, so
# column minus row cuts each of them. Two pixels whose u = column - row differ by 37 are
# at least 19 rows or 19 columns apart. The cut leaves class 1, the smallest, 21 pixels
# on each side.
TRAIN_TO, TEST_FROM = -14, -14 + 2 * RECEPTIVE_FIELD - 1


Content = dict[str, Any]  # tables of a recipe


class DataSet(NamedTuple):
    """Scenes, labels and the way to divide them.

    Attributes:
        recipe: Recipe whose ``[data]`` and ``[split]`` tables count, or what writes
            scenes, labels and splits into a folder and returns these tables.
        split: Stands for the recipe's ``[split]``.
        divide: Divides in a way that no ``[split]`` can say.
        few: Pixels of each class that train, drawn from those that would; None for all.
        seeds: Seeds by default: more where labels are few.
        needs: Environment variable of the folder that holds the scene.
        spec: Of a simulated scene. It stands for the scene's bytes in the digest: some
            values in a million are rounded otherwise on another processor.
    """

    recipe: str | Callable[[Path], Content]
    split: Content | None = None
    divide: Callable[[LabelledData, int], LabelledData] | None = None
    few: int | None = None
    seeds: int = 5
    needs: str = "HSI_DATA"
    spec: SceneSpec | None = None

    @property
    def present(self) -> bool:
        """Whether the folder of the scene is named."""
        return not self.needs or bool(os.environ.get(self.needs))

    def content(self, folder: Path) -> Content:
        """Return the tables of a recipe; write what they name."""
        if isinstance(self.recipe, str):
            return recipe.load(self.recipe)
        folder.mkdir(parents=True, exist_ok=True)
        return self.recipe(folder)


class Division(NamedTuple):
    """A data set divided by one seed.

    Attributes:
        data: The ``[data]`` table of a recipe.
        split: Its ``[split]`` table, which names the rasters.
        digest: SHA-256 of every pixel's role, of the labels and of the scenes.
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


def with_few(data: LabelledData, samples: int, seed: int) -> LabelledData:
    """Draw training pixels of each class; the others, and validation, are left out."""
    learned = [
        np.where(scene.roles == Role.TRAIN, scene.classes, UNLABELLED)
        for scene in data.scenes
    ]
    roles = [
        np.where(scene.roles == Role.TEST, Role.TEST, Role.NONE).astype(np.uint8)
        for scene in data.scenes
    ]
    for index in range(len(data.classes)):
        rng = np.random.default_rng([seed, data.classes[index].code])
        # (scene, row, col) of every pixel of the class
        places = [
            (k, *at) for k, c in enumerate(learned) for at in np.argwhere(c == index)
        ]
        for k, row, col in rng.permutation(places)[:samples]:
            roles[k][row, col] = Role.TRAIN
    return data.divided(roles)


MAT_TEXT = 116  # bytes
# Classes of the disjoint mask, 1 to 16, in the numbering of the label map.
MASK_CLASSES = (2, 3, 5, 6, 8, 10, 11, 12, 14, 1, 4, 7, 9, 13, 15, 16)


def indian_pines_fixed(folder: Path) -> Content:
    """Join the published label maps of training and test pixels: 695 and 9,671."""
    maps = loadmat(recipe.expanded("$HSI_BENCHMARKS/IndianPine.mat"))
    train, test = maps["TR"], maps["TE"]
    labels = np.where(train > 0, train, test)
    return _indian_pines(folder / "fixed.mat", labels, train > 0)


def indian_pines_disjoint(folder: Path) -> Content:
    """Train under the published mask, on 5,689 pixels, and test on all others."""
    truth = loadmat(recipe.expanded("$HSI_BENCHMARKS/Indian_pines_gt.mat"))
    masks = np.load(recipe.expanded("$HSI_DATA/gt_and_splits.npz"))
    mask = masks["indian_pines_disjoint_train"].astype(int)
    trained = np.array([0, *MASK_CLASSES])[mask]
    labels = np.where(mask > 0, trained, truth["indian_pines_gt"])
    return _indian_pines(folder / "disjoint.mat", labels, mask > 0)


def _indian_pines(path: Path, labels: Any, train: Any) -> Content:
    roles = np.where(train, Role.TRAIN, Role.TEST) * (labels > 0)
    arrays = {"labels": labels.astype(np.uint8), "roles": roles.astype(np.uint8)}
    savemat(path, arrays)
    with path.open("r+b") as file:  # the text before the arrays holds the time
        file.write(b"MATLAB 5.0 MAT-file".ljust(MAT_TEXT))
    return {
        "data": {"scenes": [elsewhere.INDIAN_PINES], "labels": [f"{path}:labels"]},
        "split": {"mode": "file", "files": [f"{path}:roles"]},
    }


SPOTS = 50  # of each class; they may overlap
SIDE = 240  # of a simulated scene, pixels
COVERS = tuple(name for name in MATERIALS if name != "shade")


def simulated(bands: int, materials: tuple[str, ...], seed: int) -> DataSet:
    """Return a simulated scene, labelled in spots of 3 x 3 pixels."""
    spec = SceneSpec(
        rows=SIDE,
        cols=SIDE,
        wavelengths_nm=band_centres(bands),
        materials=materials,
        resolution_m=2.5,
        noise=1.5,
        seed=seed,
    )

    def write(folder: Path) -> Content:
        scene, labels = folder / "scene.tif", folder / "labels.tif"
        if not labels.is_file():
            write_scene(spec, scene, truth=folder / "truth.tif", overwrite=True)
            _label_spots(folder / "truth.tif", labels, seed)
        return {"data": {"scenes": [str(scene)], "labels": [str(labels)]}}

    return DataSet(write, needs="", spec=spec)


def _label_spots(truth: Path, labels: Path, seed: int) -> None:
    """Keep the labels of some spots of each class, as polygons would have them."""
    with rasterio.open(truth) as file:
        codes, profile = file.read(1), file.profile
        names, colours = file.tags(1), file.colormap(1)
    with rasterio.open(labels, "w", **profile) as file:
        file.write(in_spots(codes, seed), 1)
        file.update_tags(1, **names)
        file.write_colormap(1, colours)


def in_spots(codes: NDArray[Any], seed: int) -> NDArray[Any]:
    """Keep the codes in some squares of 3 x 3 pixels of each class; 0 elsewhere."""
    rng = np.random.default_rng(seed)
    kept = np.zeros(codes.shape, dtype=bool)
    for code in np.unique(codes[codes > 0]):
        places = np.argwhere(codes == code)
        for row, col in places[rng.choice(len(places), SPOTS)]:
            spot = np.s_[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2]
            kept[spot] |= codes[spot] == code
    return np.where(kept, codes, 0).astype(codes.dtype)


# Column 150 lies between the tiles of EnMAP, row 72 in the middle of Indian Pines.
WEST_TO_EAST, EAST_TO_WEST, NORTH_TO_SOUTH = (
    elsewhere.divided(elsewhere.across(*cut), RECEPTIVE_FIELD)
    for cut in (
        (1, 150, RECEPTIVE_FIELD),
        (1, 150, RECEPTIVE_FIELD, True),
        (0, 72, RECEPTIVE_FIELD),
    )
)
TO_OSBS, TO_MLBS = (
    elsewhere.divided(elsewhere.site(learned), RECEPTIVE_FIELD)
    for learned in ("MLBS", "OSBS")
)

DATA_SETS = {
    "indian_pines_fixed": DataSet(indian_pines_fixed, needs="HSI_BENCHMARKS"),
    "indian_pines_disjoint": DataSet(indian_pines_disjoint, needs="HSI_BENCHMARKS"),
    "salinas_a": DataSet("salinas_a-mf2cnet", per_class(10), seeds=10),
    "salinas_a_5": DataSet("salinas_a-mf2cnet", per_class(5), seeds=10),
    "salinas_a_disjoint": DataSet(
        "salinas_a-mf2cnet", divide=across_the_stripes, seeds=10
    ),
    "enmap_potsdam": DataSet("enmap_potsdam-mf2cnet"),
    "neon_mlbs": DataSet("neon_mlbs-mf2cnet"),
    "simulated_60": simulated(60, DEFAULT_MATERIALS, 60),
    "simulated_150": simulated(150, ("crop", "grass", "dry_vegetation"), 150),
    "simulated_220": simulated(220, COVERS, 220),
    "salinas_a_disjoint_5": DataSet(
        "salinas_a-mf2cnet", divide=partial(across_the_stripes, samples=5)
    ),
    **{
        f"{name}_{few}": DataSet(recipe, few=few, needs=needs)
        for name, recipe, needs in (
            ("enmap_potsdam", "enmap_potsdam-mf2cnet", "HSI_DATA"),
            ("indian_pines_disjoint", indian_pines_disjoint, "HSI_BENCHMARKS"),
        )
        for few in (5, 10)
    },
    "enmap_west_to_east": DataSet("enmap_potsdam-mf2cnet", divide=WEST_TO_EAST),
    "enmap_east_to_west": DataSet("enmap_potsdam-mf2cnet", divide=EAST_TO_WEST),
    "indian_pines_north_to_south": DataSet(
        elsewhere.indian_pines, divide=NORTH_TO_SOUTH, needs="HSI_BENCHMARKS"
    ),
    "neon_mlbs_to_osbs": DataSet(elsewhere.trees, divide=TO_OSBS),
    "neon_osbs_to_mlbs": DataSet(elsewhere.trees, divide=TO_MLBS),
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
    tables = chosen.content(folder / name)
    # The method has no say in the data; any will do.
    content: Content = {"method": "lda", "data": tables["data"]}
    content["split"] = chosen.split or tables.get("split", {})
    parsed = recipe.parse(content)
    data = inputs.read_data(parsed, (RECEPTIVE_FIELD - 1) // 2)
    content_of = _identity(chosen, parsed.data, data)
    by_seed = {}
    for seed in seeds:
        if chosen.divide is not None:
            divided = chosen.divide(data, seed)
        else:
            seeded = msgspec.structs.replace(parsed, seed=seed)
            divided = inputs.divide(seeded, data, RECEPTIVE_FIELD)
        if chosen.few is not None:
            divided = with_few(divided, chosen.few, seed)
        target = folder / f"{name}-{seed}"
        target.mkdir(parents=True, exist_ok=True)
        run_folder.write_splits(target, divided)
        # Scenes are read in the order of their names, and so are these.
        written = [str(p) for p in sorted(target.glob("split*.tif"))]
        digest = hashlib.sha256(content_of.encode())
        for scene in divided.scenes:
            digest.update(repr((scene.row, scene.col, scene.roles.shape)).encode())
            digest.update(scene.roles.tobytes())
        by_seed[seed] = Division(
            content["data"], {"mode": "file", "files": written}, digest.hexdigest()
        )
    return by_seed


def _identity(chosen: DataSet, tables: recipe.Data, data: LabelledData) -> str:
    """Return text that differs where the content of scenes or labels does."""
    sources, made = [*tables.labels], ""
    if chosen.spec is None:
        sources += [*tables.scenes, *(str(scene.info.path) for scene in data.scenes)]
    else:
        made = f"{chosen.spec}{code_digest.of('hsi_train.simulate')['sha256']}"
    present = origin.files_of([recipe.expanded(source) for source in sources])
    files = origin.by_name(origin.digests(origin.stamps(present)))
    return f"{sorted(files.items())}{made}"

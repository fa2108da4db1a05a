"""Measures a trained network on target scenes, which training never sees.

Headers and labels are checked before training, so that a mistake in them costs no
training; cubes are read when it is over. Bands and units are brought to the model's as
hsi-run does it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.matching.bands import match_bands
from hsi_runtime.matching.units import conversion
from hsi_runtime.model.model_file import Bands, ClassEntry, Values
from hsi_runtime.scenes.scene import valid_pixels
from hsi_train import recipe
from hsi_train.data import labels as label_files
from hsi_train.data.classes import ClassTable
from hsi_train.data.labelled_scene import (
    UNLABELLED,
    LabelledData,
    LabelledScene,
    expand_scenes,
    labelled_part,
    open_any,
)
from hsi_train.data.roles import Role
from hsi_train.fitting.predict import Scorer
from hsi_train.measuring import metrics
from hsi_train.recipe import Data


@dataclass(frozen=True)
class Target:
    """Target scenes whose labels are read, and whose cubes are not.

    Attributes:
        scenes: Path and class indices ``(row, col)`` of each scene with a label that
            the model knows; `UNLABELLED` elsewhere.
        bands: Of the model.
        values: Of the model.
        classes: Of the model.
        labelled: Labelled pixels, those of unknown classes included.
        warnings: Sentences the user should read.
    """

    scenes: list[tuple[str, NDArray[np.int16]]]
    bands: Bands
    values: Values
    classes: list[ClassEntry]
    labelled: int
    warnings: list[str]


def check(
    wanted: recipe.Target,
    source: Data,
    bands: Bands,
    values: Values,
    classes: list[ClassEntry],
) -> Target:
    """Check headers and labels of the target scenes against what the model will be.

    Args:
        wanted: The ``[target]`` table.
        source: The ``[data]`` table, whose label field and classes are the defaults.
        bands: Of the model.
        values: Of the model.
        classes: Of the model.

    Raises:
        SceneError: A file is unusable, or no labelled pixel has a class of the model.
        BandMismatchError: A scene lacks bands, or its units cannot be converted.
    """
    paths = expand_scenes([recipe.expanded(p) for p in wanted.scenes])
    label_paths = [recipe.expanded(p) for p in wanted.labels]
    field = wanted.label_field
    if label_paths[0].lower().endswith(label_files.VECTOR_SUFFIXES):
        field = field or source.label_field
    class_file = wanted.classes or source.classes
    table = (
        ClassTable.from_json(recipe.expanded(class_file))
        if class_file
        else ClassTable()
    )
    labels = label_files.open_labels(label_paths, len(paths), field, table.names)
    warnings: list[str] = []
    found: list[tuple[str, NDArray[np.int64]]] = []
    for number, path in enumerate(paths):
        scene = open_any(path)
        try:
            info = scene.info
            codes = labels.codes(number, info)
            if not codes.any():
                continue
            match = _match(info, bands)
            said = conversion(info, match, values).warnings
            warnings += [*info.notes, *match.warnings, *said]
            found.append((path, codes))
        finally:
            scene.close()
    present = sorted({int(c) for _, codes in found for c in np.unique(codes)} - {0})
    if not present:
        raise SceneError(
            f"No labelled pixel in {len(paths)} target scene(s): every label is 0 or "
            "lies outside. Check that target scenes and labels belong together."
        )
    named, said_of_names = labels.class_table().updated(table).describe(present)
    index = class_indices(named, classes)
    unknown = [c.name for c in named if index[c.code] == UNLABELLED]
    absent = [c.name for k, c in enumerate(classes) if k not in index.values()]
    if len(unknown) == len(named):
        raise SceneError(
            f"No class of the target labels ({', '.join(unknown)}) is one of the "
            f"source's ({', '.join(c.name for c in classes)}); give both the same "
            "names with --classes, or the same codes."
        )
    warnings += [*labels.warnings(), *said_of_names]
    if len(found) < len(paths):
        warnings.append(f"{len(paths) - len(found)} scene(s) have no labelled pixel.")
    if unknown:
        warnings.append(f"Classes unknown to the source: {', '.join(unknown)}.")
    if absent:
        warnings.append(f"Classes absent in the target: {', '.join(absent)}.")
    numbers = np.array([index[code] for code in present], dtype=np.int16)
    return Target(
        [(path, _indexed(codes, present, numbers)) for path, codes in found],
        bands,
        values,
        classes,
        sum(int(np.count_nonzero(codes)) for _, codes in found),
        [f"Target: {sentence}" for sentence in dict.fromkeys(warnings)],
    )


def class_indices(
    found: Sequence[ClassEntry], classes: Sequence[ClassEntry]
) -> dict[int, int]:
    """Find each target class among the source's: by name, or by code without a name.

    Args:
        found: Classes of the target's labels.
        classes: Classes of the source, by class index.

    Returns:
        Class index, or `UNLABELLED`, by the target's code.
    """
    by_name = {c.name: k for k, c in enumerate(classes)}
    by_code = {c.code: k for k, c in enumerate(classes)}
    indices = {}
    for info in found:
        index = by_name.get(info.name, UNLABELLED)
        same_code = by_code.get(info.code, UNLABELLED)
        if index == UNLABELLED and same_code != UNLABELLED:
            nameless = any(c.name == str(c.code) for c in (info, classes[same_code]))
            index = same_code if nameless else UNLABELLED
        indices[info.code] = index
    return indices


def measure(target: Target, scorer: Scorer) -> dict[str, Any]:
    """Classify the labelled target pixels.

    Args:
        target: What `check` returned.
        scorer: The trained network.

    Returns:
        The ``target`` table of ``metrics.json``.

    Raises:
        SceneError: A scene cannot be read, or every labelled pixel is nodata.
    """
    count = len(target.classes)
    matrix = np.zeros((count, count), dtype=np.int64)
    known = 0
    for path, indices in target.scenes:
        known += int((indices != UNLABELLED).sum())
        if not (indices != UNLABELLED).any():
            continue
        data = LabelledData(
            scenes=[read(target, path, indices, scorer.halo)],
            classes=target.classes,
            bands=np.array(target.bands.used),
            warnings=[],
            labelled=[True],
        )
        matrix += scorer.score(data, Role.TEST).confusion()
    compared = int(matrix.sum())
    if not compared:
        raise SceneError("Every labelled pixel of the target is nodata.")
    return {
        **metrics.report(matrix, target.classes),
        "largest_class_share": metrics.largest_class_share(matrix),
        "counts": {
            "labelled": target.labelled,
            "unknown_class": target.labelled - known,
            "nodata": known - compared,
            "compared": compared,
        },
        "warnings": target.warnings,
    }


def read(
    target: Target, path: str, indices: NDArray[np.int16], halo: int
) -> LabelledScene:
    """Read the labelled part of a target scene, in the model's bands and units.

    All its labelled pixels are test pixels.
    """
    row, col, rows, cols = labelled_part(indices != UNLABELLED, halo)
    scene = open_any(path)
    try:
        info = scene.info
        match = _match(info, target.bands)
        cube = scene.read((row, row + rows), (col, col + cols), match.indices)
    finally:
        scene.close()
    valid = valid_pixels(cube, info.nodata[match.indices])
    part = indices[row : row + rows, col : col + cols]
    classes = np.where(valid, part, UNLABELLED).astype(np.int16)
    return LabelledScene(
        info=info,
        row=row,
        col=col,
        cube=conversion(info, match, target.values).apply(cube),
        valid=valid,
        classes=classes,
        roles=np.where(classes != UNLABELLED, Role.TEST, Role.NONE).astype(np.uint8),
    )


def _match(info: Any, bands: Bands) -> Any:
    return match_bands(
        info, bands.wavelengths_nm, bands.source_count, bands.used, bands.fwhm_nm
    )


def _indexed(
    codes: NDArray[np.int64], present: list[int], numbers: NDArray[np.int16]
) -> NDArray[np.int16]:
    """Turn codes into class indices; 0 and unknown classes become `UNLABELLED`."""
    place = np.searchsorted(present, codes)
    return np.where(codes == 0, UNLABELLED, numbers[place]).astype(np.int16)

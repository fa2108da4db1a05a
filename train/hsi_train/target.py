"""Measures a trained network on target scenes, which training never sees.

Headers and labels are checked before training, so that a mistake in them costs no
training; cubes are read when it is over. Bands and units are brought to the model's as
hsi-run does it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
)
from hsi_train.data.loading import expand_scenes, open_any
from hsi_train.data.parts import labelled_part
from hsi_train.data.roles import Role
from hsi_train.fitting.predict import Scorer
from hsi_train.fitting.statistics import extreme_pixels
from hsi_train.measuring import metrics
from hsi_train.recipe import Data

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """Target scenes whose labels are read, and whose cubes are not.

    Attributes:
        scenes: Path and class indices ``(row, col)`` of each scene with a label that
            the model knows; `UNLABELLED` elsewhere.
        bands: Bands of the model.
        values: Values of the model.
        classes: Classes of the model.
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
    settings: recipe.Target,
    source: Data,
    bands: Bands,
    values: Values,
    classes: list[ClassEntry],
) -> Target:
    """Check headers and labels of the target scenes against what the model will be.

    Args:
        settings: The ``[target]`` table.
        source: The ``[data]`` table, whose label field and classes are the defaults.
        bands: Bands of the model.
        values: Values of the model.
        classes: Classes of the model.

    Raises:
        SceneError: A file is unusable, or no labelled pixel has a class of the model.
        BandMismatchError: A scene lacks bands, or its units cannot be converted.
    """
    paths = expand_scenes([recipe.expanded(p) for p in settings.scenes])
    class_file = settings.classes or source.classes
    table = (
        ClassTable.from_json(recipe.expanded(class_file))
        if class_file
        else ClassTable()
    )
    labels = _open_labels(settings, source, len(paths), table)
    labelled, warnings = _labelled_scenes(paths, labels, bands, values)
    present = sorted({int(c) for _, codes in labelled for c in np.unique(codes)} - {0})
    if not present:
        raise SceneError(
            f"No labelled pixel in {len(paths)} target scene(s): every label is 0 or "
            "lies outside. Check that target scenes and labels belong together."
        )
    named, messages = labels.class_table().updated(table).describe(present)
    index = class_indices(named, classes)
    warnings += [*labels.warnings(), *messages]
    if len(labelled) < len(paths):
        without = len(paths) - len(labelled)
        warnings.append(f"{without} scene(s) have no labelled pixel.")
    warnings += _unshared_classes(named, classes, index)
    numbers = np.array([index[code] for code in present], dtype=np.int16)
    return Target(
        scenes=[(path, _indexed(c, present, numbers)) for path, c in labelled],
        bands=bands,
        values=values,
        classes=classes,
        labelled=sum(int(np.count_nonzero(codes)) for _, codes in labelled),
        warnings=[f"Target: {sentence}" for sentence in dict.fromkeys(warnings)],
    )


def _open_labels(
    settings: recipe.Target, source: Data, scenes: int, table: ClassTable
) -> label_files.Labels:
    paths = [recipe.expanded(p) for p in settings.labels]
    field = settings.label_field
    if paths[0].lower().endswith(label_files.VECTOR_SUFFIXES):
        field = field or source.label_field
    return label_files.open_labels(paths, scenes, field, table.names)


def _labelled_scenes(
    paths: Sequence[str],
    labels: label_files.Labels,
    bands: Bands,
    values: Values,
) -> tuple[list[tuple[str, NDArray[np.int64]]], list[str]]:
    """Read the label codes of the scenes that have any; check bands and units."""
    labelled: list[tuple[str, NDArray[np.int64]]] = []
    warnings: list[str] = []
    for number, path in enumerate(paths):
        scene = open_any(path)
        try:
            info = scene.info
            codes = labels.codes(number, info)
            if not codes.any():
                continue
            match = _match(info, bands)
            messages = conversion(info, match, values).warnings
            warnings += [*info.notes, *match.warnings, *messages]
            labelled.append((path, codes))
        finally:
            scene.close()
    return labelled, warnings


def _unshared_classes(
    named: Sequence[ClassEntry], classes: Sequence[ClassEntry], index: dict[int, int]
) -> list[str]:
    """Name the classes that only one side has.

    Raises:
        SceneError: The two sides share none.
    """
    unknown = [c.name for c in named if index[c.code] == UNLABELLED]
    absent = [c.name for k, c in enumerate(classes) if k not in index.values()]
    if len(unknown) == len(named):
        raise SceneError(
            f"No class of the target labels ({', '.join(unknown)}) is one of the "
            f"source's ({', '.join(c.name for c in classes)}). Give both the same "
            "names with --classes, or the same codes."
        )
    messages = []
    if unknown:
        messages.append(f"Classes unknown to the source: {', '.join(unknown)}.")
    if absent:
        messages.append(f"Classes absent in the target: {', '.join(absent)}.")
    return messages


def class_indices(
    named: Sequence[ClassEntry], classes: Sequence[ClassEntry]
) -> dict[int, int]:
    """Find each target class among the source's: by name, or by code without a name.

    Args:
        named: Classes of the target's labels.
        classes: Classes of the source, by class index.

    Returns:
        Class index, or `UNLABELLED`, by the target's code.
    """
    by_name = {c.name: k for k, c in enumerate(classes)}
    by_code = {c.code: k for k, c in enumerate(classes)}
    indices = {}
    for info in named:
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
        scene = read(target, path, indices, scorer.halo)
        data = LabelledData(
            scenes=[_without_extremes(scene, target.warnings)],
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


def _without_extremes(scene: LabelledScene, warnings: list[str]) -> LabelledScene:
    """Take wild values for missing ones; an error now would cost the training."""
    wild = extreme_pixels(scene.cube, scene.valid)
    if not wild.any():
        return scene
    name, number = scene.info.path.name, int(wild.sum())
    warnings.append(
        f"Target: {number} pixel(s) of {name} hold values a million times as large as "
        "the usual ones; they are taken as nodata."
    )
    log.warning(warnings[-1])
    return replace(
        scene,
        valid=scene.valid & ~wild,
        classes=np.where(wild, UNLABELLED, scene.classes).astype(np.int16),
        roles=np.where(wild, Role.NONE, scene.roles).astype(np.uint8),
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

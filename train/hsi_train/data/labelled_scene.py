"""Joins scenes with their labels: the part of each scene that training can use."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.matching.bands import match_bands
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.scene import Cube, Scene, SceneInfo, valid_pixels
from hsi_train.data import labels as label_files
from hsi_train.data import matlab
from hsi_train.data.classes import ClassInfo, ClassTable

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
    """

    info: SceneInfo
    row: int
    col: int
    cube: Cube
    valid: NDArray[np.bool_]
    classes: NDArray[np.int16]


class _Part(NamedTuple):
    """A labelled part before its codes are class indices."""

    info: SceneInfo
    cube: Cube
    codes: NDArray[Any]
    row: int
    col: int
    nodata: NDArray[np.float64]


@dataclass(frozen=True)
class LabelledData:
    """All scenes of a training run, on one list of bands and one list of classes.

    Attributes:
        scenes: The labelled parts.
        classes: Code, name and colour of every class, by class index.
        bands: 0-based bands of the first scene that are used.
        warnings: Sentences the user should read.
        labelled: Of every scene given, whether it has a label and is in ``scenes``.
    """

    scenes: list[LabelledScene]
    classes: list[ClassInfo]
    bands: NDArray[np.intp]
    warnings: list[str]
    labelled: list[bool]

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


def expand_scenes(paths: Sequence[str]) -> list[str]:
    """Replace folders by the scenes in them, in order of name.

    Raises:
        SceneError: A folder without any scene.
    """
    found: list[str] = []
    for path in paths:
        folder = Path(path)
        if not folder.is_dir():
            found.append(path)
            continue
        inside = sorted(
            p
            for p in folder.iterdir()
            if p.suffix.lower() in (".tif", ".tiff", ".hdr", ".mat")
        )
        if not inside:
            raise SceneError(f"{folder} holds no .tif, .hdr or .mat scene.")
        found += [str(p) for p in inside]
    return found


def open_any(path: str) -> Scene:
    """Open a GeoTIFF, ENVI or MATLAB scene.

    Raises:
        SceneError: It cannot be read.
    """
    if matlab.is_matlab(path):
        return matlab.open_cube(path)
    return open_scene(path)


def load(
    scene_paths: Sequence[str],
    label_paths: Sequence[str],
    halo: int,
    label_field: str | None = None,
    class_file: str | None = None,
    exclude: Sequence[str | int] = (),
    test_label_paths: Sequence[str] = (),
    whole: bool = False,
) -> LabelledData:
    """Read the labelled part of every scene.

    Args:
        scene_paths: Scenes, or folders of scenes.
        label_paths: One label raster for each scene, or one vector file for all.
        halo: Context to keep around labels, in pixels.
        label_field: Attribute of the vector file that holds the class.
        class_file: JSON file with class names and colours.
        exclude: Names or codes of classes to treat as unlabelled.
        test_label_paths: Label rasters of the pixels that ``label_paths`` leaves to
            testing, one for each scene.
        whole: Keep all of each scene that has a label, not only the labelled part.

    Raises:
        SceneError: Scenes or labels cannot be used together.
    """
    scene_paths = expand_scenes(scene_paths)
    warnings: list[str] = []
    unlabelled: list[str] = []
    labelled: list[bool] = []
    table = ClassTable.from_json(class_file) if class_file else ClassTable()
    source = label_files.open_labels(
        label_paths, len(scene_paths), label_field, table.names
    )
    if test_label_paths:
        source = label_files.TrainAndTest(
            source, label_files.open_labels(test_label_paths, len(scene_paths))
        )
    _check_given_once(scene_paths)
    parts: list[_Part] = []
    bands: NDArray[np.intp] | None = None
    first: SceneInfo | None = None
    for number, path in enumerate(scene_paths):
        scene = open_any(path)
        try:
            info = scene.info
            warnings += info.notes
            codes = source.codes(number, info)
            labelled.append(bool(codes.any()))
            if not labelled[-1]:
                unlabelled.append(info.path.name)
                continue
            if first is None or bands is None:
                first, bands = info, _good_bands(info)
            same = _matching_bands(first, info, bands, warnings)
            row, col, rows, cols = labelled_part(codes, halo)
            if whole:
                row, col, rows, cols = 0, 0, info.rows, info.cols
            cube = scene.read((row, row + rows), (col, col + cols), same)
            codes = codes[row : row + rows, col : col + cols]
            parts.append(_Part(info, cube, codes, row, col, info.nodata[same]))
        finally:
            scene.close()
    warnings += source.warnings()
    if unlabelled:
        shown = ", ".join(unlabelled[:3]) + (", ..." if len(unlabelled) > 3 else "")
        warnings.append(
            f"{len(unlabelled)} scene(s) have no labelled pixel and are left out: "
            f"{shown}."
        )
    if not parts or bands is None or first is None:
        raise SceneError(
            f"No labelled pixel in {len(scene_paths)} scene(s): every label is 0 or "
            "lies outside. Check that labels and scenes belong together."
        )
    table = source.class_table().updated(table)
    _drop_classes(parts, table, exclude)
    bands, parts = _drop_empty_bands(parts, bands, warnings)
    return _assemble(parts, bands, table, warnings, labelled)


def _check_given_once(paths: Sequence[str]) -> None:
    """Refuse a scene that would be trained on under one name and tested as another."""
    seen: dict[str, str] = {}
    for path in paths:
        real = os.path.realpath(path)
        if real in seen:
            raise SceneError(
                f"{path} is the same scene as {seen[real]}; give each scene once, with "
                "all its labels in one file."
            )
        seen[real] = path


def _drop_classes(
    parts: list[_Part], table: ClassTable, exclude: Sequence[str | int]
) -> None:
    """Make the pixels of some classes unlabelled, in place."""
    present = {int(code) for part in parts for code in np.unique(part.codes)} - {0}
    by_name = {table.names.get(code, str(code)): code for code in present}
    for wanted in exclude:
        code = by_name.get(wanted) if isinstance(wanted, str) else wanted
        if code not in present:
            raise SceneError(
                f"data.exclude names {wanted!r}, but no label has it; classes are "
                f"{', '.join(sorted(by_name))}."
            )
        for part in parts:
            part.codes[part.codes == code] = 0


def _good_bands(info: SceneInfo) -> NDArray[np.intp]:
    if not info.good.any():
        raise SceneError(
            f"{info.path.name} marks every band as bad (bbl is 0); correct its header "
            "or tags."
        )
    return np.flatnonzero(info.good)


def _matching_bands(
    first: SceneInfo, info: SceneInfo, bands: NDArray[np.intp], warnings: list[str]
) -> NDArray[np.intp]:
    """Find the first scene's used bands in another scene."""
    if info is first:
        return bands
    centres = None if first.wavelengths_nm is None else first.wavelengths_nm[bands]
    match = match_bands(
        info, None if centres is None else centres.tolist(), first.bands, bands.tolist()
    )
    if match.resampling is not None:
        raise SceneError(
            f"{info.path.name} and {first.path.name} have different band centres; "
            "training needs one list of bands. Resample one of them first."
        )
    if info.dtype != first.dtype:
        raise SceneError(
            f"{info.path.name} stores {info.dtype}, {first.path.name} {first.dtype}; "
            "training needs all scenes in the same stored units."
        )
    for name in ("scale", "offset"):
        ours, theirs = getattr(first, name), getattr(info, name)
        here = None if ours is None else ours[bands]
        there = None if theirs is None else theirs[match.indices]
        if not _same(here, there):
            raise SceneError(
                f"{info.path.name} declares another {name} than {first.path.name}; "
                "training needs all scenes in the same stored units."
            )
    for sentence in match.warnings:
        if sentence not in warnings:
            warnings.append(sentence)
    return match.indices


def _same(a: NDArray[np.float64] | None, b: NDArray[np.float64] | None) -> bool:
    if a is None or b is None:
        return a is b
    return np.allclose(a, b, rtol=1e-6, atol=0)


def labelled_part(codes: NDArray[Any], halo: int) -> tuple[int, int, int, int]:
    """Bound the labelled pixels with ``halo`` pixels of context around them."""
    rows = np.flatnonzero(codes.any(axis=1))
    cols = np.flatnonzero(codes.any(axis=0))
    row, col = max(rows[0] - halo, 0), max(cols[0] - halo, 0)
    row_end = min(rows[-1] + 1 + halo, codes.shape[0])
    col_end = min(cols[-1] + 1 + halo, codes.shape[1])
    return int(row), int(col), int(row_end - row), int(col_end - col)


def _drop_empty_bands(
    parts: list[_Part],
    bands: NDArray[np.intp],
    warnings: list[str],
) -> tuple[NDArray[np.intp], list[_Part]]:
    """Leave out bands without any value on labelled pixels, and say so."""
    alive = np.zeros(len(bands), dtype=bool)
    for part in parts:
        labelled = part.codes != 0
        for index in np.flatnonzero(~alive):
            one = slice(index, index + 1)
            valid = valid_pixels(part.cube[one], part.nodata[one])
            alive[index] = bool((valid & labelled).any())
    if alive.all():
        return bands, parts
    dead = [int(b) + 1 for b in bands[~alive]]
    if not alive.any():
        raise SceneError("Every labelled pixel is nodata in every band.")
    warnings.append(f"Bands without any labelled value are left out: {dead}.")
    kept = [p._replace(cube=p.cube[alive], nodata=p.nodata[alive]) for p in parts]
    return bands[alive], kept


def _assemble(
    parts: list[_Part],
    bands: NDArray[np.intp],
    table: ClassTable,
    warnings: list[str],
    labelled: list[bool],
) -> LabelledData:
    masks = [valid_pixels(part.cube, part.nodata) for part in parts]
    pairs = list(zip(parts, masks, strict=True))
    lost = sum(int(((part.codes != 0) & ~valid).sum()) for part, valid in pairs)
    if lost:
        warnings.append(f"{lost} labelled pixels are nodata and are not used.")
    present = np.unique(np.concatenate([part.codes[valid] for part, valid in pairs]))
    present = present[present != 0]
    if len(present) < 2:
        found = ", ".join(map(str, present)) or "none"
        raise SceneError(
            f"Labels hold {len(present)} class(es) with valid pixels ({found}); "
            "training needs at least two. Code 0 means unlabelled."
        )
    codes = np.unique(np.concatenate([np.unique(part.codes) for part in parts]))
    gone = sorted(set(codes.tolist()) - set(present.tolist()) - {0})
    if gone:
        names = ", ".join(table.names.get(code, str(code)) for code in gone)
        warnings.append(f"Classes without any valid pixel are left out: {names}.")
    classes, said = table.describe([int(code) for code in present])
    warnings += said
    scenes = []
    for part, valid in pairs:
        index = np.searchsorted(present, part.codes).astype(np.int16)
        index[(part.codes == 0) | ~valid] = UNLABELLED
        scenes.append(
            LabelledScene(part.info, part.row, part.col, part.cube, valid, index)
        )
    return LabelledData(scenes, classes, bands, warnings, labelled)

"""Loads scenes with their labels: the part of each scene that training can use."""

import filecmp
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.camera.calibration import CalibratedScene, Calibration
from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.products import unread
from hsi_runtime.scenes.products.recognition import products_in, recognise
from hsi_runtime.scenes.scene import Cube, Scene, SceneInfo, valid_pixels
from hsi_train.data import labels as label_files
from hsi_train.data import matlab
from hsi_train.data.bands import good_bands, matching_bands, undeclared
from hsi_train.data.classes import ClassTable, composed
from hsi_train.data.labelled_scene import UNLABELLED, LabelledData, LabelledScene
from hsi_train.data.parts import MASK_BYTES, LabelledPart, check_room, labelled_parts
from hsi_train.data.roles import Role
from hsi_train.data.spectra import reading
from hsi_train.recipe import Data, expanded

MOST_CLASSES = np.iinfo(np.int16).max  # class indices are held in this type


class _Part(NamedTuple):
    """A labelled part before its codes are class indices."""

    info: SceneInfo
    cube: Cube
    codes: NDArray[Any]
    row: int
    col: int
    nodata: NDArray[np.float64]


def expand_scenes(paths: Sequence[str]) -> list[str]:
    """Replace folders by the scenes in them, in order of name.

    A sensor product, whichever of its files is given, is replaced by the file that
    describes it. A folder with products is a folder of those alone.

    Raises:
        SceneError: A folder without any scene, or a product that cannot be read.
    """
    scenes: list[str] = []
    for path in paths:
        folder = Path(path)
        if not os.path.isdir(folder):
            product = None
            if not matlab.is_matlab(path) and os.path.isfile(folder):
                product = recognise(folder)
            scenes.append(path if product is None else str(product.path))
            continue
        products, errors = products_in(folder)
        if products:
            scenes += [str(product.path) for product in products]
            continue
        inside = sorted(
            p
            for p in folder.iterdir()
            if p.suffix.lower() in (".tif", ".tiff", ".hdr", ".mat")
        )
        if not inside:
            if refused := unread.folder_refusal(folder):
                raise SceneError(refused)
            if errors:
                raise errors[0]
            raise SceneError(f"{folder} holds no .tif, .hdr or .mat scene.")
        scenes += [str(p) for p in inside]
    return scenes


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
    calibration: Calibration | None = None,
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
        calibration: Of scenes that are raw counts, or None.

    Raises:
        SceneError: Scenes or labels cannot be used together.
    """
    given, scene_paths = scene_paths, expand_scenes(scene_paths)
    _check_folders(given, scene_paths, label_paths)
    table = ClassTable.from_json(class_file) if class_file else ClassTable()
    source = label_files.open_labels(
        label_paths, len(scene_paths), label_field, table.names
    )
    if test_label_paths:
        source = label_files.TrainAndTest(
            source,
            label_files.open_labels(
                test_label_paths, len(scene_paths), named=table.names
            ),
        )
    _check_given_once(scene_paths)
    reader = _Reader(source, halo, whole, calibration)
    scenes = [reader.read(number, path) for number, path in enumerate(scene_paths)]
    parts = [part for parts_of_one in scenes for part in parts_of_one]
    if reader.bands is None:
        raise SceneError(
            f"No labelled pixel in {len(scene_paths)} scene(s): every label is 0 or "
            "lies outside. Check that labels and scenes belong together."
        )
    warnings = reader.messages()
    table = source.class_table().updated(table)
    _drop_classes(parts, table, exclude)
    bands, parts = _drop_empty_bands(parts, reader.bands, warnings)
    labelled = [bool(parts_of_one) for parts_of_one in scenes]
    return _assemble(parts, bands, table, warnings, labelled)


def load_spectra(source: Data) -> LabelledData:
    """Read spectra that were measured one by one, as a scene of one column.

    Args:
        source: The ``[data]`` table.

    Raises:
        SceneError: The spectra, or their classes, cannot be used.
    """
    class_file = source.classes
    table = ClassTable.from_json(expanded(class_file)) if class_file else ClassTable()
    sensor = None
    if source.bands_of is not None:
        scene = open_any(expanded(source.bands_of))
        sensor = scene.info
        scene.close()
    read = reading.read(source, sensor, table.names)
    part = _Part(
        info=read.info,
        cube=read.cube,
        codes=read.codes,
        row=0,
        col=0,
        nodata=read.info.nodata[read.bands],
    )
    table = read.table.updated(table)
    _drop_classes([part], table, source.exclude)
    data = _assemble([part], read.bands, table, read.messages, [True])
    return replace(data, spectra=read.spectra)


class _Reader:
    """Reads scene after scene, all on the used bands of the first with a label."""

    def __init__(
        self,
        source: label_files.Labels,
        halo: int,
        whole: bool,
        calibration: Calibration | None = None,
    ) -> None:
        self._source, self._halo, self._whole = source, halo, whole
        self._calibration = calibration
        self._first: SceneInfo | None = None
        self._messages: list[str] = []
        self._unlabelled: list[str] = []
        self._read: list[tuple[str, tuple[Path, ...]]] = []
        self._bytes = 0
        self.bands: NDArray[np.intp] | None = None

    def read(self, number: int, path: str) -> list[_Part]:
        """Read the labelled parts of a scene, mostly one; none without a label."""
        scene = open_any(path)
        try:
            if self._calibration is not None:
                scene = CalibratedScene(scene, self._calibration)
            info = scene.info
            self._messages += info.notes
            codes = self._source.codes(number, info)
            if not codes.any():
                self._unlabelled.append(info.path.name)
                return []
            if info.transform is None:  # else it is found by its place on the map
                self._check_no_copy(path, info.files)
            if self._first is None or self.bands is None:
                self._first, self.bands = info, good_bands(info)
                self._messages += undeclared(info)
            same = matching_bands(self._first, info, self.bands, self._messages)
            pixel_bytes = len(same) * info.dtype.itemsize + MASK_BYTES
            parts = [LabelledPart(0, 0, codes)]
            if not self._whole:
                parts = labelled_parts(codes, self._halo, pixel_bytes)
            self._bytes += sum(part.codes.size for part in parts) * pixel_bytes
            check_room(self._bytes, "The labelled parts of the scenes")
            return [
                _Part(
                    info=info,
                    cube=scene.read(
                        (part.row, part.row + part.codes.shape[0]),
                        (part.col, part.col + part.codes.shape[1]),
                        same,
                    ),
                    codes=part.codes,
                    row=part.row,
                    col=part.col,
                    nodata=info.nodata[same],
                )
                for part in parts
            ]
        finally:
            scene.close()

    def _check_no_copy(self, path: str, files: tuple[Path, ...]) -> None:
        """Refuse a copy of a scene: what trains in one would be tested in the other."""
        variable = matlab.split_name(path)[1]
        for other, others in self._read:
            if matlab.split_name(other)[1] == variable and _equal(files, others):
                raise SceneError(
                    f"{path} is a copy of {other}; give each scene once, with all its "
                    "labels in one file."
                )
        self._read.append((path, files))

    def messages(self) -> list[str]:
        """Return messages for the user, after all scenes were read."""
        messages = self._messages + self._source.warnings()
        names = self._unlabelled
        if names:
            listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            messages.append(
                f"{len(names)} scene(s) have no labelled pixel and are left out: "
                f"{listed}."
            )
        return messages


def _equal(files: Sequence[Path], others: Sequence[Path]) -> bool:
    """Return True for files of the same content, one by one."""
    return (
        bool(files)
        and len(files) == len(others)
        and all(
            filecmp.cmp(file, other, shallow=False)
            for file, other in zip(files, others, strict=True)
        )
    )


def _check_folders(
    given: Sequence[str], scenes: Sequence[str], labels: Sequence[str]
) -> None:
    """Refuse the folder of one product, whose other rasters are no scenes."""
    folders = [path for path in given if Path(path).is_dir()]
    single = len(labels) == len(given) < len(scenes)
    if not folders or not single or label_files.are_vectors(labels):
        return
    inside = [p for p in scenes if Path(p).parent == Path(folders[0])]
    largest = max(inside, key=lambda p: os.path.getsize(p))
    raise SceneError(
        f"{folders[0]} holds {len(inside)} rasters, and {len(labels)} label raster(s) "
        f"were given. Name the labelled scene instead of its folder (the largest is "
        f"{largest}), or give a label raster for each."
    )


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
    name_of = {code: table.names.get(code, str(code)) for code in present}
    for excluded in exclude:
        codes = [excluded] if excluded in present else []
        if isinstance(excluded, str):  # a name that several codes may have
            codes = [c for c, name in name_of.items() if name == composed(excluded)]
        if not codes:
            raise SceneError(
                f"data.exclude names {excluded!r}, but no label has it; classes are "
                f"{', '.join(sorted(name_of.values()))}."
            )
        for part in parts:
            part.codes[np.isin(part.codes, codes)] = 0


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
        listed = ", ".join(map(str, present)) or "none"
        raise SceneError(
            f"Labels hold {len(present)} class(es) with valid pixels ({listed}); "
            "training needs at least two. Code 0 means unlabelled."
        )
    if len(present) > MOST_CLASSES:
        raise SceneError(
            f"Labels hold {len(present)} classes; at most {MOST_CLASSES} are possible. "
            "Give classes instead of numbers of objects."
        )
    codes = np.unique(np.concatenate([np.unique(part.codes) for part in parts]))
    gone = sorted(set(codes.tolist()) - set(present.tolist()) - {0})
    if gone:
        names = ", ".join(table.names.get(code, str(code)) for code in gone)
        warnings.append(f"Classes without any valid pixel are left out: {names}.")
    classes, messages = table.describe([int(code) for code in present])
    warnings += messages
    scenes = []
    for part, valid in pairs:
        index = np.searchsorted(present, part.codes).astype(np.int16)
        index[(part.codes == 0) | ~valid] = UNLABELLED
        scenes.append(
            LabelledScene(
                info=part.info,
                row=part.row,
                col=part.col,
                cube=part.cube,
                valid=valid,
                classes=index,
                roles=np.full(index.shape, Role.NONE, dtype=np.uint8),
            )
        )
    return LabelledData(
        scenes=scenes,
        classes=classes,
        bands=bands,
        warnings=warnings,
        labelled=labelled,
    )

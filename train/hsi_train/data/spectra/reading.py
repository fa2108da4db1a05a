"""Reads the spectra of a training: one list of bands, their classes and objects."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.scene import Cube, SceneInfo
from hsi_train.data.bands import good_bands, matching_bands
from hsi_train.data.classes import ClassTable, Codes
from hsi_train.data.labelled_scene import Spectra
from hsi_train.data.spectra import envi_library, tables
from hsi_train.data.spectra.library import (
    BY_NAME,
    Library,
    checked,
    fine_bands,
    on_bands_of,
)
from hsi_train.data.vectors import codes_of, field_of
from hsi_train.recipe import Data, expanded

WORKBOOKS = (".xlsx", ".xls", ".ods")
# What R, pandas and databases write where a field is empty.
EMPTY = {"", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "<NA>"}
WHOLE = re.compile(r"(-?[0-9]{1,9})(?:\.0*)?")  # of a column that had empty cells


class Collected(NamedTuple):
    """The spectra of all files, as a scene of one column.

    Attributes:
        info: Bands and units.
        cube: Shape ``(band, spectrum, 1)``.
        codes: Label codes, shape ``(spectrum, 1)``.
        bands: 0-based bands of ``info`` that are in the cube.
        table: Class names by code.
        spectra: Names, and which belong together.
        messages: Sentences the user should read.
    """

    info: SceneInfo
    cube: Cube
    codes: Codes
    bands: NDArray[np.intp]
    table: ClassTable
    spectra: Spectra
    messages: list[str]


def read(source: Data, sensor: SceneInfo | None, named: Mapping[int, str]) -> Collected:
    """Read the spectra that a recipe names.

    Args:
        source: The ``[data]`` table.
        sensor: Scene whose bands the spectra are resampled to, or None.
        named: Class names by code, from the class file.

    Raises:
        SceneError: A file cannot be used, or files do not fit together.
    """
    paths = [expanded(path) for path in source.spectra or ()]
    libraries = [_library(path, source, sensor) for path in paths]
    first = libraries[0].info
    bands = good_bands(first)
    messages = [note for library in libraries for note in library.notes]
    if sensor is None:
        messages += fine_bands(libraries[0])
    parts = [
        library.spectra[:, matching_bands(first, library.info, bands, messages)]
        for library in libraries
    ]
    classes = [
        _classes(path, library, source)
        for path, library in zip(paths, libraries, strict=True)
    ]
    where = ", ".join(paths)
    name = source.label_field or "class"
    codes, table, empty, unlisted = codes_of(where, name, _joined(classes), named)
    if empty == len(codes):
        raise SceneError(f"{where}: no spectrum has a class. Fill in the field {name}.")
    if empty:
        messages.append(f"{empty} spectra have no class and are not used.")
    if unlisted:
        messages.append(
            "Classes that the class file does not name get codes of their own: "
            f"{', '.join(unlisted)}."
        )
    spectra, names = np.concatenate(parts), [n for one in libraries for n in one.names]
    objects = _objects(paths, libraries, source.group_field)
    chosen = _different(where, spectra, codes, names, messages)
    return Collected(
        info=replace(first, rows=len(chosen), block=(len(chosen), 1)),
        cube=np.ascontiguousarray(spectra[chosen].T)[:, :, None],
        codes=codes[chosen][:, None],
        bands=bands,
        table=table,
        spectra=Spectra(
            names=[names[index] for index in chosen],
            objects=objects[chosen],
            grouped=source.group_field is not None,
        ),
        messages=messages,
    )


def files_of(path: str) -> list[str]:
    """List the files that may be read for one that is given."""
    return [path, *(str(p) for p in envi_library.side_tables(path))]


def _library(path: str, source: Data, sensor: SceneInfo | None) -> Library:
    """Read one file, on its own bands or on those of a scene."""
    if path.lower().endswith(WORKBOOKS):
        raise SceneError(f"{path} is a workbook. Save the table as CSV.")
    if tables.is_table(path):
        contents = tables.read(path)
    else:
        contents = envi_library.read(path, source.label_field, source.group_field)
    library = checked(contents, source.scale, source.quantity)
    return library if sensor is None else on_bands_of(library, sensor)


def _classes(path: str, library: Library, source: Data) -> NDArray[Any]:
    """Return what tells the class of each spectrum of a file."""
    field = source.label_field
    if field is None and BY_NAME in library.columns:
        field = BY_NAME
    fields = [name for name in library.columns if name != source.group_field]
    column = library.columns[field_of(path, fields, field)]
    if column.dtype.kind in "iu":
        return column
    texts = [_text(value) for value in column]
    matches = [WHOLE.fullmatch(text or "0") for text in texts]
    numbers = [int(match[1]) for match in matches if match]
    decimals = column.dtype.kind == "f"
    if len(numbers) == len(texts):
        if decimals or min(numbers) < 0:
            return np.array(numbers)
        texts = [str(n) if t else "" for n, t in zip(numbers, texts, strict=True)]
    return column if decimals else np.array(texts, dtype=object)


def _text(value: Any) -> str:
    """Return a field as text, which is empty where nothing is given."""
    text = "" if value is None else str(value).strip()
    return "" if text in EMPTY else text


def _joined(columns: list[NDArray[Any]]) -> NDArray[Any]:
    """Join the classes of all files: as texts, if those of one are texts."""
    if all(column.dtype.kind in "iuf" for column in columns):
        return np.concatenate(columns)
    return np.concatenate([_as_texts(column) for column in columns])


def _as_texts(column: NDArray[Any]) -> NDArray[np.object_]:
    """Return codes as texts, and 0 as none."""
    if column.dtype.kind not in "iuf":
        return column
    return np.array([str(code) if code else "" for code in column], dtype=object)


def _objects(
    paths: list[str], libraries: list[Library], group_field: str | None
) -> NDArray[np.intp]:
    """Number the objects that the spectra are of; without a field each is its own."""
    total = sum(len(library.names) for library in libraries)
    if group_field is None:
        return np.arange(total)
    groups: list[str] = []
    for path, library in zip(paths, libraries, strict=True):
        if group_field not in library.columns:
            raise SceneError(
                f"{path} has no field {group_field!r} for --group-field. Fields: "
                f"{', '.join(library.columns) or 'none'}."
            )
        groups += [_text(value) for value in library.columns[group_field]]
    # What belongs to no group is an object of its own.
    groups = [name or f"\0{index}" for index, name in enumerate(groups)]
    return np.unique(np.array(groups), return_inverse=True)[1].ravel()


def _different(
    where: str,
    spectra: NDArray[np.float32],
    codes: Codes,
    names: list[str],
    messages: list[str],
) -> NDArray[np.intp]:
    """Choose the spectra with a class, once where they come twice.

    An equal one would test what trained.

    Raises:
        SceneError: Equal spectra have two classes.
    """
    labelled = np.flatnonzero(codes)
    _, first, same = np.unique(
        spectra[labelled], axis=0, return_index=True, return_inverse=True
    )
    original = labelled[first[same.ravel()]]
    differ = codes[labelled] != codes[original]
    if differ.any():
        one, twin = (names[rows[differ][0]] for rows in (labelled, original))
        raise SceneError(
            f"{where}: {one} and {twin} are equal spectra of different classes. "
            "Correct the classes."
        )
    if lost := len(labelled) - len(first):
        messages.append(f"{lost} spectra equal another one, and are used once.")
    return labelled[np.sort(first)]

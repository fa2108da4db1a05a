"""Reads tables of spectra: CSV files, and points of a vector file.

Each spectrum is a row. Its values stand in columns that are named by a wavelength, or
in one column of texts that hold the axes of a plot as JSON, as EnMAP-Box writes them.
"""

import csv
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.files import local_file, read_whole
from hsi_runtime.scenes.wavelengths import (
    NAMED,
    UNITS_NM,
    Place,
    Wavelengths,
    choose,
)
from hsi_train.data.formats.vector_files import kind_of, read_features
from hsi_train.data.spectra.library import Columns, Contents, Values, listed

MOST_BYTES = 2**30
DELIMITERS = "\t;,"  # a comma last: it may be the decimal point
EMPTY = {"", "na", "nan", "null", "none"}
# A number and perhaps a unit; R puts an X before what would begin with a digit.
WAVELENGTH = re.compile(r"(?:x|nm|wl)?[ _]?(\d{1,6}(?:\.\d{1,9})?) ?([a-zµμåÅ]*)", re.I)
NAMES = {"name", "spectrum", "spectra", "sample", "id", "fid", "title"}
NAME_LENGTH = 40  # of a column, that may be a wavelength


def is_table(path: str) -> bool:
    """Return True for a file that is no ENVI library by its name or first bytes."""
    if path.lower().endswith((".csv", ".tsv", ".txt")):
        return True
    return kind_of(local_file(path)) is not None


def read(path: str) -> Contents:
    """Read a table of spectra.

    Raises:
        SceneError: It is no such table.
    """
    columns = read_columns(path)
    bands = {name: band for name in columns if (band := _wavelength(name))}
    fields = {name: column for name, column in columns.items() if name not in bands}
    names = _names(fields, len(next(iter(columns.values()))))
    if len(bands) > 1:
        values = np.column_stack([_numbers(path, n, columns[n], names) for n in bands])
        places = list(bands.values())
        marks = np.ones(len(bands), dtype=bool)
    else:
        field = _profile_field(path, columns)
        fields.pop(field, None)
        values, places, marks = _profiles(f"{path}: {field}", columns[field], names)
    centres, units = (list(column) for column in zip(*places, strict=True))
    axis = choose(path, [Place("", centres, [""] * len(centres), units)])
    if len(bands) > 1 and axis.centres is not None:
        # Columns may have any order; neighbours in a spectrum are neighbours in it.
        order = np.argsort(axis.centres, kind="stable")
        _check_different(path, [list(bands)[k] for k in order], axis.centres[order])
        axis = axis._replace(centres=axis.centres[order])
        values = values[:, order]
    return Contents(
        path=Path(path),
        values=values,
        names=names,
        columns=fields,
        axis=axis,
        good=marks,
    )


def _check_different(path: str, names: list[str], centres: Wavelengths) -> None:
    """Refuse two columns of one wavelength, such as a mean and a deviation.

    Args:
        path: The file.
        names: Names of the columns, in order of wavelength.
        centres: Their wavelengths, nm.
    """
    same = np.flatnonzero(np.diff(centres) == 0)
    if len(same):
        one, other = names[same[0]], names[same[0] + 1]
        raise SceneError(
            f"{path}: columns {one!r} and {other!r} are of the same wavelength. Keep "
            "one column for each band."
        )


def read_columns(path: str) -> Columns:
    """Read the columns of a CSV file, as texts, or the fields of a vector file."""
    if path.lower().endswith((".csv", ".tsv", ".txt")):
        columns = _csv_columns(path)
    else:
        columns = read_features(path, tables=True).columns
    if not columns or not len(next(iter(columns.values()))):
        raise SceneError(f"{path} holds no spectrum.")
    return columns


def _csv_columns(path: str) -> Columns:
    raw = read_whole(local_file(path), MOST_BYTES)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SceneError(f"{path} is not UTF-8. Save it as CSV UTF-8.") from None
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=first.count)
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [row for row in lines if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise SceneError(f"{path} is no CSV file: {error}.") from None
    if not rows:
        raise SceneError(f"{path} is empty.")
    # Spreadsheets end lines with delimiters.
    width = max(
        n for row in rows for n, cell in enumerate(row, start=1) if cell.strip()
    )
    rows = [row[:width] for row in rows]
    head = [cell.strip() for cell in rows[0]]
    if delimiter != ",":  # where a comma is the decimal point
        head = [re.sub(r"(?<=\d),(?=\d)", ".", cell) for cell in head]
    twice = [name for name, count in Counter(head).items() if count > 1]
    if twice:
        raise SceneError(
            f"{path}: {len(twice)} column names, such as {twice[0]!r}, are given more "
            "than once. Name each column once, in the first line."
        )
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(head):
            raise SceneError(
                f"{path}: row {number} has {len(row)} cells, the first line has "
                f"{len(head)}. Correct the row, or name the columns in the first line."
            )
    cells = np.empty((len(rows) - 1, len(head)), dtype=object)
    for number, row in enumerate(rows[1:]):
        cells[number] = [cell.strip() for cell in row]
    columns = dict(zip(head, cells.T, strict=True))
    if delimiter != ",":
        for name in filter(_wavelength, head):
            points = [cell.replace(",", ".") for cell in columns[name]]
            columns[name] = np.array(points, dtype=object)
    return columns


def _wavelength(name: str) -> tuple[str, str] | None:
    """Return the number and the unit in the name of a band's column; else None."""
    if len(name) > NAME_LENGTH:
        return None
    match = WAVELENGTH.fullmatch(name.strip())
    if match and (not match[2] or match[2].lower() in UNITS_NM):
        return match[1], match[2]
    named = NAMED.findall(name)  # two are of an index, such as a ratio
    return named[0] if len(named) == 1 else None


def _names(fields: Columns, count: int) -> list[str]:
    """Name the spectra by a field with their names, or by the number of their row."""
    for field, column in fields.items():
        if field.lower() in NAMES:
            return [str(value) for value in column]
    return [f"row {number}" for number in range(1, count + 1)]


def _numbers(
    path: str, name: str, column: NDArray[Any], names: list[str]
) -> NDArray[np.float64]:
    """Convert a band's column to numbers, NaN where a cell is empty."""
    if column.dtype.kind in "iuf":
        return column.astype(np.float64)
    try:
        return np.array([_number(cell) for cell in column])
    except ValueError:
        wrong = next(row for row, cell in enumerate(column) if not _is_number(cell))
        raise SceneError(
            f"{path}: column {name} of {names[wrong]} holds "
            f"{str(column[wrong])[:NAME_LENGTH]!r}, which is no number. Correct it."
        ) from None


def _number(cell: Any) -> float:
    text = "" if cell is None else str(cell).strip()
    return float("nan") if text.lower() in EMPTY else float(text)


def _is_number(cell: Any) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _profile_field(path: str, columns: Columns) -> str:
    """Find the one column whose texts are spectra."""
    found = [
        name
        for name, column in columns.items()
        if any(isinstance(cell, str) and cell.lstrip()[:1] == "{" for cell in column)
    ]
    if len(found) != 1:
        raise SceneError(
            f"{path} has {len(found)} columns with spectra, and no two columns that "
            "are named by a wavelength. Give each spectrum a row, and name each band's "
            "column by its wavelength, such as 550.0 or 0.55 um."
        )
    return found[0]


def _profiles(
    source: str, texts: NDArray[Any], names: list[str]
) -> tuple[Values, list[tuple[str, str]], NDArray[np.bool_]]:
    """Read spectra that are written as JSON, such as ``{"x": [...], "y": [...]}``.

    Returns:
        Values ``(spectrum, band)``; number and unit of each band's wavelength; and
        False for bad bands.
    """
    profiles = [_profile(source, t, n) for t, n in zip(texts, names, strict=True)]
    first = profiles[0]
    for key in ("x", "xUnit", "bbl"):
        other = np.array([profile[key] != first[key] for profile in profiles])
        if other.any():
            raise SceneError(
                f"{source}: {listed(names, other)} and {names[0]} have different bands "
                f"({key}). Resample the spectra to one list of bands."
            )
    unit = str(first["xUnit"] or "")
    marks = first["bbl"] or [1] * len(first["x"])
    return (
        np.array([profile["y"] for profile in profiles]),
        [(str(centre), unit) for centre in first["x"]],
        np.array([bool(mark) for mark in marks]),
    )


def _profile(source: str, text: Any, name: str) -> dict[str, Any]:
    """Read one spectrum, whose axes are lists of numbers of one length."""
    try:
        content = json.loads(text)
        x, y, marks = content["x"], content["y"], content.get("bbl")
        lists = [x, y] if marks is None else [x, y, marks]
        lengths = {len(values) for values in lists}
        numbers = [v for values in lists for v in values if v is not None]
        if (
            len(lengths) != 1
            or not x
            or not all(isinstance(v, int | float) for v in numbers)
        ):
            raise ValueError("x and y are no lists of numbers of one length")
        y = [np.nan if value is None else float(value) for value in y]
    except (
        *(TypeError, KeyError, AttributeError, ValueError),
        *(OverflowError, RecursionError),
    ) as error:
        raise SceneError(
            f"{source} of {name} is no spectrum with x and y: {str(error)[:60]}."
        ) from None
    return {"x": x, "y": y, "bbl": marks, "xUnit": content.get("xUnit")}

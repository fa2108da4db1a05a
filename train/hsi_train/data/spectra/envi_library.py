"""Reads ENVI spectral libraries: ``.sli`` with its header, and a table beside it."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.files import local_file, open_binary, read_whole
from hsi_runtime.scenes.envi import surplus_of
from hsi_runtime.scenes.envi_files import header_beside
from hsi_runtime.scenes.envi_header import (
    Header,
    Layout,
    is_header,
    layout_of,
    read_header,
    units_of,
)
from hsi_runtime.scenes.scene import representable
from hsi_runtime.scenes.wavelengths import choose, list_place
from hsi_train.data.classes import MAX_NAME
from hsi_train.data.parts import check_room
from hsi_train.data.spectra.library import BY_NAME, Columns, Contents
from hsi_train.data.spectra.tables import read_columns

# What tells the spectra of a class apart, at the end of a name: asphalt_01, grass (3).
NUMBER = re.compile(r"[\s_.#-]*(\(\s*#?\d+\s*\)|\d+)\s*$")
SUFFIXES = (".sli", ".SLI", "", ".slb", ".dat", ".img", ".bin")  # of the data file
VALUE_BYTES = 16  # of a value in memory: stored, and in double precision


def read(path: str, label_field: str | None, group_field: str | None) -> Contents:
    """Read a library.

    Args:
        path: Its data file or its header.
        label_field: Field of the table beside it that holds the class; None takes
            classes from the names of the spectra.
        group_field: Field of the same table that holds the object, or None.

    Raises:
        SceneError: The library, or the table, cannot be used.
    """
    header, data = _files(path)
    layout = _layout(header)
    _, count, bands = layout.sizes
    check_room(count * bands * VALUE_BYTES, "The spectra")
    size = data.stat().st_size
    if size < layout.needed:
        raise SceneError(
            f"{data} is truncated: it has {size} bytes, and its header needs "
            f"{layout.needed}. Copy it again."
        )
    raw = read_whole(data, size)
    values = layout.cube(raw)[0].astype(np.float64)
    ignored = header.number("data ignore value")
    values[values == representable(ignored, layout.dtype)] = np.nan
    marks = header.numbers("bbl", bands)
    for key in ("wavelength", "fwhm"):
        header.numbers(key, bands)  # one for each band, or an error
    factor = header.number("reflectance scale factor")
    if factor is not None and not 0 < factor < np.inf:
        raise SceneError(
            f"{header.path}: reflectance scale factor is {factor}, not above 0."
        )
    scale = None if factor is None else 1 / factor
    if header.text("data gain values") or header.text("data offset values"):
        gain, offset = units_of(header, bands)
        assert gain is not None
        assert offset is not None
        values, scale = values * gain + offset, 1.0
    names = _names(header, count)
    columns: Columns = {}
    if label_field is not None or group_field is not None:
        columns = _fields_beside(data, names)
    if label_field is None:
        columns = {BY_NAME: _by_name(header, names)} | columns
    return Contents(
        path=data,
        values=values,
        names=names or [str(number) for number in range(1, count + 1)],
        columns=columns,
        axis=choose(str(header.path), [list_place("", header.fields, bands)]),
        good=np.ones(bands, dtype=bool) if marks is None else marks != 0,
        scale=scale,
        notes=(*layout.notes, *surplus_of(data, layout)),
    )


def side_tables(path: str) -> list[Path]:
    """List the tables beside a library that may hold its fields."""
    own = Path(path)
    if not own.name:  # a folder, such as "."
        return []
    names = {own.with_suffix(".csv"), own.with_name(own.name + ".csv")}
    return [name for name in sorted(names) if name != own and name.is_file()]


def _class_of(name: str) -> str:
    """Return the name of a spectrum without the number at its end."""
    if len(name) > MAX_NAME:  # refused later; a search would take long
        return name
    return NUMBER.sub("", name) or name


def _files(path: str) -> tuple[Header, Path]:
    """Find the header and the data file of a library."""
    file = local_file(path)
    with open_binary(file) as stream:
        given_header = is_header(stream.read(8))
    header_path = file if given_header else header_beside(file)
    data: Path | None = file
    if given_header:
        beside = [file.with_suffix(suffix) for suffix in SUFFIXES]
        data = next((p for p in beside if p != file and p.is_file()), None)
    if header_path is None or data is None:
        lacks = "no data file" if data is None else "no ENVI header"
        raise SceneError(
            f"{path} has {lacks} beside it. A library is two files, such as "
            f"{file.stem}.sli and {file.stem}.hdr; copy both."
        )
    header = read_header(header_path)
    if "library" not in header.text("file type").lower():
        raise SceneError(
            f"{header_path} describes no spectral library: its file type is "
            f"{header.text('file type') or 'missing'}. Give a scene as --scene."
        )
    return header, data


def _layout(header: Header) -> Layout:
    """Read where the values lie: one band, a line a spectrum, a sample a band."""
    fields = header.fields | {"file type": "ENVI Standard"}
    fields.setdefault("bands", "1")
    fields.setdefault("interleave", "bsq")
    layout = layout_of(Header(header.path, fields))
    if layout.sizes[0] != 1:
        raise SceneError(
            f"{header.path}: a spectral library has 1 band, not {layout.sizes[0]}; its "
            "samples are the bands of the spectra. Correct the header."
        )
    return layout


def _names(header: Header, count: int) -> list[str]:
    """Read the names of the spectra; empty where the header has none."""
    text = header.text("spectra names")
    if not text:
        return []
    names = [" ".join(name.split()) for name in text.split(",")]
    if names and not names[-1] and len(names) == count + 1:
        names.pop()  # a comma at the end
    if len(names) != count:
        raise SceneError(
            f"{header.path}: {len(names)} spectra names, {count} spectra. Names hold "
            "no comma; correct the header."
        )
    return names


def _by_name(header: Header, names: list[str]) -> NDArray[Any]:
    """Return the classes that the names of the spectra tell."""
    if not names:
        raise SceneError(
            f"{header.path} has no spectra names, by which classes are told. Add them, "
            "or name a field of a table beside the library with --label-field."
        )
    return np.array([_class_of(name) for name in names], dtype=object)


def _fields_beside(data: Path, names: list[str]) -> Columns:
    """Read the table beside a library, in the order of the spectra.

    The first of its columns that holds all names tells which spectrum a row is of.
    """
    tables = side_tables(str(data))
    if not tables:
        raise SceneError(
            f"{data} has no table beside it ({data.stem}.csv) with the fields of its "
            "spectra. Write one with their names in a column."
        )
    path = tables[0]
    columns = read_columns(str(path))
    wanted = set(names)
    for key, column in columns.items():
        rows = {str(value).strip(): row for row, value in enumerate(column)}
        if not names or not wanted <= rows.keys():
            continue
        counts = Counter(str(value).strip() for value in column)
        if twice := sorted(name for name in wanted if counts[name] > 1):
            raise SceneError(
                f"{path}: {key} holds {twice[0]!r} twice. Give each spectrum one row."
            )
        order = [rows[name] for name in names]
        return {other: values[order] for other, values in columns.items()}
    raise SceneError(
        f"{path} has no column with the names of all spectra of {data.name}. Add one."
    )

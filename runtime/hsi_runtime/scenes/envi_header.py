"""Reads ENVI headers: their fields, and where they say that the values lie."""

import codecs
import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.files import read_whole
from hsi_runtime.scenes.scene import FILE_AXES, Cube
from hsi_runtime.scenes.wavelengths import listed

MAX_HEADER_BYTES = 16 * 1024 * 1024
DTYPES = {
    "1": "u1",
    "2": "i2",
    "3": "i4",
    "4": "f4",
    "5": "f8",
    "12": "u2",
    "13": "u4",
    "14": "i8",
    "15": "u8",
}


@dataclass(frozen=True)
class Header:
    """An ENVI header.

    Attributes:
        path: The header file.
        fields: Text values without braces, by lower-case name.
    """

    path: Path
    fields: dict[str, str]

    def text(self, key: str, default: str = "") -> str:
        """Return a field as text."""
        return self.fields.get(key, default)

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a field as a whole number.

        Raises:
            SceneError: It is none, or is missing and has no default.
        """
        try:
            if key in self.fields or default is None:
                return int(self.fields[key])
        except (KeyError, ValueError) as error:
            raise SceneError(
                f"{self.path}: {key} is missing or not a whole number."
            ) from error
        return default

    def number(self, key: str) -> float | None:
        """Return a field as a number, or None where it is missing or empty.

        Raises:
            SceneError: It is not a number.
        """
        if not self.fields.get(key):
            return None
        try:
            return float(self.fields[key])
        except ValueError as error:
            raise SceneError(
                f"{self.path}: {key} is not a number: {self.fields[key]!r}."
            ) from error

    def numbers(self, key: str, bands: int) -> NDArray[np.float64] | None:
        """Return a field as one number per band, or None where it is missing or empty.

        Raises:
            SceneError: A value is not a number, or their count is another.
        """
        if not self.fields.get(key):
            return None
        values = []
        for text in listed(self.fields[key]):
            try:
                values.append(float(text))
            except ValueError as error:
                raise SceneError(
                    f"{self.path}: {key} has a value that is no number: {text[:40]!r}."
                ) from error
        if len(values) != bands:
            raise SceneError(
                f"{self.path}: {len(values)} values of {key}, {bands} bands."
            )
        return np.array(values)


def read_header(path: Path) -> Header:
    """Read the fields of a header.

    Raises:
        SceneError: The file is no ENVI header.
    """
    raw = read_whole(path, MAX_HEADER_BYTES)
    if not is_header(raw):
        raise SceneError(f"{path} is not an ENVI header: its first line must be ENVI.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:  # as ENVI writes names on a Windows of western Europe
        text = raw.decode("cp1252", "replace")
    return Header(path, _fields(path, text))


def is_header(start: bytes) -> bool:
    """Return True if a file that starts so is an ENVI header."""
    return start.removeprefix(codecs.BOM_UTF8).startswith(b"ENVI")


def _fields(path: Path, text: str) -> dict[str, str]:
    """Split a header into its fields, in time that is linear in its length.

    A value in braces may span lines; a line that starts with a semicolon is a comment.
    """
    fields: dict[str, str] = {}
    key = ""
    parts: list[str] | None = None  # of a value whose brace is open
    for line in re.split(r"\r\n|\r|\n", text):
        if line.lstrip().startswith(";"):
            continue
        rest = line
        if parts is None:
            name, equals, rest = line.partition("=")
            key = " ".join(name.lower().split())
            if not equals or not key or "{" in name or "}" in name:
                continue
            if not rest.lstrip().startswith("{"):
                fields[key] = rest.split("{")[0].strip()
                continue
            parts, rest = [], rest.lstrip()[1:]
        inside, closed, _ = rest.partition("}")
        parts.append(inside)
        if closed:
            fields[key] = "\n".join(parts).strip()
            parts = None
    if parts is not None:
        raise SceneError(
            f"{path} is cut off: {key} has no closing brace. Copy it again."
        )
    return fields


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the values of a cube lie in the data file.

    A frame is what the file counts together: a major frame is a band of a BSQ file and
    a line of all bands of others; a minor frame is a line of one band, and a spectrum
    of a BIP file. Bytes that belong to neither may surround them.

    Attributes:
        sizes: Bands, rows and columns.
        interleave: Order of the values, a key of `FILE_AXES`.
        dtype: Stored type with its byte order.
        offset: Bytes before the first frame.
        major: Bytes before and after each major frame.
        minor: Bytes before and after each minor frame.
        notes: Sentences a user should read.
    """

    sizes: tuple[int, int, int]
    interleave: str
    dtype: np.dtype[Any]
    offset: int
    major: tuple[int, int]
    minor: tuple[int, int]
    notes: tuple[str, ...]

    @property
    def stored(self) -> tuple[int, ...]:
        """Sizes in the order of the file, slowest first."""
        return tuple(self.sizes[axis] for axis in FILE_AXES[self.interleave])

    @property
    def strides(self) -> tuple[int, int, int]:
        """Bytes from one value to the next along each axis of `stored`."""
        _, frames, values = self.stored
        minor = values * self.dtype.itemsize + sum(self.minor)
        return frames * minor + sum(self.major), minor, self.dtype.itemsize

    @property
    def framed(self) -> bool:
        """True if bytes lie between the frames."""
        return any((*self.major, *self.minor))

    @property
    def needed(self) -> int:
        """Bytes that the data file must have."""
        return self.offset + self.stored[0] * self.strides[0]

    def cube(self, buffer: mmap.mmap | bytes | bytearray | memoryview) -> Cube:
        """See the bytes of the data file as a cube ``(band, row, col)``."""
        stored: NDArray[Any] = np.ndarray(
            self.stored,
            self.dtype,
            buffer,
            self.offset + self.major[0] + self.minor[0],
            self.strides,
        )
        return stored.transpose(np.argsort(FILE_AXES[self.interleave]))


def layout_of(header: Header) -> Layout:
    """Read where the values lie.

    Raises:
        SceneError: A field is missing, or of a kind that is not supported.
    """
    shape = {key: header.integer(key) for key in ("bands", "lines", "samples")}
    if min(shape.values()) < 1:
        raise SceneError(f"{header.path} declares an empty cube: {shape}.")
    if "library" in header.text("file type").lower():
        raise SceneError(f"{header.path} describes a spectral library, not a scene.")
    interleave = header.text("interleave").lower()
    if interleave not in FILE_AXES:
        raise SceneError(
            f"{header.path}: interleave is {interleave!r}; expected bsq, bil or bip."
        )
    code = header.text("data type")
    if code not in DTYPES:
        raise SceneError(
            f"{header.path}: data type {code!r} is not supported; "
            f"expected one of {', '.join(DTYPES)}."
        )
    if header.text("file compression", "0") not in ("0", ""):
        raise SceneError(
            f"The data of {header.path} are compressed; gunzip them first."
        )
    notes = []
    order = header.text("byte order")
    if order not in ("", "0", "1"):
        raise SceneError(
            f"{header.path}: byte order is {order!r}; expected 0 (little endian) or 1."
        )
    if not order:
        notes.append(f"{header.path} has no byte order; taken as little endian.")
    offset = header.integer("header offset", 0)
    if offset < 0:
        raise SceneError(f"{header.path}: header offset is negative: {offset}.")
    return Layout(
        sizes=(shape["bands"], shape["lines"], shape["samples"]),
        interleave=interleave,
        dtype=np.dtype(DTYPES[code]).newbyteorder(">" if order == "1" else "<"),
        offset=offset,
        major=_frame(header, "major frame offsets"),
        minor=_frame(header, "minor frame offsets"),
        notes=tuple(notes),
    )


def _frame(header: Header, key: str) -> tuple[int, int]:
    """Read the bytes before and after a frame; one number stands for both."""
    try:
        values = [int(v) for v in header.text(key).split(",") if v.strip()] or [0]
        before, after = values if len(values) > 1 else values * 2
    except ValueError:
        before, after = -1, -1
    if before < 0 or after < 0:
        raise SceneError(
            f"{header.path}: {key} are {header.text(key)!r}; expected two whole "
            "numbers from 0."
        )
    return before, after


def units_of(
    header: Header, bands: int
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Read the scale and offset of each band, None where not declared.

    Raises:
        SceneError: One is not a number, or the scale factor is not above 0.
    """
    gain = header.numbers("data gain values", bands)
    offset = header.numbers("data offset values", bands)
    factor = header.number("reflectance scale factor")
    if factor is not None and not factor > 0:
        raise SceneError(
            f"{header.path}: reflectance scale factor is {factor}, not above 0."
        )
    # Of whole numbers a factor of 1 says nothing: no reflectance is stored so.
    decimal = DTYPES.get(header.text("data type"), "")[:1] == "f"
    if gain is None and factor is not None and (decimal or factor != 1):
        gain = np.full(bands, 1 / factor)
    if gain is None and offset is not None:
        gain = np.ones(bands)
    if gain is not None and offset is None:
        offset = np.zeros(bands)
    return gain, offset

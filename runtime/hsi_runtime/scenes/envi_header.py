"""Finds the header of an ENVI scene, and reads its fields."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.files import open_binary

MAX_HEADER_BYTES = 16 * 1024 * 1024
DATA_SUFFIXES = ("", ".img", ".dat", ".raw", ".bsq", ".bil", ".bip", ".bin", ".sli")


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
        try:
            values = np.array(
                [float(v) for v in self.fields[key].split(",") if v.strip()]
            )
        except ValueError as error:
            raise SceneError(
                f"{self.path}: {key} has a value that is no number."
            ) from error
        if len(values) != bands:
            raise SceneError(
                f"{self.path}: {len(values)} values of {key}, {bands} bands."
            )
        return values


def find_header(path: Path, magic: bytes) -> tuple[Path, Path] | None:
    """Find the header and data file of a scene from the name of either.

    Returns:
        Header path and data path, or None where ``path`` does not belong to an ENVI
        scene.

    Raises:
        SceneError: A header without its data file.
    """
    if magic.startswith(b"ENVI"):
        stem = path.with_suffix("") if path.suffix.lower() == ".hdr" else path
        candidates = [stem.with_name(stem.name + s) for s in DATA_SUFFIXES]
        for data in candidates:
            if data.is_file() and data != path:
                return path, data
        raise SceneError(
            f"{path} is an ENVI header, but its data file is missing; expected it "
            f"beside the header, as {stem.name} or {stem.name}.img."
        )
    for header in (path.with_name(path.name + ".hdr"), path.with_suffix(".hdr")):
        if header.is_file() and header != path:
            with open_binary(header) as file:
                if file.read(4) == b"ENVI":
                    return header, path
    return None


def read_header(path: Path) -> Header:
    """Read the fields of a header.

    Raises:
        SceneError: The file is no ENVI header.
    """
    with open_binary(path) as file:
        raw = file.read(MAX_HEADER_BYTES + 1)
    if len(raw) > MAX_HEADER_BYTES or not raw.startswith(b"ENVI"):
        raise SceneError(f"{path} is not an ENVI header: its first line must be ENVI.")
    # Comments start a line with a semicolon; a value in braces may span lines.
    text = re.sub(r"^\s*;.*$", "", raw.decode("utf-8", "replace"), flags=re.MULTILINE)
    fields: dict[str, str] = {}
    for name, opened, inside, closed, plain in re.findall(
        r"^[ \t]*([^={}\r\n]+?)[ \t]*=[ \t]*(?:(\{)([^}]*)(\}?)|([^\r\n{]*))",
        text,
        flags=re.MULTILINE,
    ):
        key = " ".join(name.lower().split())
        if opened and not closed:
            raise SceneError(
                f"{path} is cut off: {key} has no closing brace. Copy it again."
            )
        fields[key] = (inside or plain).strip()
    return Header(path, fields)

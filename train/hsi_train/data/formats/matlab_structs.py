"""Walks the elements of a MATLAB file, v5: how many there are, and fields of structs.

scipy reads a variable whole to tell what is in it, and believes every size that it
states; here only the sizes are read, and no more than some megabytes are unpacked.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hsi_runtime.errors import SceneError
from hsi_runtime.files import open_binary

HEADER_BYTES = 128
MOST_VARIABLES = 10_000
MOST_BYTES = 16 * 1024**2  # of a struct that are looked at
COMPRESSED, MATRIX = 15, 14  # types of elements
STRUCT = 2  # class of an array


class _Element(NamedTuple):
    kind: int
    start: int
    length: int


def check_count(path: str) -> None:
    """Refuse a file of more variables than anybody saves.

    Raises:
        SceneError: It has; listing them would take minutes.
    """
    with open_binary(Path(path)) as file:
        size, order = _start(file)
        if not order:
            return
        for number, _ in enumerate(_elements(file, size, order)):
            if number == MOST_VARIABLES:
                raise too_many(path)


def too_many(path: str) -> SceneError:
    """Return the error of a file with more than `MOST_VARIABLES` variables."""
    return SceneError(
        f"{path} has more than {MOST_VARIABLES} variables. Save the cube or the labels "
        "into a file of their own."
    )


def fields(path: str, name: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a struct's fields, as far as they are soon found."""
    with open_binary(Path(path)) as file:
        size, order = _start(file)
        for element in _elements(file, size, order) if order else ():
            file.seek(element.start)
            raw = file.read(min(element.length, MOST_BYTES))
            try:
                if element.kind == COMPRESSED:
                    raw = zlib.decompressobj().decompress(raw, MOST_BYTES)[8:]
                found = _struct_fields(raw, order, name)
            except (struct.error, zlib.error, ValueError, IndexError):
                continue
            if found is not None:
                return found
    return {}


def _start(file: Any) -> tuple[int, str]:
    """Return the size of a file and its order of bytes, empty where it is no v5."""
    size = file.seek(0, 2)
    file.seek(0)
    order = file.read(HEADER_BYTES)[126:]
    return size, {b"IM": "<", b"MI": ">"}.get(order, "")


def _elements(file: Any, size: int, order: str) -> Iterator[_Element]:
    at = HEADER_BYTES
    while at + 8 <= size:
        file.seek(at)
        kind, length = struct.unpack(f"{order}II", file.read(8))
        yield _Element(kind, at + 8, length)
        at += 8 + length


def _tagged(raw: bytes, at: int, order: str) -> tuple[bytes, int]:
    """Return the bytes of an element within another one, and where the next begins."""
    (first,) = struct.unpack_from(f"{order}I", raw, at)
    if first >> 16:  # small: its length and its bytes share the eight of the tag
        length = first >> 16
        return raw[at + 4 : at + 4 + length], at + 8
    (length,) = struct.unpack_from(f"{order}I", raw, at + 4)
    end = at + 8 + length
    return raw[at + 8 : end], end + -end % 8


def _array(raw: bytes, at: int, order: str) -> tuple[int, tuple[int, ...], str, int]:
    """Read class, shape and name of an array, and where the rest of it begins."""
    flags, at = _tagged(raw, at, order)
    sizes, at = _tagged(raw, at, order)
    name, at = _tagged(raw, at, order)
    (kind,) = struct.unpack_from(f"{order}I", flags)
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    return kind & 255, shape, name.decode("latin-1"), at


def _struct_fields(
    raw: bytes, order: str, wanted: str
) -> dict[str, tuple[int, ...]] | None:
    """Read the fields of an array, if it is the struct of that name."""
    kind, _, name, at = _array(raw, 0, order)
    if (kind, name) != (STRUCT, wanted):
        return None
    step, at = _tagged(raw, at, order)
    names, at = _tagged(raw, at, order)
    (length,) = struct.unpack(f"{order}i", step)
    found: dict[str, tuple[int, ...]] = {}
    for start in range(0, len(names), length):
        if at + 8 > len(raw):
            break
        field = names[start : start + length].split(b"\0")[0].decode("latin-1")
        found[field] = _array(raw, at + 8, order)[1]
        (size,) = struct.unpack_from(f"{order}I", raw, at + 4)
        at += 8 + size
    return found

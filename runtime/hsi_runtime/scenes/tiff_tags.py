"""Reads of a TIFF's own tags what GDAL drops in silence.

GDAL ignores tags that lie beyond the end of a file, and a nodata value that the type
of the pixels cannot hold.
"""

import struct
from pathlib import Path
from typing import Any, NamedTuple

from hsi_runtime.errors import SceneError
from hsi_runtime.files import open_binary

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Bytes of one value by the number of a tag's type.
TAG_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
TAG_BYTES |= {13: 4, 16: 8, 17: 8, 18: 8}
GDAL_NODATA = 42113  # a number as text
NODATA_BYTES = 64  # of which a number needs fewer
MOST_TAGS = 1_000_000  # of all directories; a TIFF has some dozens in each


class _Extent(NamedTuple):
    """End of the tags that lie farthest back, and place of the nodata text."""

    reach: int
    nodata: tuple[int, int] | None  # offset and length


def is_tiff(start: bytes) -> bool:
    """Return True if a file that starts so is a TIFF."""
    return start[:4] in MAGICS


def declared_nodata(path: Path) -> str:
    """Return the nodata value of a TIFF as its tag spells it, or an empty text.

    Raises:
        SceneError: Tags lie beyond the end of the file. Tags often lie behind the
            pixels, and nodata and wavelengths are among them. A mask has tags of its
            own, in a later directory.
    """
    size = path.stat().st_size
    with open_binary(path) as file:
        extent = _extent(path, file, size)
        if extent.reach > size:
            raise SceneError(
                f"{path} is truncated: its tags reach to byte {extent.reach}, the file "
                f"has {size}. Copy it again."
            )
        if extent.nodata is None:
            return ""
        offset, length = extent.nodata
        file.seek(offset)
        raw: bytes = file.read(min(length, NODATA_BYTES))
    return raw.split(b"\0")[0].decode("ascii", "replace").strip()


def _extent(path: Path, file: Any, size: int) -> _Extent:
    """Walk the directories of a TIFF, up to one that lies beyond its end.

    Args:
        path: A TIFF.
        file: The TIFF, open for reading bytes.
        size: Its length in bytes.
    """
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    pointer, number, entry = (
        struct.Struct(order + kind)
        for kind in (("Q", "Q", "HHQQ") if big else ("I", "H", "HHII"))
    )
    (start,) = pointer.unpack_from(head, pointer.size)
    reach: int = 0
    nodata: tuple[int, int] | None = None
    seen = {0}
    tags = 0
    while start not in seen:  # a hostile file leads back to where it has been
        first = len(seen) == 1
        seen.add(start)
        reach = max(reach, start + number.size)
        if reach > size:
            break
        file.seek(start)
        (count,) = number.unpack(file.read(number.size))
        reach = max(reach, start + number.size + count * entry.size + pointer.size)
        if reach > size:
            break
        tags += count + 1
        if tags > MOST_TAGS:
            raise SceneError(f"{path} has more tags than any TIFF of a scene.")
        entries = file.read(count * entry.size)
        (following,) = pointer.unpack(file.read(pointer.size))
        for at, (tag, kind, values, offset) in enumerate(entry.iter_unpack(entries)):
            length = values * TAG_BYTES.get(kind, 0)
            inside = start + number.size + (at + 1) * entry.size - pointer.size
            if length > pointer.size:
                reach = max(reach, offset + length)
            if tag == GDAL_NODATA and first:
                nodata = offset if length > pointer.size else inside, length
        start = following
    return _Extent(reach, nodata)

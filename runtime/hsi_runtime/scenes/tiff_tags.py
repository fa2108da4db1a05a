"""Checks that the tags of a TIFF lie inside the file: GDAL drops others in silence."""

import struct
from pathlib import Path
from typing import Any

from hsi_runtime.errors import SceneError
from hsi_runtime.files import open_binary

# Bytes of one value by the number of a tag's type.
TAG_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
TAG_BYTES |= {13: 4, 16: 8, 17: 8, 18: 8}


def check_tags(path: Path) -> None:
    """Refuse a file with tags beyond its end: GDAL ignores those without an error.

    Tags often lie behind the pixels, and nodata and wavelengths are among them. A mask
    has tags of its own, in a later directory.
    """
    size = path.stat().st_size
    with open_binary(path) as file:
        reach = _reach_of_tags(file, size)
    if reach > size:
        raise SceneError(
            f"{path} is truncated: its tags reach to byte {reach}, the file has "
            f"{size}. Copy it again."
        )


def _reach_of_tags(file: Any, size: int) -> int:
    """Return the end of the tags that lie farthest back, or of some beyond the file.

    Args:
        file: A TIFF, open for reading bytes.
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
    seen = {0}
    while start not in seen:  # a hostile file leads back to where it has been
        seen.add(start)
        reach = max(reach, start + number.size)
        if reach > size:
            return reach
        file.seek(start)
        (count,) = number.unpack(file.read(number.size))
        reach = max(reach, start + number.size + count * entry.size + pointer.size)
        if reach > size:
            return reach
        for _, kind, values, offset in entry.iter_unpack(file.read(count * entry.size)):
            length = values * TAG_BYTES.get(kind, 0)
            if length > pointer.size:
                reach = max(reach, offset + length)
        (start,) = pointer.unpack(file.read(pointer.size))
    return reach

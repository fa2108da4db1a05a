import struct
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray


def add_mask(path: Path, seen: NDArray[np.bool_], inside: bool = True) -> Path:
    """Mask a TIFF where ``seen`` is False, in the file or in a ``.msk`` beside it."""
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside),
        rasterio.open(path, "r+") as file,
    ):
        file.write_mask(seen)
    return path


def write_band_masks(
    path: Path, cube: NDArray[np.uint16], seen: NDArray[np.bool_]
) -> Path:
    """Write a TIFF with a mask for each band, which GDAL reads but does not write.

    Args:
        path: The TIFF, to be.
        cube: Values, shape ``(band, row, col)``.
        seen: False where the mask of a band hides a pixel, shape as that of the cube.
    """
    content = bytearray(b"II*\0\0\0\0\0")
    link = 4  # where the offset of the next directory is stored

    def put(data: bytes) -> int:
        content.extend(data)
        return len(content) - len(data)

    for planes, kind in ((cube.astype("<u2"), 0), (seen.astype("u1") * 255, 4)):
        count, rows, cols = planes.shape
        size = planes.itemsize
        starts = [put(plane.tobytes()) for plane in planes]
        fields = {
            254: ("I", [kind]),
            256: ("I", [cols]),
            257: ("I", [rows]),
            258: ("H", [8 * size] * count),
            259: ("H", [1]),
            262: ("H", [kind or 1]),
            273: ("I", starts),
            277: ("H", [count]),
            278: ("I", [rows]),
            279: ("I", [rows * cols * size] * count),
            284: ("H", [2]),
            338: ("H", [0] * (count - 1)),
        }
        entries = b""
        for tag, (form, values) in fields.items():
            packed = struct.pack(f"<{len(values)}{form}", *values)
            if len(packed) > 4:
                packed = struct.pack("<I", put(packed))
            code = 3 if form == "H" else 4
            entries += struct.pack("<HHI", tag, code, len(values)) + packed.ljust(
                4, b"\0"
            )
        directory = struct.pack("<H", len(fields)) + entries + bytes(4)
        place = put(directory)
        content[link : link + 4] = struct.pack("<I", place)
        link = len(content) - 4
    path.write_bytes(content)
    return path

"""Opens a scene by its first bytes: GeoTIFF or ENVI.

Never by GDAL's own guess, because guessing opens whatever a hostile file refers to.
"""

import os
from collections.abc import Collection
from pathlib import Path

from hsi_runtime.errors import SceneError
from hsi_runtime.files import local_file, open_binary
from hsi_runtime.scenes.scene import DTYPES, Scene

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_scene(path: str | os.PathLike[str], dtypes: Collection[str] = DTYPES) -> Scene:
    """Open a GeoTIFF or ENVI scene, by its data file or its ``.hdr``.

    Args:
        path: The file.
        dtypes: Types of values that can be used.

    Raises:
        SceneError: There is no such file, it is of no kind that can be read, or
            its mask lies in another file.
    """
    path = local_file(path)
    with open_binary(path) as file:
        magic = file.read(8)
    if magic[:4] in TIFF_MAGICS:
        from hsi_runtime.scenes.geotiff import GeoTiffScene

        _check_mask(path)
        try:
            return GeoTiffScene(path, dtypes)
        except SceneError:
            envi = _raw_values(path)
            if envi is None:
                raise
            return envi
    from hsi_runtime.scenes.envi import EnviScene
    from hsi_runtime.scenes.envi_files import find_envi

    files = find_envi(path, magic)
    if files is not None:
        _check_mask(files[1])
        return EnviScene(*files, dtypes)
    hint = "hsi-run reads GeoTIFF and ENVI files (with their .hdr)"
    if magic.startswith(b"MATLAB") or magic == b"\x89HDF\r\n\x1a\n":
        hint = (
            "MATLAB and HDF5 files are read by hsi-train only; "
            "convert the cube to GeoTIFF or ENVI to run on it"
        )
    raise SceneError(f"{path} is neither a TIFF nor an ENVI file: {hint}.")


def _raw_values(path: Path) -> Scene | None:
    """Open raw values that begin like a TIFF, if a header accounts for each byte."""
    from hsi_runtime.scenes.envi import EnviScene
    from hsi_runtime.scenes.envi_files import header_beside
    from hsi_runtime.scenes.envi_header import layout_of, read_header

    header = header_beside(path)
    if header is None:
        return None
    try:
        needed = layout_of(read_header(header)).needed
    except SceneError:
        return None
    return EnviScene(header, path) if needed == path.stat().st_size else None


def _check_mask(path: Path) -> None:
    """Refuse a scene whose mask lies beside it: only the scene itself is opened."""
    mask = path.with_name(path.name + ".msk")
    if mask.exists():
        raise SceneError(
            f"{path} has its mask in another file, {mask.name}, which is not read. Put "
            "both into one: gdal_translate --config GDAL_TIFF_INTERNAL_MASK YES "
            f"{path.name} masked.tif"
        )

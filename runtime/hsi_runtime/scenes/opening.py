"""Opens a scene by its first bytes: GeoTIFF or ENVI."""

import os
from pathlib import Path

from hsi_runtime.errors import SceneError
from hsi_runtime.files import local_file, open_binary
from hsi_runtime.scenes.scene import Scene

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_scene(path: str | os.PathLike[str]) -> Scene:
    """Open a GeoTIFF or ENVI scene, by its data file or its ``.hdr``.

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
        return GeoTiffScene(path)
    from hsi_runtime.scenes.envi import EnviScene
    from hsi_runtime.scenes.envi_header import find_header

    header = find_header(path, magic)
    if header is not None:
        _check_mask(header[1])
        return EnviScene(*header)
    hint = "hsi-run reads GeoTIFF and ENVI files (with their .hdr)"
    if magic.startswith(b"MATLAB") or magic == b"\x89HDF\r\n\x1a\n":
        hint = (
            "MATLAB and HDF5 files are read by hsi-train only; "
            "convert the cube to GeoTIFF or ENVI to run on it"
        )
    raise SceneError(f"{path} is neither a TIFF nor an ENVI file: {hint}.")


def _check_mask(path: Path) -> None:
    """Refuse a scene whose mask lies beside it: only the scene itself is opened."""
    mask = path.with_name(path.name + ".msk")
    if mask.exists():
        raise SceneError(
            f"{path} has its mask in another file, {mask.name}, which is not read. Put "
            "both into one: gdal_translate --config GDAL_TIFF_INTERNAL_MASK YES "
            f"{path.name} masked.tif"
        )

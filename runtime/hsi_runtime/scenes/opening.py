"""Opens a scene: a sensor product, or a GeoTIFF or ENVI file, by its content.

Never by GDAL's own guess, because guessing opens whatever a hostile file refers to.
"""

import os
from collections.abc import Collection
from pathlib import Path

from hsi_runtime.errors import SceneError
from hsi_runtime.files import local_file, open_binary
from hsi_runtime.scenes.products import unread
from hsi_runtime.scenes.products.recognised import START_BYTES, Recognised
from hsi_runtime.scenes.products.recognition import products_in, recognise
from hsi_runtime.scenes.scene import DTYPES, Scene
from hsi_runtime.scenes.side_car import check_mask
from hsi_runtime.scenes.tiff_tags import is_tiff


def open_scene(path: str | os.PathLike[str]) -> Scene:
    """Open a sensor product, or a GeoTIFF or ENVI scene.

    Args:
        path: The folder of a product, any of its files, a GeoTIFF, or an ENVI scene by
            its data file or its ``.hdr``.

    Raises:
        SceneError: There is no such file, it is of no kind that can be read, a folder
            holds no product or several, or the mask lies in another file.
    """
    place = Path(path)
    if os.path.isdir(place):
        return product_of(place).open()
    product = recognise(local_file(place))
    return open_raster(place) if product is None else product.open()


def product_of(folder: Path) -> Recognised:
    """Return the one product of a folder.

    Raises:
        SceneError: It holds none that can be read, or several.
    """
    if refused := unread.folder_refusal(folder):
        raise SceneError(refused)
    products, errors = products_in(folder)
    if errors and not products:
        raise errors[0]
    if not products:
        raise SceneError(
            f"{folder} is a folder without a sensor product that is known; name the "
            "scene in it."
        )
    if len(products) > 1:
        names = [product.path.name for product in products[:3]]
        more = ", ..." if len(products) > 3 else ""
        raise SceneError(
            f"{folder} holds {len(products)} products, described by "
            f"{', '.join(names)}{more}. Name the one that is meant in place of the "
            "folder."
        )
    return products[0]


def open_raster(
    path: str | os.PathLike[str], dtypes: Collection[str] = DTYPES
) -> Scene:
    """Open a GeoTIFF or ENVI file by itself, whatever product it belongs to.

    Args:
        path: A GeoTIFF, or an ENVI file or its ``.hdr``.
        dtypes: Types of values that can be used.

    Raises:
        SceneError: There is no such file, it is of no kind that can be read, or
            its mask lies in another file.
    """
    path = local_file(path)
    with open_binary(path) as file:
        start = file.read(START_BYTES)
    magic = start[:8]
    if is_tiff(magic):
        from hsi_runtime.scenes.geotiff import GeoTiffScene

        check_mask(path)
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
        check_mask(files[1])
        return EnviScene(*files, dtypes)
    if refused := unread.refusal(path, start):
        raise SceneError(refused)
    hint = (
        "hsi-run reads GeoTIFF and ENVI files (with their .hdr) and the products that "
        "the documentation lists"
    )
    if magic.startswith(b"MATLAB"):
        hint = (
            "MATLAB files are read by hsi-train only; convert the cube to GeoTIFF or "
            "ENVI to run on it"
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

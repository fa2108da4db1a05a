"""Recognises the product in an HDF5 or netCDF4 file by its groups, not by its name.

h5py, of the extra ``hdf5``, is imported for such a file only.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.products.recognised import Recognised
from hsi_runtime.scenes.scene import Scene

if TYPE_CHECKING:
    from hsi_runtime.scenes.hdf5.container import Container
    from hsi_runtime.scenes.hdf5.layout import Layout, Product

MAGIC = b"\x89HDF\r\n\x1a\n"
ON_GRID = "Reproject it to a GeoTIFF with a map grid"
# What a product that is not read has in it, its name, and what to do.
REFUSED = (
    ("HDFEOS/SWATHS/PRS_L1_HCO", "PRISMA L1, a swath without a map grid", "order L2D"),
    (
        "HDFEOS/SWATHS/PRS_L2B_HCO",
        "PRISMA L2B, a swath without a map grid",
        "order L2D",
    ),
    (
        "HDFEOS/SWATHS/PRS_L2C_HCO",
        "PRISMA L2C, a swath without a map grid",
        "order L2D",
    ),
    (
        "HDFEOS/SWATHS/HYP",
        "Tanager basic, a swath without a map grid",
        "order the ortho product",
    ),
    (
        "geophysical_data/rhos",
        "PACE OCI, a swath of 1 km without a map grid",
        "take an L3 mapped product",
    ),
    (
        "geolocation_lookup_table",
        "AVIRIS-5 radiance in the geometry of the sensor",
        "take the RFL_ORT product",
    ),
)
# Files that belong to a product, and which of its files to give instead.
OTHER_FILES = (
    (
        "*/Radiance",
        "NEON AOP radiance, split into integer and decimal parts",
        "the reflectance product",
    ),
    ("location/glt_x", "a file of EMIT without reflectance", "its L2A RFL file"),
    (
        "uncertainty/uncertainty",
        "the uncertainty of AVIRIS reflectance",
        "its RFL_ORT file",
    ),
)


def recognise_hdf5(path: Path, start: bytes) -> Recognised | None:
    """Recognise a product by its first bytes and its groups.

    Args:
        path: A regular file.
        start: Its first bytes.

    Raises:
        SceneError: It is an HDF5 or netCDF4 file of no product that is read, or one
            that leads to other files; or h5py is missing.
    """
    if not start.startswith(MAGIC):
        return None
    try:
        from hsi_runtime.scenes.hdf5.container import Container
    except ModuleNotFoundError as error:
        if error.name != "h5py":
            raise
        raise SceneError(
            f"{path} is an HDF5 or netCDF4 file, which needs the package h5py; install "
            "it with: pip install 'hsi-edge[hdf5]'"
        ) from error
    with Container(path) as file:
        kind = _product(file).layout.product
    return Recognised(kind=kind, path=path, open=partial(_open, path))


def _open(path: Path) -> Scene:
    from hsi_runtime.scenes.hdf5.container import Container
    from hsi_runtime.scenes.hdf5.reader import Hdf5Scene

    file = Container(path)
    try:
        return Hdf5Scene(_product(file))
    except BaseException:
        file.close()
        raise


def _product(file: "Container") -> "Product":
    """Find the product in an open file.

    Raises:
        SceneError: It holds none that is read.
    """
    for layout in layouts():
        product = layout.recognise(file)
        if product is not None:
            return product
    raise _refused(file)


def layouts() -> "tuple[Layout, ...]":
    """Return the table of products that are read."""
    from hsi_runtime.scenes.hdf5 import aviris, emit, neon, prisma, tanager

    tables = (neon, tanager, prisma, aviris, emit)
    return tuple(table.LAYOUT for table in tables)


def _refused(file: "Container") -> SceneError:
    for name, what, remedy in REFUSED:
        if file.has(name):
            return SceneError(
                f"{file.path} is {what}, which is not read. {ON_GRID}, or {remedy}."
            )
    for name, what, instead in OTHER_FILES:
        roots = file.names() if name.startswith("*") else [""]
        if any(file.has(name.replace("*", root)) for root in roots):
            return SceneError(f"{file.path} is {what}. Give {instead}.")
    listed = ", ".join(file.listing()) or "nothing"
    known = ", ".join(layout.product for layout in layouts())
    return SceneError(
        f"{file.path} is an HDF5 or netCDF4 file of no product that is read; it holds "
        f"{listed}. Read are {known}. Convert its cube to GeoTIFF or ENVI."
    )

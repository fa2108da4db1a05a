"""What writes a simulated scene in the layout of a sensor product.

Generators are written from descriptions of the products and share no code with the
readers of the runtime, so that a test of one against the other can fail.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_train.simulate.files import grid_profile
from hsi_train.simulate.spec import DType, SceneSpec

# One line for each product: the module that has a `GENERATOR`. It is imported when it
# is used, because some need packages that others do not.
MODULES = {
    "enmap": "hsi_train.simulate.products.enmap",
    "desis": "hsi_train.simulate.products.desis",
    "wyvern": "hsi_train.simulate.products.wyvern",
    "prisma": "hsi_train.simulate.products.prisma",
    "emit": "hsi_train.simulate.products.emit",
    "neon": "hsi_train.simulate.products.neon",
    "tanager": "hsi_train.simulate.products.tanager",
    "aviris3": "hsi_train.simulate.products.aviris3",
}


class Writer(Protocol):
    """A product that is being written, strip by strip."""

    def write(self, cube: NDArray[Any], row0: int) -> None:
        """Write a strip ``(band, row, col)``; strips come in order."""

    def close(self) -> None:
        """Finish the files."""


class Bands(NamedTuple):
    """Bands of a sensor, rising; the two lists are of one length.

    Attributes:
        centres_nm: Band centres, as the simulator computes them.
        widths_nm: Band widths.
    """

    centres_nm: tuple[float, ...]
    widths_nm: tuple[float, ...]


class Generator(NamedTuple):
    """How to write a product.

    Attributes:
        bands: Bands of the sensor.
        dtype: Type of the cube that the writer gets; its nodata is `spec.NODATA`.
        resolution_m: Side of a pixel.
        folder: True if the product is a folder, which is there when the writer starts;
            False if it is one file.
        start: Starts to write a scene under a path.
        grid: Georeference of the rasters of its truth, for rasterio.
    """

    bands: Bands
    dtype: DType
    resolution_m: float
    folder: bool
    start: Callable[[SceneSpec, Path], Writer]
    grid: Callable[[SceneSpec], dict[str, Any]] = grid_profile


def generator_of(product: str) -> Generator:
    """Import what writes a product, one of `MODULES`."""
    generator: Generator = importlib.import_module(MODULES[product]).GENERATOR
    return generator


def fewer(bands: Bands, count: int) -> Bands:
    """Take a number of bands of a sensor, spread evenly over all of them."""
    picked = np.linspace(0, len(bands.centres_nm) - 1, count).round().astype(int)
    return Bands(
        tuple(bands.centres_nm[i] for i in picked),
        tuple(bands.widths_nm[i] for i in picked),
    )


def product_spec(product: str, bands: int | None = None, **fields: Any) -> SceneSpec:
    """Describe a scene as the sensor of a product sees it.

    Args:
        product: One of `MODULES`.
        bands: Number of bands, spread over the sensor's; None for all.
        **fields: Further fields of the spec, such as ``rows``.

    Raises:
        SceneError: The sensor has fewer bands, or a field has no meaning.
    """
    generator = generator_of(product)
    most = len(generator.bands.centres_nm)
    if bands is not None and not 1 <= bands <= most:
        raise SceneError(f"{product} has {most} bands; ask for 1 to {most}.")
    chosen = generator.bands if bands is None else fewer(generator.bands, bands)
    fields.setdefault("resolution_m", generator.resolution_m)
    return SceneSpec(
        wavelengths_nm=chosen.centres_nm,
        fwhm_nm=chosen.widths_nm,
        dtype=generator.dtype,
        **fields,
    )

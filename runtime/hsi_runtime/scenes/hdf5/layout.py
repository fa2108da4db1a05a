"""What the table of products says of each: where its cube and its description lie."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.georeference import Ground
from hsi_runtime.scenes.hdf5.container import Container
from hsi_runtime.scenes.scene import Placement
from hsi_runtime.scenes.wavelengths import checked_nanometres

Numbers = NDArray[np.float64]
SITE = "*"  # stands for a group of the root, whose name differs from file to file


class Bands(NamedTuple):
    """Bands of a cube, all arrays of shape ``(band,)``.

    Attributes:
        centres: nm; 0 for a band that was not acquired.
        widths: nm, or None.
        good: False for bands that the product marks as bad.
        scale: Quantity = stored value * scale + offset; None where not declared.
        offset: See ``scale``.
    """

    centres: Numbers
    widths: Numbers | None
    good: NDArray[np.bool_]
    scale: Numbers | None = None
    offset: Numbers | None = None

    @classmethod
    def of_reflectance(
        cls, centres: Numbers, widths: Numbers | None, good: Numbers | None
    ) -> "Bands":
        """Describe bands whose stored values are reflectance itself.

        Args:
            centres: nm.
            widths: nm, or None.
            good: 1 for good bands; None for a product that marks none.
        """
        ones = np.ones(len(centres))
        marks = ones if good is None else good
        return cls(centres, widths, marks == 1, scale=ones, offset=0 * ones)


@dataclass(frozen=True, kw_only=True)
class Product:
    """A product that was recognised in an open file.

    Attributes:
        file: The file.
        layout: How it is laid out.
        cubes: Names of its cubes in the file.
        root: Name of the group that stands for `SITE`, or empty.
    """

    file: Container
    layout: "Layout"
    cubes: tuple[str, ...]
    root: str = ""

    def numbers(self, name: str) -> Numbers:
        """Read numbers that the product must have.

        Raises:
            SceneError: They are not there.
        """
        found = self.file.numbers(name)
        if found is None:
            raise self.lacks(name)
        return found.ravel()

    def attribute(self, name: str, *places: str) -> Numbers:
        """Read the numbers of an attribute that the product must have.

        Raises:
            SceneError: They are not there.
        """
        found = self.file.attribute_numbers(name, *places)
        if found is None:
            raise self.lacks(f"attribute {name}")
        return found

    def placed(self, name: str) -> str:
        """Put the name of the group that differs from file to file into a name."""
        return name.replace(SITE, self.root)

    def lacks(self, what: str) -> SceneError:
        """Say that a part of the product is missing."""
        return SceneError(
            f"{self.file.path} is {self.layout.product}, but has no {what}. Is the "
            "file complete?"
        )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A row of the table of products.

    Attributes:
        product: Its name.
        cubes: Names of the data sets that hold the bands, in their order; any of the
            tuples.
        marks: Names that the product has, too, and others with such a cube do not.
        interleave: Order of their axes.
        bands: Reads what describes the bands.
        ground: Reads the place of the grid, for a product that has one.
        placement: Reads the lookup table of a product that has none.
        fill: Value of pixels without data, or the attribute of the cube that holds it.
        name: Attribute of the root with the name that the archive gave the product.
        time: Attribute of the root with the start of the acquisition.
        quality: Data sets that mark clouds and the like; they are not read.
    """

    product: str
    cubes: tuple[tuple[str, ...], ...]
    marks: tuple[str, ...] = ()
    interleave: str
    bands: Callable[[Product], Bands]
    ground: Callable[[Product], Ground] | None = None
    placement: Callable[[Product], Placement] | None = None
    fill: float | str = "_FillValue"
    name: str = ""
    time: str = ""
    quality: tuple[str, ...] = field(default=())

    def recognise(self, file: Container) -> Product | None:
        """Return the product if the file holds its cubes, by whatever name."""
        roots = file.names() if any(SITE in name for name in self.cubes[0]) else [""]
        for root in roots:
            for names in self.cubes:
                cubes = tuple(name.replace(SITE, root) for name in names)
                if all(map(file.has, (*cubes, *self.marks))):
                    return Product(file=file, layout=self, cubes=cubes, root=root)
        return None


def checked_bands(
    product: Product, bands: Bands, count: int
) -> tuple[Bands, list[str]]:
    """Check that each band of the cubes is described, and its wavelength possible.

    Returns:
        The bands, centres in nm, NaN where not acquired; and notes for the user.

    Raises:
        SceneError: A list has another length, or a centre cannot be a wavelength.
    """
    path, lengths = product.file.path, {len(v) for v in bands if v is not None}
    if lengths != {count}:
        raise SceneError(
            f"{path} is {product.layout.product} with {count} bands, but its lists of "
            f"them have {', '.join(map(str, sorted(lengths)))} values. Is the file "
            "complete?"
        )
    acquired = np.isfinite(bands.centres) & (bands.centres > 0)
    if not acquired.any():
        raise SceneError(f"{path} has no band with a wavelength.")
    stated = bands.centres[acquired]
    nanometres, notes = checked_nanometres(str(path), stated)
    if nanometres is None:
        raise SceneError(f"{path}: the wavelengths {stated[0]:g}, ... are none.")
    factor = nanometres[0] / stated[0]
    if factor == 1:
        factor = 1.0
    centres = np.where(acquired, bands.centres * factor, np.nan)
    widths = bands.widths
    if widths is not None:
        usable = np.isfinite(widths) & (widths > 0)
        widths = widths * factor if usable[acquired].all() else None
    return bands._replace(centres=centres, widths=widths), notes

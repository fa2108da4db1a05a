"""What every scene is: its description, how it is read, and which pixels have data.

Cubes are ``(band, row, col)`` in stored units.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError

# float32 holds every value of these exactly enough; int64 and complex it does not.
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
# Which of band (0), row (1) and column (2) a file counts slowest to fastest.
FILE_AXES = {"bsq": (0, 1, 2), "bil": (1, 0, 2), "bip": (1, 2, 0)}
ROWS_AT_ONCE = 8  # of a comparison: its result stays in a core's cache

Cube = NDArray[Any]
Transform = tuple[float, float, float, float, float, float]  # in GDAL's order


class ControlPoints(NamedTuple):
    """Places on the ground of some pixels, for a scene that lies on no regular grid.

    Attributes:
        crs: Reference system of the coordinates, as WKT, or None.
        points: Row, column, x, y and z of each.
    """

    crs: str | None
    points: tuple[tuple[float, float, float, float, float], ...]


class Product(NamedTuple):
    """The sensor product that a scene was delivered as.

    Attributes:
        kind: Sensor and level, such as ``EnMAP L2A``.
        name: Name that the archive gave it, or an empty text.
        time: When its acquisition began, as the product writes it (mostly UTC in ISO
            8601), or an empty text.
    """

    kind: str
    name: str = ""
    time: str = ""


class QualityLayer(NamedTuple):
    """A layer of a product that says which pixels to trust; it is not applied.

    Attributes:
        name: What it shows, such as ``cloud``.
        place: File beside the scene, or path inside it, that holds the layer.
    """

    name: str
    place: str


class Cells(NamedTuple):
    """Pixels of a scene that stand in the cells of a grid, both ``(row, col)``.

    Attributes:
        rows: Row of the pixel within the scene, -1 where none stands there.
        cols: Column of the pixel, likewise.
    """

    rows: NDArray[np.intp]
    cols: NDArray[np.intp]


class Placement(Protocol):
    """Places the pixels of a scene, which lie on no grid, in the cells of one.

    A pixel may stand in several cells, and in none.

    Attributes:
        rows: Height of the grid.
        cols: Width of the grid.
        crs: Coordinate reference system of the grid as WKT, or None.
        transform: GDAL's six numbers of the grid.
    """

    rows: int
    cols: int
    crs: str | None
    transform: Transform

    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> Cells:
        """Read the pixels of some cells, half-open intervals; the scene may be closed.

        Raises:
            SceneError: They cannot be read.
        """


@dataclass(frozen=True, kw_only=True)
class SceneInfo:
    """What a scene says about itself; arrays are per band, shape ``(band,)``.

    Attributes:
        path: The file.
        driver: ``GTiff``, ``ENVI``, ``HDF5``, ``memory`` or ``stream``.
        bands: Number of bands.
        rows: Height in pixels.
        cols: Width in pixels.
        dtype: Type of the stored values; wider for bytes that a mask covers.
        nodata: Fill value per band, NaN where a band has none; `Scene.read` gives it to
            the pixels that the file's own mask hides.
        scale: Quantity = stored value * scale + offset; None where not declared.
        offset: See ``scale``.
        wavelengths_nm: Band centres, or None where the file has none.
        fwhm_nm: Band widths, or None.
        good: False for bands that the file marks as bad (ENVI ``bbl``).
        block: Rows and columns of the file's own blocks.
        decoding_bytes: Memory that reading takes besides the values that it returns.
        mapped: Whether values can be read one by one; if not, a block is decoded whole.
        interleave: Order of the values in the file, a key of `FILE_AXES`.
        read_order: Order of ``out`` that `Scene.read` fills fastest, a key of
            `FILE_AXES`, or None for the file's.
        crs: Coordinate reference system as WKT, or None.
        transform: GDAL's six numbers, or None where the scene has no georeference.
        control: Ground control points, or None.
        rpcs: GDAL's metadata items of a rational polynomial sensor model, or None.
        placement: Places the pixels on a grid, for a scene in the geometry of its
            sensor that comes with a lookup table; else None.
        resolution_m: Side of a pixel in metres, or None where unknown.
        product: Sensor product that the scene was delivered as, or None.
        quality: Layers of the product that say which pixels to trust.
        frame_counter: Column and band, from 0, of the number that each line holds by
            the header, or None.
        notes: Sentences a user should read before trusting the file.
        files: All files of the scene, which no output may replace.
    """

    path: Path
    driver: str
    bands: int
    rows: int
    cols: int
    dtype: np.dtype[Any]
    nodata: NDArray[np.float64]
    scale: NDArray[np.float64] | None = None
    offset: NDArray[np.float64] | None = None
    wavelengths_nm: NDArray[np.float64] | None = None
    fwhm_nm: NDArray[np.float64] | None = None
    good: NDArray[np.bool_]
    block: tuple[int, int]
    decoding_bytes: int = 0
    mapped: bool = False
    interleave: str = "bsq"
    read_order: str | None = None
    crs: str | None = None
    transform: Transform | None = None
    control: ControlPoints | None = None
    rpcs: dict[str, str] | None = None
    placement: Placement | None = None
    resolution_m: float | None = None
    product: Product | None = None
    quality: tuple[QualityLayer, ...] = ()
    frame_counter: tuple[int, int] | None = None
    notes: tuple[str, ...] = field(default=())
    files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a scale or an offset that makes the values of a band meaningless."""
        if self.scale is None or self.offset is None:
            return
        bad = self.good & ~usable_units(self.scale, self.offset)
        if bad.any():
            band = int(np.flatnonzero(bad)[0])
            raise SceneError(
                f"{self.path} declares a scale of {self.scale[band]:g} and an offset "
                f"of {self.offset[band]:g} for band {band + 1}; no quantity follows "
                "from them. Correct them, or mark the band as bad (bbl 0)."
            )

    @property
    def all_files(self) -> tuple[Path, ...]:
        """The files of the scene; where none is listed, its path."""
        return self.files or (self.path,)

    @property
    def ground(self) -> "SceneInfo":
        """The same scene on the grid of its maps and labels: mostly itself."""
        grid = self.placement
        if grid is None:
            return self
        return replace(
            self,
            rows=grid.rows,
            cols=grid.cols,
            crs=grid.crs,
            transform=grid.transform,
            placement=None,
        )


class Scene(Protocol):
    """An open scene."""

    @property
    def info(self) -> SceneInfo:
        """What the file says about itself."""

    def read(
        self,
        rows: tuple[int, int],
        cols: tuple[int, int],
        bands: NDArray[np.intp],
        out: Cube | None = None,
    ) -> Cube:
        """Read a window of some bands, shape ``(band, row, col)``, stored units.

        Args:
            rows: Half-open interval.
            cols: Half-open interval.
            bands: 0-based indices, any order.
            out: Array to fill, of any strides; those of `in_file_order` are fastest.

        Returns:
            ``out``, or a new array.

        Raises:
            SceneError: The window cannot be read.
        """

    def close(self) -> None:
        """Close the file."""


# The networks compute in float32, where larger values are infinite.
LARGEST = float(np.finfo(np.float32).max)


def valid_pixels(
    cube: Cube, nodata: NDArray[np.float64], largest: float = LARGEST
) -> NDArray[np.bool_]:
    """Find the pixels that have a real value in every band.

    Args:
        cube: Stored units, shape ``(band, row, col)``.
        nodata: Fill value of each band, NaN where none, shape ``(band,)``.
        largest: Size beyond which a number is no measurement.

    Returns:
        Shape ``(row, col)``; False where any band is nodata, NaN, infinite, too large,
        or saturated: a whole number at the upper end of its type.
    """
    valid = np.ones(cube.shape[1:], dtype=bool)
    if cube.dtype.kind == "f":
        # A NaN becomes the largest and the smallest, and is neither in range.
        valid &= (cube.max(axis=0) <= largest) & (cube.min(axis=0) >= -largest)
    elif np.iinfo(cube.dtype).max > largest:  # four bytes hold fill values, too
        valid &= (cube.max(axis=0) <= largest) & (cube.min(axis=0) >= -largest)
    elif cube.dtype.itemsize > 1:
        valid &= cube.max(axis=0) != np.iinfo(cube.dtype).max
    if np.isnan(nodata).all():
        return valid
    if (nodata == nodata[0]).all():
        fill = cube.dtype.type(nodata[0])
        for first in range(0, len(valid), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            valid[rows] &= (cube[:, rows] != fill).all(axis=0)
        return valid
    for plane, value in zip(cube, nodata, strict=True):
        if not np.isnan(value):
            valid &= plane != cube.dtype.type(value)
    return valid


def in_file_order(
    buffer: NDArray[Any], interleave: str, shape: tuple[int, int, int]
) -> Cube:
    """See the start of a flat buffer as a cube whose values lie as in the file.

    Args:
        buffer: Shape ``(value,)``.
        interleave: A key of `FILE_AXES`.
        shape: Bands, rows, columns of the cube.
    """
    axes = FILE_AXES[interleave]
    stored = buffer[: math.prod(shape)].reshape([shape[axis] for axis in axes])
    return stored.transpose(np.argsort(axes))


def representable(value: float | None, dtype: np.dtype[Any]) -> float:
    """Return a nodata value as float, or NaN where the dtype can never hold it."""
    if value is None or np.isnan(value):
        return float("nan")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        held = limits.min <= value <= limits.max and value == int(value)
        return float(value) if held else float("nan")
    with np.errstate(over="ignore"):
        cast = float(dtype.type(value))
    return cast if np.isfinite(cast) else float("nan")


def held_nodata(
    path: Path, declared: Sequence[float | None], dtype: np.dtype[Any]
) -> tuple[NDArray[np.float64], list[str]]:
    """Bring declared fill values to the type of the stored ones.

    Args:
        path: The scene, for notes.
        declared: Fill value of each band, None or NaN where it has none.
        dtype: Type of the stored values.

    Returns:
        Fill value per band, NaN where none can occur; and notes for the user.
    """
    nodata = np.array([representable(value, dtype) for value in declared])
    lost = {
        f"{value:g}"
        for value, held in zip(declared, nodata, strict=True)
        if value is not None
        and np.isnan(held)
        and not np.isnan(value)
        and not (dtype.kind == "f" and np.isinf(value))  # infinite pixels are invalid
    }
    if not lost:
        return nodata, []
    note = (
        f"{path.name} declares nodata {', '.join(sorted(lost))}, which {dtype.name} "
        "values never take; no pixel is nodata by it."
    )
    return nodata, [note]


def usable_units(
    scale: NDArray[np.float64], offset: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Find the bands whose scale and offset survive float32, as engines compute.

    Returns:
        Shape ``(band,)``; False where one is not finite or the scale vanishes.
    """
    limits = np.finfo(np.float32)
    size = np.abs(scale)
    fits = (size >= limits.tiny) & (size <= limits.max)
    usable: NDArray[np.bool_] = fits & (np.abs(offset) <= limits.max)
    return usable


def partly_scaled(
    path: Path,
    scale: NDArray[np.float64] | None,
    offset: NDArray[np.float64] | None,
    bands: NDArray[np.intp],
) -> list[str]:
    """Name the bands whose scale is left out where others have one: GDAL takes it as 1.

    Args:
        path: The scene, for a note.
        scale: Scale of each band, or None.
        offset: Offset of each band, or None.
        bands: 0-based bands that are measurements.
    """
    if scale is None or offset is None:
        return []
    plain = bands[(scale[bands] == 1) & (offset[bands] == 0)]
    if len(plain) in (0, len(bands)):
        return []
    few = f"band {plain[0] + 1}" if len(plain) == 1 else f"{len(plain)} bands"
    other = np.setdiff1d(bands, plain)
    return [
        f"{path.name} declares a scale of {scale[other[0]]:g} for {len(other)} of "
        f"{len(bands)} bands; that of {few} counts as 1. If their values are alike, "
        "declare it for every band."
    ]


def missing_value(dtype: np.dtype[Any]) -> tuple[np.dtype[Any], float]:
    """Choose the value of pixels that a mask hides.

    Args:
        dtype: Type of the stored values.

    Returns:
        The type to hold the values in, wider for bytes because all of theirs may be
        real; and NaN or the type's upper end, which `valid_pixels` never takes for
        real.
    """
    if dtype.kind not in "iu":
        return dtype, float("nan")
    if dtype.itemsize == 1:
        dtype = np.dtype(f"{dtype.kind}2")
    return dtype, np.iinfo(dtype).max

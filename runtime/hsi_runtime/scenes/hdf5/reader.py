"""A scene in an HDF5 or netCDF4 file."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes import scene as scenes
from hsi_runtime.scenes.georeference import Ground
from hsi_runtime.scenes.hdf5.layout import Bands, Product, checked_bands
from hsi_runtime.scenes.hdf5.values import Values
from hsi_runtime.scenes.scene import (
    DTYPES,
    FILE_AXES,
    Cube,
    QualityLayer,
    SceneInfo,
    held_nodata,
)

MOST_BANDS = 100_000


class Hdf5Scene:
    """A product whose cube, or cubes, lie in one file.

    Attributes:
        info: What the file says about itself.
    """

    info: SceneInfo

    def __init__(self, product: Product) -> None:
        """Describe the product; closing the scene closes its file.

        Raises:
            SceneError: It is not complete, or stores values of another type.
        """
        self._file = product.file
        self._axes = FILE_AXES[product.layout.interleave]
        self._cubes = [self._file.values(name) for name in product.cubes]
        sizes = [self._sizes(product, values) for values in self._cubes]
        kinds = {values.dtype.name for values in self._cubes}
        if len(kinds) > 1 or not kinds <= set(DTYPES):
            raise SceneError(
                f"{self._file.path} holds values of type {', '.join(sorted(kinds))}; "
                f"expected one of {', '.join(DTYPES)} for all bands."
            )
        if len({size[1:] for size in sizes}) > 1:
            raise SceneError(
                f"{self._file.path}: its cubes differ in rows or columns. Is the file "
                "complete?"
            )
        # First band of each cube among those of all, and their number.
        self._first = np.cumsum([0, *(size[0] for size in sizes)])
        bands, notes = checked_bands(
            product, product.layout.bands(product), int(self._first[-1])
        )
        # Bands that were not acquired are none of the scene.
        self._bands = np.flatnonzero(np.isfinite(bands.centres))
        self.info = self._describe(product, bands, notes, sizes[0][1:])

    def read(
        self,
        rows: tuple[int, int],
        cols: tuple[int, int],
        bands: NDArray[np.intp],
        out: Cube | None = None,
    ) -> Cube:
        if out is None:
            shape = len(bands), rows[1] - rows[0], cols[1] - cols[0]
            out = np.empty(shape, self.info.dtype)
        stored = self._bands[bands]
        for values, first, last in zip(
            self._cubes, self._first[:-1], self._first[1:], strict=True
        ):
            places = np.flatnonzero((stored >= first) & (stored < last))
            if len(places):
                self._fill(values, stored[places] - first, places, (rows, cols), out)
        return out

    def close(self) -> None:
        self._file.close()

    def _fill(
        self,
        values: Values,
        bands: NDArray[np.intp],
        places: NDArray[np.intp],
        window: tuple[tuple[int, int], tuple[int, int]],
        out: Cube,
    ) -> None:
        """Read bands of one cube.

        Args:
            values: The cube.
            bands: Its bands, 0-based.
            places: Index of each in ``out``.
            window: Rows and columns.
            out: Array to fill, shape ``(band, row, col)``.
        """
        needed = (int(bands.min()), int(bands.max()) + 1), *window
        back = np.argsort(self._axes)
        for piece in values.pieces([needed[axis] for axis in self._axes]):
            cube = piece.values.transpose(back)
            band, row, col = (piece.start[axis] for axis in back)
            top, left = row - window[0][0], col - window[1][0]
            target = out[:, top : top + cube.shape[1], left : left + cube.shape[2]]
            inside = np.flatnonzero((bands >= band) & (bands < band + len(cube)))
            if not len(inside):
                continue
            here, there = bands[inside] - band, places[inside]
            # Runs of neighbouring bands are copied whole; an index list would gather
            # value by value.
            breaks = (np.diff(here, prepend=-2) != 1) | (
                np.diff(there, prepend=-2) != 1
            )
            starts = np.flatnonzero(breaks)
            for start, stop in pairwise([*starts, len(inside)]):
                target[there[start] : there[stop - 1] + 1] = cube[
                    here[start] : here[stop - 1] + 1
                ]

    def _sizes(self, product: Product, values: Values) -> tuple[int, int, int]:
        """Return bands, rows and columns of a cube."""
        if len(values.shape) != 3 or 0 in values.shape:
            raise SceneError(
                f"{product.file.path} is {product.layout.product}, but {values.name} "
                f"has the shape {values.shape}; three axes were expected."
            )
        bands, rows, cols = (values.shape[a] for a in np.argsort(self._axes))
        if bands > MOST_BANDS:
            raise SceneError(
                f"{product.file.path} declares {bands} bands; at most {MOST_BANDS}."
            )
        return bands, rows, cols

    def _describe(
        self, product: Product, bands: Bands, notes: list[str], size: tuple[int, int]
    ) -> SceneInfo:
        layout, file, kept = product.layout, product.file, self._bands
        dtype: np.dtype[Any] = self._cubes[0].dtype
        fill: float | None = None
        if isinstance(layout.fill, str):
            stated = file.attribute_numbers(layout.fill, product.cubes[0])
            fill = None if stated is None or len(stated) != 1 else float(stated[0])
        else:
            fill = layout.fill
        nodata, lost = held_nodata(file.path, [fill] * len(kept), dtype)
        ground = layout.ground(product) if layout.ground else Ground()
        chunk = self._cubes[0].chunk
        back = np.argsort(self._axes)
        block = (1, size[1])
        if chunk is not None:
            _, high, wide = (chunk[axis] for axis in back)
            block = min(high, size[0]), min(wide, size[1])
        return SceneInfo(
            path=file.path,
            driver="HDF5",
            bands=len(kept),
            rows=size[0],
            cols=size[1],
            dtype=dtype,
            nodata=nodata,
            scale=None if bands.scale is None else bands.scale[kept],
            offset=None if bands.offset is None else bands.offset[kept],
            wavelengths_nm=bands.centres[kept],
            fwhm_nm=None if bands.widths is None else bands.widths[kept],
            good=bands.good[kept],
            block=block,
            decoding_bytes=max(values.decoding_bytes for values in self._cubes),
            interleave=layout.interleave,
            crs=ground.wkt,
            transform=ground.transform,
            placement=layout.placement(product) if layout.placement else None,
            resolution_m=ground.resolution_m,
            product=scenes.Product(
                kind=layout.product,
                name=file.attribute_text(layout.name) if layout.name else "",
                time=file.attribute_text(layout.time) if layout.time else "",
            ),
            quality=tuple(
                QualityLayer(name=place.rpartition("/")[2], place=place)
                for place in map(product.placed, layout.quality)
                if file.has(place)
            ),
            notes=(*notes, *lost, *ground.notes),
            files=(file.path,),
        )

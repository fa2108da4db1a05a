"""Reads ENVI scenes through a memory map.

The size of the data file is checked before any work: GDAL reads the missing part of a
truncated file as zeros, and its reading of BIP files collapses when a strip exceeds
the block cache.
"""

import mmap
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.files import open_binary
from hsi_runtime.scenes.envi_header import (
    Header,
    Layout,
    layout_of,
    read_header,
    units_of,
)
from hsi_runtime.scenes.georeference import complete, from_envi, with_world_file
from hsi_runtime.scenes.scene import (
    DTYPES,
    Cube,
    SceneInfo,
    held_nodata,
    partly_scaled,
)
from hsi_runtime.scenes.side_car import Statements, side_car_of
from hsi_runtime.scenes.wavelengths import Spectrum, choose, list_place, name_place

MOST_BANDS = 1_000_000
COUNTER = "frame counter"  # a field of a header, with column and band


class EnviScene:
    """A BSQ, BIL or BIP scene, read by memory map."""

    info: SceneInfo

    def __init__(
        self,
        header_path: Path,
        data_path: Path,
        dtypes: Collection[str] = DTYPES,
    ) -> None:
        header = read_header(header_path)
        layout = layout_of(header)
        if layout.dtype.name not in dtypes:
            raise SceneError(
                f"{header.path}: data type {header.text('data type')!r} is not "
                f"supported, {layout.dtype.name}; expected one of {', '.join(dtypes)}."
            )
        # First, so that a header which promises too much costs no memory.
        self._mapped = _mapped(data_path, layout)
        surplus = surplus_of(data_path, layout)
        self.info = describe(header, data_path, layout, surplus)
        self._values = layout.cube(self._mapped)

    def read(
        self,
        rows: tuple[int, int],
        cols: tuple[int, int],
        bands: NDArray[np.intp],
        out: Cube | None = None,
    ) -> Cube:
        # Past the end of a file that has shrunk, the system would kill the process.
        _check_size(self.info.path, len(self._mapped), self._mapped.size())
        block = self._values[:, slice(*rows), slice(*cols)]
        if out is None:
            out = np.empty((len(bands), *block.shape[1:]), dtype=self.info.dtype)
        # Runs of neighbouring bands are copied whole; an index list would gather
        # value by value.
        starts = np.flatnonzero(np.diff(bands, prepend=-2) != 1)
        for start, stop in pairwise([*starts, len(bands)]):
            out[start:stop] = block[bands[start] : bands[stop - 1] + 1]
        # The system's cache holds what was read; as memory of this process it would
        # grow with the scene, to whatever the machine has.
        self._mapped.madvise(mmap.MADV_DONTNEED)
        return out

    def close(self) -> None:
        del self._values, self._mapped


def _mapped(path: Path, layout: Layout) -> mmap.mmap:
    _check_size(path, layout.needed, path.stat().st_size)
    with open_binary(path) as file:
        try:
            return mmap.mmap(file.fileno(), layout.needed, access=mmap.ACCESS_READ)
        except OSError as error:
            raise SceneError(f"{path} cannot be read: {error.strerror}.") from error


def _check_size(path: Path, needed: int, actual: int) -> None:
    if actual < needed:
        raise SceneError(
            f"{path} is truncated: its header promises {needed} bytes, "
            f"the file has {actual}."
        )


def surplus_of(path: Path, layout: Layout) -> list[str]:
    """Name the bytes that a header leaves out: it may be that of another file.

    Raises:
        SceneError: There are some, and the header counts by frames, so that its
            values may lie elsewhere than where it says.
    """
    surplus = path.stat().st_size - layout.needed
    if not surplus:
        return []
    if layout.framed:
        raise SceneError(
            f"{path} has {surplus} bytes more than its header promises with its frame "
            "offsets. Correct the header."
        )
    return [
        f"{path} has {surplus} bytes more than its header promises; check its samples, "
        "lines, bands and data type."
    ]


def describe(
    header: Header, data_path: Path, layout: Layout, notes: Sequence[str] = ()
) -> SceneInfo:
    """Describe a scene by its header and what lies beside it.

    Args:
        header: The header.
        data_path: The data file.
        layout: Where the values lie.
        notes: Sentences about the data file.

    Raises:
        SceneError: A field cannot be used.
    """
    bands, rows, cols = layout.sizes
    if bands > MOST_BANDS:
        raise SceneError(f"{header.path} declares {bands} bands; at most {MOST_BANDS}.")
    beside = side_car_of(data_path)
    spectrum = _spectrum(header, beside, bands)
    if spectrum.place == beside.path.name:
        beside.taken.append("wavelengths")
    declared = header.number("data ignore value")
    fills = beside.fills([declared] * bands)
    nodata, lost = held_nodata(data_path, fills, layout.dtype)
    scale, offset = beside.units(*units_of(header, bands), bands)
    lost += partly_scaled(data_path, scale, offset, np.arange(bands))
    bad = header.numbers("bbl", bands)
    good = beside.good(bands) if bad is None else bad != 0
    if bad is None and good is not None:
        beside.taken.append("bad bands")
    ground = complete(from_envi(header.fields), beside)
    ground = with_world_file(ground, data_path)
    return SceneInfo(
        path=data_path,
        driver="ENVI",
        bands=bands,
        rows=rows,
        cols=cols,
        dtype=layout.dtype.newbyteorder("="),
        nodata=nodata,
        scale=scale,
        offset=offset,
        wavelengths_nm=spectrum.centres,
        fwhm_nm=spectrum.widths,
        good=np.ones(bands, dtype=bool) if good is None else good,
        block=(1, cols),
        mapped=True,
        interleave=layout.interleave,
        crs=ground.wkt,
        transform=ground.transform,
        control=ground.control,
        resolution_m=ground.resolution_m,
        frame_counter=_frame_counter(header),
        notes=(
            *layout.notes,
            *notes,
            *spectrum.notes,
            *lost,
            *ground.notes,
            *beside.remarks(data_path),
        ),
        files=(
            header.path,
            data_path,
            *([beside.path] if beside.taken else []),
            *ground.files,
        ),
    )


def _frame_counter(header: Header) -> tuple[int, int] | None:
    text = header.text(COUNTER)
    if not text:
        return None
    try:
        col, band = (int(part) for part in text.split(","))
    except ValueError as error:
        raise SceneError(
            f"{header.path}: {COUNTER} is {text!r}; expected a column and a band."
        ) from error
    return col, band


def _spectrum(header: Header, beside: Statements, bands: int) -> Spectrum:
    for key in ("wavelength", "wavelengths", "fwhm"):
        header.numbers(key, bands)  # one for each band, or an error
    names = [name.strip() for name in header.text("band names").split(",")]
    named = name_place(names)
    places = [list_place("", header.fields, bands), *beside.places(bands)]
    if len(names) == bands and all(named.centres):
        places.append(named)
    spectrum = choose(str(header.path), places)
    if spectrum.centres is not None and np.isnan(spectrum.centres).any():
        note = f"{header.path}: some bands have no wavelength; those of others are not "
        return Spectrum(None, None, [*spectrum.notes, note + "used."])
    return spectrum

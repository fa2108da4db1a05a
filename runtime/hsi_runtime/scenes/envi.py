"""Reads ENVI scenes: a strict parser for the header, a memory map for the values.

The size of the data file is checked before any work: GDAL reads the missing part of a
truncated file as zeros, and its reading of BIP files collapses when a strip exceeds
the block cache.
"""

import math
import mmap
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.files import open_binary
from hsi_runtime.scenes import wavelengths as spectral
from hsi_runtime.scenes.envi_header import Header, read_header
from hsi_runtime.scenes.georeference import from_envi, resolution_m
from hsi_runtime.scenes.scene import (
    FILE_AXES,
    Cube,
    SceneInfo,
    in_file_order,
    representable,
)

DTYPES = {
    "1": "u1",
    "2": "i2",
    "3": "i4",
    "4": "f4",
    "5": "f8",
    "12": "u2",
    "13": "u4",
}


class EnviScene:
    """A BSQ, BIL or BIP scene, read by memory map."""

    info: SceneInfo

    def __init__(self, header_path: Path, data_path: Path) -> None:
        header = read_header(header_path)
        layout = _layout(header, data_path)
        # First, so that a header which promises too much costs no memory.
        self._mapped = _mapped(data_path, layout.needed)
        self.info = _describe(header, data_path, layout)
        flat = np.frombuffer(self._mapped, layout.dtype, layout.values, layout.offset)
        self._values = in_file_order(flat, layout.interleave, layout.sizes)

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
        return out

    def close(self) -> None:
        del self._values, self._mapped


class _Layout(NamedTuple):
    """Where the values lie in the data file.

    Attributes:
        sizes: Bands, rows and columns.
        interleave: Order of the values, a key of `FILE_AXES`.
        dtype: Stored type with its byte order.
        offset: Bytes before the first value.
        notes: Sentences a user should read.
    """

    sizes: tuple[int, int, int]
    interleave: str
    dtype: np.dtype[Any]
    offset: int
    notes: tuple[str, ...]

    @property
    def values(self) -> int:
        """Number of values in the cube."""
        return math.prod(self.sizes)

    @property
    def needed(self) -> int:
        """Bytes that the data file must have."""
        return self.offset + self.values * self.dtype.itemsize


def _layout(header: Header, data_path: Path) -> _Layout:
    shape = {key: header.integer(key) for key in ("bands", "lines", "samples")}
    if min(shape.values()) < 1:
        raise SceneError(f"{header.path} declares an empty cube: {shape}.")
    if "library" in header.text("file type").lower():
        raise SceneError(f"{data_path} is a spectral library, not a scene.")
    interleave = header.text("interleave").lower()
    if interleave not in FILE_AXES:
        raise SceneError(
            f"{header.path}: interleave is {interleave!r}; expected bsq, bil or bip."
        )
    code = header.text("data type")
    if code not in DTYPES:
        raise SceneError(
            f"{header.path}: data type {code!r} is not supported; "
            f"expected one of {', '.join(DTYPES)}."
        )
    if header.text("file compression", "0") not in ("0", ""):
        raise SceneError(f"{data_path} is compressed inside ENVI; gunzip it first.")
    notes = []
    order = header.text("byte order")
    if order not in ("0", "1"):
        notes.append(f"{header.path} has no byte order; taken as little endian.")
    offset = header.integer("header offset", 0)
    if offset < 0:
        raise SceneError(f"{header.path}: header offset is negative: {offset}.")
    return _Layout(
        sizes=(shape["bands"], shape["lines"], shape["samples"]),
        interleave=interleave,
        dtype=np.dtype(DTYPES[code]).newbyteorder(">" if order == "1" else "<"),
        offset=offset,
        notes=tuple(notes),
    )


def _mapped(path: Path, needed: int) -> mmap.mmap:
    _check_size(path, needed, path.stat().st_size)
    with open_binary(path) as file:
        try:
            return mmap.mmap(file.fileno(), needed, access=mmap.ACCESS_READ)
        except OSError as error:
            raise SceneError(f"{path} cannot be read: {error.strerror}.") from error


def _check_size(path: Path, needed: int, actual: int) -> None:
    if actual < needed:
        raise SceneError(
            f"{path} is truncated: its header promises {needed} bytes, "
            f"the file has {actual}."
        )


def _describe(header: Header, data_path: Path, layout: _Layout) -> SceneInfo:
    bands, rows, cols = layout.sizes
    spectra, spectral_notes = _spectral(header, bands)
    crs, transform, place_notes = from_envi(header.fields)
    ignored = representable(header.number("data ignore value"), layout.dtype)
    return SceneInfo(
        path=data_path,
        driver="ENVI",
        bands=bands,
        rows=rows,
        cols=cols,
        dtype=layout.dtype.newbyteorder("="),
        nodata=np.full(bands, ignored),
        **spectra,
        block=(1, cols),
        interleave=layout.interleave,
        crs=crs.to_wkt() if crs else None,
        transform=transform,
        resolution_m=resolution_m(crs, transform) if crs and transform else None,
        notes=(*layout.notes, *spectral_notes, *place_notes),
        files=(header.path, data_path),
    )


def _spectral(header: Header, bands: int) -> tuple[dict[str, Any], list[str]]:
    """Collect the per-band arrays of `SceneInfo`, and notes about them."""
    wavelengths, fwhm, notes = spectral.to_nanometres(
        str(header.path),
        header.numbers("wavelength", bands),
        header.numbers("fwhm", bands),
        header.text("wavelength units"),
    )
    bad = header.numbers("bbl", bands)
    gain = header.numbers("data gain values", bands)
    offset = header.numbers("data offset values", bands)
    factor = header.number("reflectance scale factor")
    if factor is not None and not factor > 0:
        raise SceneError(
            f"{header.path}: reflectance scale factor is {factor}, not above 0."
        )
    if gain is None and factor is not None and factor != 1:
        gain = np.full(bands, 1 / factor)
    if gain is None and offset is not None:
        gain = np.ones(bands)
    if gain is not None and offset is None:
        offset = np.zeros(bands)
    arrays = {
        "wavelengths_nm": wavelengths,
        "fwhm_nm": fwhm,
        "good": np.ones(bands, dtype=bool) if bad is None else bad != 0,
        "scale": gain,
        "offset": offset,
    }
    return arrays, notes

"""Reads ENVI scenes: a strict parser for the header, a memory map for the values.

The size of the data file is checked before any work: GDAL reads the missing part of a
truncated file as zeros, and its reading of BIP files collapses when a strip exceeds
the block cache.
"""

import math
import mmap
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError

from hsi_runtime.errors import SceneError
from hsi_runtime.files import open_binary
from hsi_runtime.scenes import wavelengths as spectral
from hsi_runtime.scenes.georeference import resolution_m
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
MAX_HEADER_BYTES = 16 * 1024 * 1024
DATA_SUFFIXES = ("", ".img", ".dat", ".raw", ".bsq", ".bil", ".bip", ".bin", ".sli")
WGS84_NAMES = {"wgs-84", "wgs84", "wgs 84"}

Header = dict[str, str]


class EnviScene:
    """A BSQ, BIL or BIP scene, read by memory map."""

    info: SceneInfo

    def __init__(self, header_path: Path, data_path: Path) -> None:
        header = parse_header(header_path)
        self.info, self._mapped, self._values = _open(header_path, data_path, header)

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


def find_header(path: Path, magic: bytes) -> tuple[Path, Path] | None:
    """Find the header and data file that belong to either of them.

    Returns:
        Header path and data path, or None where ``path`` is no part of an ENVI scene.

    Raises:
        SceneError: A header without its data file.
    """
    if magic.startswith(b"ENVI"):
        stem = path.with_suffix("") if path.suffix.lower() == ".hdr" else path
        candidates = [stem.with_name(stem.name + s) for s in DATA_SUFFIXES]
        for data in candidates:
            if data.is_file() and data != path:
                return path, data
        raise SceneError(
            f"{path} is an ENVI header, but its data file is missing; expected it "
            f"beside the header, as {stem.name} or {stem.name}.img."
        )
    for header in (path.with_name(path.name + ".hdr"), path.with_suffix(".hdr")):
        if header.is_file() and header != path:
            with open_binary(header) as file:
                if file.read(4) == b"ENVI":
                    return header, path
    return None


def parse_header(path: Path) -> Header:
    """Read the fields of a header: lower-case names, text values without braces.

    Raises:
        SceneError: The file is no ENVI header.
    """
    with open_binary(path) as file:
        raw = file.read(MAX_HEADER_BYTES + 1)
    if len(raw) > MAX_HEADER_BYTES or not raw.startswith(b"ENVI"):
        raise SceneError(f"{path} is not an ENVI header: its first line must be ENVI.")
    # Comments start a line with a semicolon; a value in braces may span lines.
    text = re.sub(r"^\s*;.*$", "", raw.decode("utf-8", "replace"), flags=re.MULTILINE)
    header: Header = {}
    for name, opened, inside, closed, plain in re.findall(
        r"^[ \t]*([^={}\r\n]+?)[ \t]*=[ \t]*(?:(\{)([^}]*)(\}?)|([^\r\n{]*))",
        text,
        flags=re.MULTILINE,
    ):
        key = " ".join(name.lower().split())
        if opened and not closed:
            raise SceneError(
                f"{path} is cut off: {key} has no closing brace. Copy it again."
            )
        header[key] = (inside or plain).strip()
    return header


def _open(
    header_path: Path, data_path: Path, header: Header
) -> tuple[SceneInfo, mmap.mmap, NDArray[Any]]:
    shape = {k: _integer(header_path, header, k) for k in ("samples", "lines", "bands")}
    if min(shape.values()) < 1:
        raise SceneError(f"{header_path} declares an empty cube: {shape}.")
    if "library" in header.get("file type", "").lower():
        raise SceneError(f"{data_path} is a spectral library, not a scene.")
    interleave = header.get("interleave", "").lower()
    if interleave not in FILE_AXES:
        raise SceneError(
            f"{header_path}: interleave is {interleave!r}; expected bsq, bil or bip."
        )
    code = header.get("data type", "")
    if code not in DTYPES:
        raise SceneError(
            f"{header_path}: data type {code!r} is not supported; "
            f"expected one of {', '.join(DTYPES)}."
        )
    if header.get("file compression", "0") not in ("0", ""):
        raise SceneError(f"{data_path} is compressed inside ENVI; gunzip it first.")
    notes: list[str] = []
    order = header.get("byte order", "")
    if order not in ("0", "1"):
        notes.append(f"{header_path} has no byte order; taken as little endian.")
    dtype = np.dtype(DTYPES[code]).newbyteorder(">" if order == "1" else "<")
    offset = _integer(header_path, header, "header offset", 0)
    if offset < 0:
        raise SceneError(f"{header_path}: header offset is negative: {offset}.")
    values = math.prod(shape.values())
    needed = offset + values * dtype.itemsize
    _check_size(data_path, needed, data_path.stat().st_size)
    with open_binary(data_path) as file:
        try:
            mapped = mmap.mmap(file.fileno(), needed, access=mmap.ACCESS_READ)
        except OSError as error:
            said = f"{data_path} cannot be read: {error.strerror}."
            raise SceneError(said) from error
    flat = np.frombuffer(mapped, dtype, values, offset)
    sizes = shape["bands"], shape["lines"], shape["samples"]
    crs, transform = _georeference(header, notes)
    info = SceneInfo(
        path=data_path,
        driver="ENVI",
        bands=shape["bands"],
        rows=shape["lines"],
        cols=shape["samples"],
        dtype=dtype.newbyteorder("="),
        nodata=np.full(
            shape["bands"],
            representable(_number(header_path, header, "data ignore value"), dtype),
        ),
        **_spectral(header_path, header, shape["bands"], notes),
        block=(1, shape["samples"]),
        interleave=interleave,
        crs=crs.to_wkt() if crs else None,
        transform=transform,
        resolution_m=resolution_m(crs, transform) if crs and transform else None,
        notes=tuple(notes),
        files=(header_path, data_path),
    )
    return info, mapped, in_file_order(flat, interleave, sizes)


def _check_size(path: Path, needed: int, found: int) -> None:
    if found < needed:
        raise SceneError(
            f"{path} is truncated: its header promises {needed} bytes, "
            f"the file has {found}."
        )


def _spectral(
    path: Path, header: Header, bands: int, notes: list[str]
) -> dict[str, Any]:
    """Collect the per-band arrays of `SceneInfo`."""

    def numbers(key: str) -> NDArray[np.float64] | None:
        if not header.get(key):
            return None
        try:
            values = np.array([float(v) for v in header[key].split(",") if v.strip()])
        except ValueError as error:
            raise SceneError(f"{path}: {key} has a value that is no number.") from error
        if len(values) != bands:
            raise SceneError(f"{path}: {len(values)} values of {key}, {bands} bands.")
        return values

    wavelengths, fwhm, said = spectral.to_nanometres(
        str(path),
        numbers("wavelength"),
        numbers("fwhm"),
        header.get("wavelength units", ""),
    )
    notes += said
    bad = numbers("bbl")
    gain, offset = numbers("data gain values"), numbers("data offset values")
    factor = _number(path, header, "reflectance scale factor")
    if factor is not None and not factor > 0:
        raise SceneError(f"{path}: reflectance scale factor is {factor}, not above 0.")
    if gain is None and factor is not None and factor != 1:
        gain = np.full(bands, 1 / factor)
    if gain is None and offset is not None:
        gain = np.ones(bands)
    if gain is not None and offset is None:
        offset = np.zeros(bands)
    return {
        "wavelengths_nm": wavelengths,
        "fwhm_nm": fwhm,
        "good": np.ones(bands, dtype=bool) if bad is None else bad != 0,
        "scale": gain,
        "offset": offset,
    }


def _georeference(
    header: Header, notes: list[str]
) -> tuple[CRS | None, tuple[float, float, float, float, float, float] | None]:
    """Read ``map info`` (ENVI's rotation turns the grid counter-clockwise)."""
    fields = [f.strip() for f in header.get("map info", "").split(",")]
    crs = _crs(header, fields, notes)
    if len(fields) < 7:
        return crs, None
    try:
        ref_col, ref_row, east, north, width, height = map(float, fields[1:7])
    except ValueError:
        notes.append("map info has values that are no numbers; georeference dropped.")
        return crs, None
    options = dict(f.split("=", 1) for f in fields[7:] if "=" in f)
    try:
        rotation = float(options.get("rotation", "0"))
    except ValueError:
        notes.append("map info has an unreadable rotation; georeference dropped.")
        return crs, None
    angle = math.radians(rotation)
    dx_col, dx_row = width * math.cos(angle), height * math.sin(angle)
    dy_col, dy_row = width * math.sin(angle), -height * math.cos(angle)
    if abs(rotation) == 180:  # GDAL writes this for a grid that is south up
        dx_col, dx_row, dy_col, dy_row = width, 0.0, 0.0, height
    col, row = ref_col - 1, ref_row - 1  # ENVI counts pixels from one
    return crs, (
        east - col * dx_col - row * dx_row,
        dx_col,
        dx_row,
        north - col * dy_col - row * dy_row,
        dy_col,
        dy_row,
    )


def _crs(header: Header, map_info: list[str], notes: list[str]) -> CRS | None:
    try:
        if header.get("coordinate system string"):
            return CRS.from_wkt(header["coordinate system string"])
        name = map_info[0].lower()
        datum = {f.lower() for f in map_info[7:]}
        if name == "utm" and datum & WGS84_NAMES:
            south = 100 if "south" in datum else 0
            return CRS.from_epsg(32600 + south + int(map_info[7]))
        if name.startswith("geographic") and datum & WGS84_NAMES:
            return CRS.from_epsg(4326)
    except (CRSError, ValueError, IndexError) as error:
        notes.append(f"The header's coordinate system cannot be read ({error}).")
        return None
    if name and name != "arbitrary":
        notes.append(f"map info {map_info[0]!r} is not understood; no CRS is set.")
    return None


def _integer(path: Path, header: Header, key: str, default: int | None = None) -> int:
    try:
        return int(header[key]) if key in header or default is None else default
    except (KeyError, ValueError) as error:
        raise SceneError(f"{path}: {key} is missing or not a whole number.") from error


def _number(path: Path, header: Header, key: str) -> float | None:
    if not header.get(key):
        return None
    try:
        return float(header[key])
    except ValueError as error:
        raise SceneError(f"{path}: {key} is not a number: {header[key]!r}.") from error

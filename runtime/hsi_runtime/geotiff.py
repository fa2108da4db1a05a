"""Reads GeoTIFF scenes through rasterio, with the GTiff driver and no other."""

import math
import struct
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Interleaving
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from hsi_runtime import bands as spectral
from hsi_runtime.errors import SceneError
from hsi_runtime.scene import (
    DTYPES,
    ControlPoints,
    Cube,
    SceneInfo,
    open_binary,
    representable,
)
from hsi_runtime.threads import usable_cores

# A larger block cache costs memory and gains nothing for reads along blocks. Nothing
# but the file itself may be opened: no directory listing, no remote file, no side-car.
GDAL_OPTIONS: dict[str, Any] = {
NO_TRANSFORM = (0, 1, 0, 0, 0, 1)  # how GDAL says that there is none
    "GDAL_CACHEMAX": 64,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "/none",
    # Half of the cores decode blocks; the engine wants the others.
    "GDAL_NUM_THREADS": max(1, min(4, usable_cores() // 2)),
}
# Bytes of one value by the number of a tag's type.
TAG_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
TAG_BYTES |= {13: 4, 16: 8, 17: 8, 18: 8}


class GeoTiffScene:
    """A scene in a tiled or striped TIFF, any interleave and compression."""

    info: SceneInfo

    def __init__(self, path: Path) -> None:
        self._env = rasterio.Env(**GDAL_OPTIONS)
        self._busy = threading.Lock()
        try:
            with self._env:
                self._dataset = open_tiff(path)
        except RasterioError as error:
            raise SceneError(f"{path} is not a readable TIFF: {error}") from error
        try:
            _check_tags(path)
            self.info = _describe(path, self._dataset)
        except BaseException:
            self._dataset.close()
            raise

    def read(
        self,
        rows: tuple[int, int],
        cols: tuple[int, int],
        bands: NDArray[np.intp],
        out: Cube | None = None,
    ) -> Cube:
        window = Window.from_slices(rows, cols)
        try:
            with self._busy, self._env:
                cube: Cube = self._dataset.read(
                    [int(b) + 1 for b in bands], window=window, out=out
                )
        except RasterioError as error:
            cause = str(error.__cause__ or error).rstrip(".")
            raise SceneError(
                f"{self.info.path} cannot be read at rows {rows[0]}-{rows[1]}, "
                f"columns {cols[0]}-{cols[1]}: {cause}. Is the file complete?"
            ) from error
        return cube

    def close(self) -> None:
        # Where a thread still reads, the process is about to end.
        if self._busy.acquire(blocking=False):
            self._dataset.close()
            self._busy.release()


def open_tiff(path: Path) -> Any:
    """Open a TIFF with rasterio, without its warning about a missing georeference."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, driver="GTiff")


def _check_tags(path: Path) -> None:
    """Refuse a file with tags beyond its end: GDAL ignores those without an error.

    Tags often lie behind the pixels, and nodata and wavelengths are among them.
    """
    size = path.stat().st_size
    with open_binary(path) as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        big = head[2:4] in (b"+\0", b"\0+")
        at, number, entry = ("Q", "Q", "HHQQ") if big else ("I", "H", "HHII")
        (start,) = struct.unpack_from(order + at, head, 8 if big else 4)
        file.seek(start)
        (count,) = struct.unpack(
            order + number, file.read(struct.calcsize(order + number))
        )
        step = struct.calcsize(order + entry)
        entries = file.read(min(count * step, size))
    for _, kind, values, offset in struct.iter_unpack(
        order + entry, entries[: len(entries) // step * step]
    ):
        length = values * TAG_BYTES.get(kind, 0)
        if length > (8 if big else 4) and offset + length > size:
            raise SceneError(
                f"{path} is truncated: its tags reach to byte {offset + length}, the "
                f"file has {size}. Copy it again."
            )


def _describe(path: Path, dataset: Any) -> SceneInfo:
    kinds = sorted(set(dataset.dtypes))
    if len(kinds) > 1 or kinds[0] not in DTYPES:
        raise SceneError(
            f"{path} holds values of type {', '.join(kinds)}; "
            f"expected one of {', '.join(DTYPES)} for all bands."
        )
    dtype = np.dtype(kinds[0])
    tags = [dataset.tags(b) for b in dataset.indexes]
    imagery = [dataset.tags(b, ns="IMAGERY") for b in dataset.indexes]
    wavelengths, fwhm, notes = spectral.from_band_tags(str(path), tags, imagery)
    declared = any(s != 1 for s in dataset.scales) or any(dataset.offsets)
    if not all(dataset.scales):
        raise SceneError(f"{path} declares a scale of 0; its values mean nothing.")
    georeferenced = not dataset.transform.is_identity
    return SceneInfo(
        path=path,
        driver="GTiff",
        bands=dataset.count,
        rows=dataset.height,
        cols=dataset.width,
        dtype=dtype,
        nodata=np.array([representable(v, dtype) for v in dataset.nodatavals]),
        scale=np.array(dataset.scales) if declared else None,
        offset=np.array(dataset.offsets) if declared else None,
        wavelengths_nm=wavelengths,
        fwhm_nm=fwhm,
        good=np.array([t.get("bbl", "1").strip() not in ("0", "0.0") for t in tags]),
        block=dataset.block_shapes[0],
        interleave="bip" if dataset.interleaving == Interleaving.pixel else "bsq",
        crs=dataset.crs.to_wkt() if dataset.crs else None,
        transform=dataset.transform.to_gdal() if georeferenced else None,
        control=_control_points(dataset),
        rpcs=dataset.tags(ns="RPC") or None,
        resolution_m=resolution_m(dataset.crs, dataset.transform.to_gdal()),
        notes=tuple(notes),
        files=(path,),
    )


def _control_points(dataset: Any) -> ControlPoints | None:
    points, crs = dataset.gcps
    if not points:
        return None
    return ControlPoints(
        crs.to_wkt() if crs else None,
        tuple((p.row, p.col, p.x, p.y, p.z or 0.0) for p in points),
    )


def resolution_m(crs: Any, transform: tuple[float, ...]) -> float | None:
    """Side of a pixel in metres; None where coordinates are geographic or unknown."""
    if not crs or not crs.is_projected or transform == NO_TRANSFORM:
        return None
    _, dx_col, dx_row, _, dy_col, dy_row = transform
    area = abs(dx_col * dy_row - dx_row * dy_col)
    return math.sqrt(area) * float(crs.linear_units_factor[1])

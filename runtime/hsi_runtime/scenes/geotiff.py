"""Reads GeoTIFF scenes through rasterio, with the GTiff driver and no other."""

import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Interleaving, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from hsi_runtime.errors import SceneError
from hsi_runtime.machine import usable_cores
from hsi_runtime.scenes import wavelengths as spectral
from hsi_runtime.scenes.georeference import control_points, resolution_m
from hsi_runtime.scenes.scene import (
    DTYPES,
    Cube,
    SceneInfo,
    missing_value,
    representable,
)
from hsi_runtime.scenes.tiff_tags import check_tags

# A larger block cache costs memory and gains nothing for reads along blocks. Nothing
# but the file itself may be opened: no directory listing, no remote file, no side-car.
GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_CACHEMAX": 64,
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "/none",
    # Half of the cores decode blocks; the engine wants the others.
    "GDAL_NUM_THREADS": max(1, min(4, usable_cores() // 2)),
}


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
            check_tags(path)
            with self._env:  # without it, GDAL's warnings go to stderr by themselves
                self._bands, self._alpha = _split_bands(path, self._dataset)
                self._masked = _has_mask(self._dataset)
                self._hides = self._masked or len(self._alpha) > 0
                self.info = _describe(path, self._dataset, self._bands, self._hides)
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
        if out is None:
            shape = len(bands), rows[1] - rows[0], cols[1] - cols[0]
            out = np.empty(shape, self.info.dtype)
        try:
            with self._busy, self._env:
                numbers = [int(b) + 1 for b in self._bands[bands]]
                self._dataset.read(numbers, window=window, out=out)
                if self._hides:
                    missing = self.info.nodata[bands].astype(out.dtype)
                    hidden = self._hidden(window)
                    np.copyto(out, missing[:, None, None], where=hidden)
        except RasterioError as error:
            cause = str(error.__cause__ or error).rstrip(".")
            raise SceneError(
                f"{self.info.path} cannot be read at rows {rows[0]}-{rows[1]}, "
                f"columns {cols[0]}-{cols[1]}: {cause}. Is the file complete?"
            ) from error
        return out

    def _hidden(self, window: Window) -> NDArray[np.bool_]:
        """Return True where mask or alpha hide a pixel, shape ``(row, col)``."""
        planes = [self._dataset.read(int(b) + 1, window=window) for b in self._alpha]
        if self._masked:
            planes.append(self._dataset.read_masks(1, window=window))
        hidden: NDArray[np.bool_] = ~np.all(planes, axis=0)
        return hidden

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


def _split_bands(path: Path, dataset: Any) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split bands into measurements and alpha bands, which are masks; 0-based.

    GDAL takes the last of four bands of bytes for alpha unless it is told otherwise;
    its wavelength shows that it is a measurement.
    """
    alpha = [
        kind == ColorInterp.alpha
        and "wavelength" not in dataset.tags(band)
        and "CENTRAL_WAVELENGTH_UM" not in dataset.tags(band, ns="IMAGERY")
        for band, kind in enumerate(dataset.colorinterp, start=1)
    ]
    if all(alpha):
        raise SceneError(f"{path} has only alpha bands, which are masks of others.")
    return np.flatnonzero(~np.array(alpha)), np.flatnonzero(alpha)


def _has_mask(dataset: Any) -> bool:
    """Return True if the file holds a mask of all bands that is not itself a band."""
    flags = dataset.mask_flag_enums[0]
    return MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags


def _describe(
    path: Path, dataset: Any, bands: NDArray[np.intp], hides: bool
) -> SceneInfo:
    """Describe a TIFF.

    Args:
        path: The file.
        dataset: It, open.
        bands: 0-based bands that are measurements.
        hides: Whether a mask or an alpha band hides pixels.
    """
    numbers = [int(b) + 1 for b in bands]
    kinds = sorted({dataset.dtypes[b] for b in bands})
    if len(kinds) > 1 or kinds[0] not in DTYPES:
        raise SceneError(
            f"{path} holds values of type {', '.join(kinds)}; "
            f"expected one of {', '.join(DTYPES)} for all bands."
        )
    dtype = np.dtype(kinds[0])
    nodata = np.array([representable(dataset.nodatavals[b], dtype) for b in bands])
    if hides:
        dtype, missing = missing_value(dtype)
        nodata = np.where(np.isnan(nodata), missing, nodata)
    tags = [dataset.tags(n) for n in numbers]
    imagery = [dataset.tags(n, ns="IMAGERY") for n in numbers]
    wavelengths, fwhm, notes = spectral.from_band_tags(str(path), tags, imagery)
    if len(bands) < dataset.count:
        others = sorted(set(dataset.indexes) - set(numbers))
        notes.append(
            f"{path.name}: {', '.join(f'band {n}' for n in others)} is alpha; pixels "
            "where it is 0 are nodata. If it is a measurement, tag its wavelength."
        )
    scale, offset = np.array(dataset.scales)[bands], np.array(dataset.offsets)[bands]
    declared = (scale != 1).any() or offset.any()
    if not scale.all():
        raise SceneError(f"{path} declares a scale of 0; its values mean nothing.")
    georeferenced = not dataset.transform.is_identity
    return SceneInfo(
        path=path,
        driver="GTiff",
        bands=len(bands),
        rows=dataset.height,
        cols=dataset.width,
        dtype=dtype,
        nodata=nodata,
        scale=scale if declared else None,
        offset=offset if declared else None,
        wavelengths_nm=wavelengths,
        fwhm_nm=fwhm,
        good=np.array([t.get("bbl", "1").strip() not in ("0", "0.0") for t in tags]),
        block=dataset.block_shapes[0],
        interleave="bip" if dataset.interleaving == Interleaving.pixel else "bsq",
        crs=dataset.crs.to_wkt() if dataset.crs else None,
        transform=dataset.transform.to_gdal() if georeferenced else None,
        control=control_points(dataset),
        rpcs=dataset.tags(ns="RPC") or None,
        resolution_m=resolution_m(dataset.crs, dataset.transform.to_gdal()),
        notes=tuple(notes),
        files=(path,),
    )

"""Reads GeoTIFF scenes through rasterio, with the GTiff driver and no other."""

import threading
import warnings
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, Interleaving, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from hsi_runtime.errors import SceneError
from hsi_runtime.machine import usable_cores
from hsi_runtime.scenes.envi_files import header_beside
from hsi_runtime.scenes.envi_header import DTYPES as DTYPE_CODES
from hsi_runtime.scenes.envi_header import read_header, units_of
from hsi_runtime.scenes.georeference import complete, from_tiff, with_world_file
from hsi_runtime.scenes.scene import (
    DTYPES,
    Cube,
    SceneInfo,
    held_nodata,
    missing_value,
    partly_scaled,
)
from hsi_runtime.scenes.side_car import Statements, Units, side_car_of
from hsi_runtime.scenes.tiff.raw_tiles import raw_tiles
from hsi_runtime.scenes.tiff_tags import declared_nodata
from hsi_runtime.scenes.wavelengths import Spectrum, choose, left_out, name_place

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
# What GDAL and rasterio raise for a file that is not what it says.
DAMAGED = (RasterioError, CPLE_BaseError)
_OPENING = threading.Lock()


class GeoTiffScene:
    """A scene in a tiled or striped TIFF, any interleave and compression."""

    info: SceneInfo

    def __init__(
        self,
        path: Path,
        dtypes: Collection[str] = DTYPES,
        product: Statements | None = None,
    ) -> None:
        """Open a TIFF.

        Args:
            path: The file.
            dtypes: Types of values that can be used.
            product: What the metadata of the product say about it.
        """
        self._env = rasterio.Env(**GDAL_OPTIONS)
        self._busy = threading.Lock()
        try:
            with self._env:
                self._dataset = open_tiff(path)
        except DAMAGED as error:
            raise SceneError(f"{path} is not a readable TIFF: {error}") from error
        try:
            nodata_text = declared_nodata(path)
            with self._env:  # without it, GDAL's warnings go to stderr by themselves
                own = _own(path, self._dataset, nodata_text)
                self._start(own, dtypes, [product] if product else [])
        except (*DAMAGED, ValueError) as error:  # text that is no UTF-8, a damaged CRS
            self._dataset.close()
            raise SceneError(f"{path} has tags that cannot be read: {error}") from error
        except BaseException:
            self._dataset.close()
            raise

    def _start(
        self, own: Statements, dtypes: Collection[str], product: list[Statements]
    ) -> None:
        """Describe the open file, and what lies beside it."""
        dataset, path = self._dataset, own.path
        statements = [own, *product, side_car_of(path), _header(path, dataset)]
        spectrum = _spectrum(path, dataset.count, statements)
        self._masked = _has_mask(dataset)
        self._masked_apart = not dataset.mask_flag_enums[0]
        alpha = {band for said in statements for band in said.alpha}
        self._bands, self._alpha = _split_bands(path, dataset, spectrum, alpha)
        self._hides = self._masked or len(self._alpha) > 0
        _check_types(path, dataset, self._bands, dtypes)
        own.notes += _alpha_notes(path, self._alpha)
        info = _describe(path, dataset, statements, spectrum, self._bands)
        # A mask is read by GDAL, and decides about each pixel.
        self._raw = None if self._hides else raw_tiles(path, dataset)
        if self._raw is not None:
            info = replace(info, mapped=True, read_order=None)
        self.info = _with_missing(info) if self._hides else info

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
                stored = self._bands[bands]
                if self._raw is not None and self._raw.read(rows, cols, stored, out):
                    return out
                numbers = [int(b) + 1 for b in stored]
                self._dataset.read(numbers, window=window, out=out)
                if self._hides:
                    missing = self.info.nodata[bands].astype(out.dtype)
                    hidden = self._hidden(window, numbers)
                    np.copyto(out, missing[:, None, None], where=hidden)
        except DAMAGED as error:
            cause = str(error.__cause__ or error).rstrip(".")
            raise SceneError(
                f"{self.info.path} cannot be read at rows {rows[0]}-{rows[1]}, "
                f"columns {cols[0]}-{cols[1]}: {cause}. Is the file complete?"
            ) from error
        return out

    def _hidden(self, window: Window, numbers: list[int]) -> NDArray[np.bool_]:
        """Return True where mask or alpha hide a pixel, shape ``(row, col)``.

        Args:
            window: Part of the scene.
            numbers: Bands that are read, from 1; each may have a mask of its own.
        """
        planes = [self._dataset.read(int(b) + 1, window=window) for b in self._alpha]
        if self._masked:
            masks = numbers if self._masked_apart else [1]
            planes.extend(self._dataset.read_masks(masks, window=window))
        hidden: NDArray[np.bool_] = ~np.all(planes, axis=0)
        return hidden

    def close(self) -> None:
        # Where a thread still reads, the process is about to end.
        if self._busy.acquire(blocking=False):
            self._dataset.close()
            if self._raw is not None:
                self._raw.close()
            self._busy.release()


def open_tiff(path: Path) -> Any:
    """Open a TIFF with rasterio, without its warning about a missing georeference."""
    # Filters of warnings are those of the process, and scenes may open side by side.
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, driver="GTiff")


class TiffShape(NamedTuple):
    """What a TIFF holds, without a look at its pixels.

    Attributes:
        bands: Number of bands.
        dtype: Type of the values of the first band.
    """

    bands: int
    dtype: str


def tiff_shape(path: Path) -> TiffShape | None:
    """Describe a TIFF in short, or return None where it cannot be read."""
    try:
        with rasterio.Env(**GDAL_OPTIONS), open_tiff(path) as dataset:
            return TiffShape(dataset.count, dataset.dtypes[0])
    except DAMAGED:
        return None


def _own(path: Path, dataset: Any, nodata_text: str) -> Statements:
    """Collect what a TIFF says about its bands, alpha bands included."""
    tags = {
        (n - 1, domain): dataset.tags(n, ns=domain or None)
        for n in dataset.indexes
        for domain in ("", "IMAGERY", "ENVI")
    }
    names = {band: name for band, name in enumerate(dataset.descriptions) if name}
    own = Statements(
        path,
        own=True,
        names=names,
        tags=tags,
        dataset_tags={"": dataset.tags(), "ENVI": dataset.tags(ns="ENVI")},
    )
    images = len(dataset.subdatasets)
    if images > 1:
        own.notes.append(
            f"{path.name} holds {images} images, of which only the first is read; it "
            f"has {dataset.count} band{'s' * (dataset.count > 1)}. If the others are "
            "further bands, put all into one image."
        )
    if nodata_text and all(value is None for value in dataset.nodatavals):
        try:  # rasterio drops a value that the type cannot hold
            value, dtype = float(nodata_text), np.dtype(dataset.dtypes[0])
            own.notes += held_nodata(path, [value], dtype)[1]
        except ValueError:
            note = f"{path.name} declares nodata {nodata_text!r}, which is no number."
            own.notes.append(note)
    return own


def _header(path: Path, dataset: Any) -> Statements:
    """Read an ENVI header beside a TIFF, as DESIS has one, if it describes its cube.

    Nodata and scale are those of the header's data type; others do not fit the TIFF.
    """
    place = header_beside(path, list_folder=False)
    if place is None:
        return Statements(path)
    found, bands = Statements(place), dataset.count
    header = read_header(place)
    sizes = [header.text(key) for key in ("bands", "lines", "samples")]
    if sizes != [str(n) for n in (bands, dataset.height, dataset.width)]:
        found.notes.append(f"{place.name} describes another cube; it is not read.")
        return found
    found.dataset_tags["ENVI"] = header.fields
    if DTYPE_CODES.get(header.text("data type")) == np.dtype(dataset.dtypes[0]):
        ignored = header.number("data ignore value")
        if ignored is not None:
            found.nodata = dict.fromkeys(range(bands), ignored)
        scale, offset = units_of(header, bands)
        if scale is not None and offset is not None:
            found.scale = dict(enumerate(scale.tolist()))
            found.offset = dict(enumerate(offset.tolist()))
    return found


def _spectrum(path: Path, count: int, statements: list[Statements]) -> Spectrum:
    """Choose the wavelengths of all bands, alpha bands included."""
    places = [place for said in statements for place in said.places(count)]
    for said in statements:
        places.append(name_place(said.all_names(count)))
    spectrum = choose(str(path), places)
    for said in statements[1:]:
        if spectrum.place == said.path.name:
            said.taken.append("wavelengths")
    return spectrum


def _split_bands(
    path: Path, dataset: Any, spectrum: Spectrum, beside: Collection[int]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split bands into measurements and alpha bands, which are masks; 0-based.

    GDAL takes the last of four bands of bytes for alpha unless it is told otherwise;
    its wavelength shows that it is a measurement. Where bands have wavelengths, others
    are no measurements.

    Args:
        path: The file.
        dataset: The file, open.
        spectrum: Wavelengths of all bands.
        beside: Bands that a file beside it calls alpha.
    """
    known = np.zeros(dataset.count, dtype=bool)
    if spectrum.centres is not None:
        known = ~np.isnan(spectrum.centres)
    alpha = np.array([kind == ColorInterp.alpha for kind in dataset.colorinterp])
    alpha[[band for band in beside if band < dataset.count]] = True
    alpha &= ~known
    if alpha.all():
        raise SceneError(f"{path} has only alpha bands, which are masks of others.")
    measured = ~alpha & (known | (not known.any()))
    spectrum.notes.extend(left_out(str(path), np.flatnonzero(~alpha & ~measured)))
    return np.flatnonzero(measured), np.flatnonzero(alpha)


def _has_mask(dataset: Any) -> bool:
    """Return True if the file holds a mask that is not itself a band.

    GDAL has no flag for masks of which each hides the pixels of one band.
    """
    flags = dataset.mask_flag_enums[0]
    of_all = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
    return of_all or not flags


def _alpha_notes(path: Path, alpha: NDArray[np.intp]) -> list[str]:
    if not len(alpha):
        return []
    return [
        f"{path.name}: {', '.join(f'band {b + 1}' for b in alpha)} is alpha; pixels "
        "where it is 0 are nodata. If it is a measurement, tag its wavelength."
    ]


def _with_missing(info: SceneInfo) -> SceneInfo:
    """Provide a value for the pixels that a mask or an alpha band hides."""
    dtype, missing = missing_value(info.dtype)
    nodata = np.where(np.isnan(info.nodata), missing, info.nodata)
    return replace(info, dtype=dtype, nodata=nodata)


def _units(dataset: Any, beside: list[Statements]) -> Units:
    """Read scale and offset of all bands, from the TIFF first; None if not declared."""
    units: Units = np.array(dataset.scales), np.array(dataset.offsets)
    scale, offset = units
    assert scale is not None
    assert offset is not None
    if not ((scale != 1).any() or offset.any()):
        units = None, None
    for said in beside:
        units = said.units(*units, dataset.count)
    return units


def _good(count: int, statements: list[Statements]) -> NDArray[np.bool_]:
    """Find the bands that are not marked as bad, by the first file that marks any."""
    for said in statements:
        good = said.good(count)
        if good is not None:
            if not said.own:
                said.taken.append("bad bands")
            return good
    return np.ones(count, dtype=bool)


def _check_types(
    path: Path, dataset: Any, bands: NDArray[np.intp], dtypes: Collection[str]
) -> None:
    kinds = sorted({dataset.dtypes[b] for b in bands})
    if len(kinds) > 1 or kinds[0] not in dtypes:
        raise SceneError(
            f"{path} holds values of type {', '.join(kinds)}; "
            f"expected one of {', '.join(dtypes)} for all bands."
        )


def _describe(
    path: Path,
    dataset: Any,
    statements: list[Statements],
    spectrum: Spectrum,
    bands: NDArray[np.intp],
) -> SceneInfo:
    """Describe a TIFF.

    Args:
        path: The file.
        dataset: It, open.
        statements: What it says, and what the files beside it say.
        spectrum: Wavelengths of all bands.
        bands: 0-based bands that are measurements.
    """
    own, *beside = statements
    dtype: np.dtype[Any] = np.dtype(dataset.dtypes[bands[0]])
    declared: list[float | None] = list(dataset.nodatavals)
    for said in beside:
        declared = said.fills(declared)
    nodata, lost = held_nodata(path, declared, dtype)
    scale, offset = _units(dataset, beside)
    good = _good(dataset.count, statements)
    lost += partly_scaled(path, scale, offset, bands[good[bands]])
    ground = from_tiff(dataset)
    for said in beside:
        ground = complete(ground, said)
    ground = with_world_file(ground, path)
    remarks = [note for said in beside for note in said.remarks(path)]
    return SceneInfo(
        path=path,
        driver="GTiff",
        bands=len(bands),
        rows=dataset.height,
        cols=dataset.width,
        dtype=dtype,
        nodata=nodata[bands],
        scale=None if scale is None else scale[bands],
        offset=None if offset is None else offset[bands],
        wavelengths_nm=_part(spectrum.centres, bands),
        fwhm_nm=_part(spectrum.widths, bands),
        good=good[bands],
        block=dataset.block_shapes[0],
        interleave="bip" if dataset.interleaving == Interleaving.pixel else "bsq",
        read_order="bsq",  # GDAL copies band by band
        crs=ground.wkt,
        transform=ground.transform,
        control=ground.control,
        rpcs=dataset.tags(ns="RPC") or None,
        resolution_m=ground.resolution_m,
        notes=(*spectrum.notes, *own.notes, *lost, *ground.notes, *remarks),
        files=(path, *(s.path for s in beside if s.taken or s.product), *ground.files),
    )


def _part(
    values: NDArray[np.float64] | None, bands: NDArray[np.intp]
) -> NDArray[np.float64] | None:
    return None if values is None else values[bands]

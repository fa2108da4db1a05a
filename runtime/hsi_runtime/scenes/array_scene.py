"""A scene that is an array in memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.scene import (
    DTYPES,
    Cube,
    SceneInfo,
    held_nodata,
    missing_value,
)
from hsi_runtime.scenes.wavelengths import UNITS_NM, checked_nanometres

# Names of dimensions of xarray.
SPECTRAL = ("band", "bands", "wavelength", "wavelengths", "lambda", "spectral")
CENTRES = ("wavelength", "wavelengths", "wavelength_nm", "wavelengths_nm")


class Declared(NamedTuple):
    """What an array of xarray says about its values.

    Attributes:
        nodata: Fill value, or None.
        scale: Quantity = value * scale + offset; None where not declared.
        offset: See ``scale``.
        centres: Wavelengths of its first dimension, or None.
    """

    nodata: float | None
    scale: float | None
    offset: float
    centres: NDArray[Any] | None = None


def declared(cube: Any) -> Declared:
    """Read what rioxarray and xarray note on an array, by the CF conventions.

    A dimension that is named as the spectral one must be the first; a coordinate along
    it with the name of wavelengths holds the centres, in the unit of its attributes.

    In ``attrs`` are the fill value, scale and offset of values as they are stored. In
    ``encoding`` are those of the file: values were decoded by them, so that missing
    ones are NaN and the others are the quantity itself.

    Raises:
        SceneError: Another dimension than the first is the spectral one.
    """
    return _units(cube)._replace(centres=_centres(cube))


def _centres(cube: Any) -> NDArray[Any] | None:
    """Return the wavelengths of the first dimension of an array of xarray."""
    dims, coords = getattr(cube, "dims", ()), getattr(cube, "coords", None)
    if not isinstance(dims, tuple) or not dims or not isinstance(coords, Mapping):
        return None
    spectral = [str(dim).lower() in SPECTRAL for dim in dims]
    if any(spectral[1:]) and not spectral[0]:
        first = dims[spectral.index(True)]
        raise SceneError(
            f"array has the dimensions {', '.join(map(str, dims))}; the bands must be "
            f"the first: transpose({first!r}, ...)."
        )
    for name in CENTRES:
        if name in coords and coords[name].dims == dims[:1]:
            unit = str(coords[name].attrs.get("units", "nm")).strip().lower()
            values: NDArray[Any] = np.asarray(coords[name])
            known = UNITS_NM.get(unit) if values.dtype.kind in "iuf" else None
            return None if known is None else values * known
    return None


def _units(cube: Any) -> Declared:
    """Read the fill value, scale and offset that xarray notes on an array."""
    attrs, encoding = (
        values if isinstance(values, Mapping) else {}
        for values in (getattr(cube, name, None) for name in ("attrs", "encoding"))
    )
    fill = attrs.get("_FillValue", attrs.get("missing_value"))
    scale, offset = attrs.get("scale_factor", 1.0), attrs.get("add_offset", 0.0)
    if (scale, offset) != (1, 0):
        return Declared(fill, scale, offset)
    coded = encoding.get("scale_factor", 1.0), encoding.get("add_offset", 0.0)
    if coded != (1, 0):
        return Declared(fill, 1.0, 0.0)
    return Declared(encoding.get("_FillValue") if fill is None else fill, None, 0.0)


def plain_array(values: ArrayLike, path: Path = Path("array")) -> Cube:
    """Return an array of numpy; what numpy.ma masks gets a value that is nodata.

    Args:
        values: Anything that numpy takes for an array.
        path: Name for messages.

    Raises:
        SceneError: It is not an array.
    """
    try:
        masked: Any = np.ma.asanyarray(values)
    # Such as rows of unequal length, or a tensor that still collects gradients.
    except (TypeError, ValueError, RuntimeError) as error:
        raise SceneError(f"{path} is not an array of numbers: {error}") from error
    plain: Cube = masked.data
    # Of bytes all values may be real: where lines come one by one, those without a
    # masked value must have the type of the others.
    wide = plain.dtype.kind in "iu" and plain.dtype.itemsize == 1
    if np.ma.is_masked(masked) or (wide and isinstance(values, np.ma.MaskedArray)):
        dtype, missing = missing_value(plain.dtype)
        plain = masked.astype(dtype).filled(missing)
    return plain


class ArrayScene:
    """A cube with what a file would say about it.

    Args:
        cube: Shape ``(band, row, col)``.
        path: Name for messages.
        nodata: Fill value, or None.
        wavelengths_nm: Band centres, shape ``(band,)``, or None.
        fwhm_nm: Band widths, shape ``(band,)``, or None.
        scale: Quantity = stored value * scale + offset; None where not declared.
        offset: See ``scale``.

    Raises:
        SceneError: The cube has another shape or type, or a list another length.
    """

    info: SceneInfo

    def __init__(
        self,
        cube: Cube,
        path: Path = Path("array"),
        nodata: float | None = None,
        wavelengths_nm: ArrayLike | None = None,
        fwhm_nm: ArrayLike | None = None,
        scale: float | None = None,
        offset: float = 0.0,
    ) -> None:
        if cube.ndim != 3 or 0 in cube.shape:
            raise SceneError(
                f"{path} has shape {cube.shape}; expected (band, row, col)."
            )
        if cube.dtype.name not in DTYPES:
            raise SceneError(
                f"{path} holds {cube.dtype.name} values; expected one of "
                f"{', '.join(DTYPES)}. Convert the cube."
            )
        bands, rows, cols = cube.shape
        nodata = _number(path, "nodata", nodata)
        scale = _number(path, "scale", scale)
        offset = _number(path, "offset", offset) or 0.0
        if scale is None and offset:
            scale = 1.0
        self._cube = cube
        centres = _per_band(path, "wavelengths", wavelengths_nm, bands)
        notes: list[str] = []
        if centres is not None:
            centres, notes = checked_nanometres(str(path), centres)
        fills, lost = held_nodata(path, [nodata] * bands, cube.dtype)
        self.info = SceneInfo(
            path=path,
            driver="memory",
            bands=bands,
            rows=rows,
            cols=cols,
            dtype=cube.dtype,
            nodata=fills,
            scale=None if scale is None else np.full(bands, scale),
            offset=None if scale is None else np.full(bands, offset),
            wavelengths_nm=centres,
            fwhm_nm=_per_band(path, "band widths", fwhm_nm, bands),
            good=np.ones(bands, dtype=bool),
            block=(rows, cols),
            mapped=True,
            notes=(*notes, *lost),
        )

    def read(
        self,
        rows: tuple[int, int],
        cols: tuple[int, int],
        bands: NDArray[np.intp],
        out: Cube | None = None,
    ) -> Cube:
        picked = self._cube[bands, slice(*rows), slice(*cols)]
        if out is None:
            return np.ascontiguousarray(picked)
        np.copyto(out, picked)
        return out

    def close(self) -> None:
        pass


def _number(path: Path, what: str, value: Any) -> float | None:
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return None if value is None else float(value)
    except OverflowError as error:  # it may have thousands of digits
        raise SceneError(f"{path}: {what} is too large.") from error
    except (TypeError, ValueError) as error:
        raise SceneError(f"{path}: {what} is not a number: {value!r}.") from error


def _per_band(
    path: Path, what: str, values: ArrayLike | None, bands: int
) -> NDArray[np.float64] | None:
    if values is None:
        return None
    try:
        array: NDArray[Any] = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise SceneError(f"{path}: a value of the {what} is not a number.") from error
    if np.ma.is_masked(values):  # what lies under a mask is anything
        raise SceneError(f"{path}: a value of the {what} is masked. Fill it in.")
    if array.shape != (bands,):
        raise SceneError(
            f"{path} has {bands} bands, but {array.size} {what} were given."
        )
    return array

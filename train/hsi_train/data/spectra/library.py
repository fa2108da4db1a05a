"""What every file of spectra is brought to: checked, in units that are stated."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.matching import resample
from hsi_runtime.matching.missing import FILLS
from hsi_runtime.matching.units import REFLECTANCE, UNKNOWN
from hsi_runtime.scenes.scene import LARGEST, SceneInfo
from hsi_runtime.scenes.wavelengths import Spectrum

# Of the first and the last percent of all values; noise reaches beyond.
LEAST_REFLECTANCE, MOST_REFLECTANCE = -0.5, 2.0
DARKEST = 0.002  # reflectance that the brightest percent of a library exceeds
FINE_NM = 2.0  # bands of field and laboratory spectrometers; of few scenes
MOST_NAMED = 5  # spectra in a message
BY_NAME = "spectra names"  # field with the class that the name of a spectrum tells

Values = NDArray[np.float64]  # (spectrum, band)
Columns = dict[str, NDArray[Any]]  # each (spectrum,)


class Contents(NamedTuple):
    """What a file of spectra holds, before it is checked.

    Attributes:
        path: The file.
        values: As stored, NaN where missing, shape ``(spectrum, band)``.
        names: What messages call the spectra.
        columns: Fields beside the spectra, of which one holds the class.
        axis: Where the bands lie.
        good: False for bands that the file marks as bad, shape ``(band,)``.
        scale: Quantity = stored value * scale; None where the file does not state it.
        notes: Sentences about the file that the user should read.
    """

    path: Path
    values: Values
    names: list[str]
    columns: Columns
    axis: Spectrum
    good: NDArray[np.bool_]
    scale: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Library:
    """The checked spectra of one file.

    Attributes:
        info: Bands and units, as of a scene with one column and a row for each
            spectrum.
        spectra: The quantity itself, shape ``(spectrum, band)``; 0 in bands that are
            not good.
        names: What messages call the spectra.
        columns: Fields beside the spectra, of which one holds the class.
        notes: Sentences the user should read.
    """

    info: SceneInfo
    spectra: NDArray[np.float32]
    names: list[str]
    columns: Columns
    notes: list[str]


def checked(contents: Contents, scale: float | None, quantity: str) -> Library:
    """Check spectra, and convert them to the quantity that they measure.

    Args:
        contents: What the file holds.
        scale: Quantity = stored value * scale, where the file does not state it.
        quantity: What the values are; reflectance where it is unknown.

    Raises:
        SceneError: Wavelengths or units are not stated, values are missing or are no
            reflectance.
    """
    path, values = contents.path, contents.values
    centres, widths = contents.axis.centres, contents.axis.widths
    if centres is None:
        reasons = " ".join(contents.axis.notes)
        raise SceneError(
            f"{path} states no wavelengths, by which a model finds its bands in a "
            f"scene. Add them to the file.{' ' + reasons if reasons else ''}"
        )
    stated = _scale(contents, scale)
    # What single precision cannot hold is no value.
    with np.errstate(over="ignore"):
        values = np.where(np.abs(values * stated) <= LARGEST, values, np.nan)
    alive = np.isfinite(values).any(axis=0)
    good = contents.good & alive
    notes = [*contents.notes, *contents.axis.notes]
    if dead := int((contents.good & ~alive).sum()):
        notes.append(f"{path}: {dead} bands without any value are left out.")
    if not good.any():
        raise SceneError(f"{path} has no value in any good band.")
    missing = np.logical_not(np.isfinite(values[:, good]).all(axis=1))
    if missing.any():
        raise SceneError(
            f"{path}: values are missing in the spectra "
            f"{listed(contents.names, missing)}. Remove these spectra, or mark the "
            "bands as bad (bbl 0)."
        )
    converted = np.where(good, values, 0.0) * stated
    if quantity in (UNKNOWN, REFLECTANCE):
        _check_reflectance(path, converted[:, good], stated)
        _check_fills(contents, converted, good)
    count, bands = values.shape
    info = SceneInfo(
        path=path,
        driver="spectra",
        bands=bands,
        rows=count,
        cols=1,
        dtype=np.dtype(np.float32),
        nodata=np.full(bands, np.nan),
        scale=np.ones(bands),
        offset=np.zeros(bands),
        wavelengths_nm=centres,
        fwhm_nm=widths,
        good=good,
        block=(count, 1),
    )
    return Library(
        info=info,
        spectra=converted.astype(np.float32),
        names=contents.names,
        columns=contents.columns,
        notes=notes,
    )


def _scale(contents: Contents, given: float | None) -> float:
    """Take the scale that the file states, or else the one that the user gives."""
    stated = contents.scale
    if stated is None and given is None:
        raise SceneError(
            f"{contents.path} does not state the scale of its values. Give --scale 1 "
            "for reflectance from 0 to 1, --scale 0.01 for percent, or --scale 0.0001 "
            "for 0 to 10,000."
        )
    if stated is None:
        assert given is not None
        return given
    if given is not None and not np.isclose(stated, given, rtol=1e-6, atol=0):
        raise SceneError(
            f"{contents.path} states a scale of {stated:g}, and --scale is {given:g}. "
            "Leave out --scale, or correct the file."
        )
    return stated


def _check_reflectance(path: Path, values: Values, scale: float) -> None:
    """Refuse a scale that makes no reflectance of the values."""
    low, high = np.percentile(values, (1, 99))
    if low < LEAST_REFLECTANCE or not DARKEST <= high <= MOST_REFLECTANCE:
        raise SceneError(
            f"{path}: with a scale of {scale:g}, values from {low:.3g} to {high:.3g} "
            "are no reflectance. Correct the scale, declare a fill value (data ignore "
            "value), or name the quantity (--set data.quantity=radiance)."
        )


def _check_fills(
    contents: Contents, converted: Values, good: NDArray[np.bool_]
) -> None:
    """Refuse fill values that are too few to move the percentiles.

    Args:
        contents: What the file holds.
        converted: Reflectance, shape ``(spectrum, band)``.
        good: Bands that are used, shape ``(band,)``.
    """
    outside = (converted < LEAST_REFLECTANCE) | (converted > MOST_REFLECTANCE)
    fills = np.isin(contents.values, FILLS) & outside & good
    spoiled = np.asarray(fills.any(axis=1))
    if spoiled.any():
        raise SceneError(
            f"{contents.path}: the fill value {contents.values[fills][0]:g} stands in "
            f"the spectra {listed(contents.names, spoiled)}. Remove these spectra."
        )


def on_bands_of(library: Library, sensor: SceneInfo) -> Library:
    """Resample spectra to the bands of a scene, as `hsi-run` resamples a scene.

    A band that the spectra do not cover is a bad band of the result.

    Raises:
        SceneError: The scene has no wavelengths, or the spectra cover none of its
            bands.
    """
    info, centres = library.info, sensor.wavelengths_nm
    if centres is None:
        raise SceneError(
            f"--bands-of {sensor.path} has no wavelengths. Name a scene that has them."
        )
    assert info.wavelengths_nm is not None
    table, covered = resample.weights(
        info.wavelengths_nm, info.good, centres, sensor.fwhm_nm
    )
    good = sensor.good & covered
    if not good.any():
        raise SceneError(
            f"{info.path} covers no band of {sensor.path}. Name a scene with coarser "
            "bands, or give other spectra."
        )
    notes = [*library.notes]
    if lost := int((sensor.good & ~covered).sum()):
        notes.append(
            f"{info.path.name} does not cover {lost} of the {sensor.bands} bands of "
            f"{sensor.path.name}; the model does not use them."
        )
    resampled = replace(
        info,
        bands=sensor.bands,
        nodata=np.full(sensor.bands, np.nan),
        scale=np.ones(sensor.bands),
        offset=np.zeros(sensor.bands),
        wavelengths_nm=centres,
        fwhm_nm=sensor.fwhm_nm,
        good=good,
    )
    spectra = (library.spectra.astype(np.float64) @ table.T).astype(np.float32)
    return replace(library, info=resampled, spectra=spectra, notes=notes)


def fine_bands(library: Library) -> list[str]:
    """Warn of bands so fine that few scenes have them all."""
    info = library.info
    assert info.wavelengths_nm is not None
    step = float(np.median(resample.spacing(info.wavelengths_nm[info.good])))
    if step > FINE_NM:
        return []
    return [
        f"{info.path.name} has bands {step:g} nm apart, so that the model maps only "
        "scenes with bands as close. --bands-of SCENE resamples the spectra to the "
        "bands of a scene."
    ]


def listed(names: list[str], chosen: NDArray[np.bool_]) -> str:
    """Name the chosen spectra, the first few of them."""
    all_names = [names[index] for index in np.flatnonzero(chosen)]
    more = len(all_names) - MOST_NAMED
    shown = ", ".join(all_names[:MOST_NAMED])
    return f"{shown} and {more} more" if more > 0 else shown

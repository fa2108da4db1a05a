"""Band centres and widths: chooses among the places that state them, in nanometres."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError

LENGTHS_NM = {
    1e-1: ("angstrom", "å"),
    1.0: ("nanometer", "nanometre", "nm"),
    1e3: ("micrometer", "micrometre", "micron", "um", "µm", "μm"),
    1e6: ("millimeter", "millimetre", "mm"),
    1e7: ("centimeter", "centimetre", "cm"),
    1e9: ("meter", "metre", "m"),
}
UNITS_NM = {name: nm for nm, names in LENGTHS_NM.items() for name in names}
UNITS_NM |= {f"{name}s": nm for name, nm in UNITS_NM.items() if len(name) > 4}
# Units of an axis that is no wavelength.
NO_LENGTHS = {"index", "indices", "band", "bands", "channel", "channels", "wavenumber"}
NO_LENGTHS |= {"wavenumbers", "wavenumber (cm-1)", "cm-1", "1/cm", "hz", "khz", "mhz"}
NO_LENGTHS |= {"ghz", "thz", "ev", "degrees", "seconds", "date"}
SHORTEST_NM, LONGEST_NM = 200.0, 20_000.0  # what imaging spectrometers measure
# A length in the name of a band: "band 7 (712.3 Nanometers)", "Red 665 nm".
NAMED = re.compile(
    r"(?<![^\W_])(?<!\.)(\d{1,6}(?:\.\d{1,9})?) ?"
    r"(nanomet(?:er|re)s?|nm|micromet(?:er|re)s?|microns?|um|µm|μm)\b",
    re.IGNORECASE,
)
SEPARATOR = re.compile(r"[,;\s]+")
VALUE = re.compile(r"\s*(\d+(?:[.,]\d+)?)\s*([^\W\d_]+)?\s*")  # "450,5 nm"
CENTRES = ["wavelength", "wavelengths", "wavelength_nm", "wavelengths_nm"]
CENTRES += ["center_wavelength", "central_wavelength", "centre_wavelength"]
NAME_LENGTH = 200  # characters of a band's name that are looked at

Wavelengths = NDArray[np.float64]


class Place(NamedTuple):
    """What one place in or beside a file says about its bands.

    Attributes:
        name: What it is called in notes; empty for the usual place, which needs none.
        centres: Text of each band's centre, empty where it has none.
        widths: Text of each band's width, likewise.
        units: Unit of each band, likewise.
    """

    name: str
    centres: Sequence[str]
    widths: Sequence[str]
    units: Sequence[str]


class Spectrum(NamedTuple):
    """Where the bands of a scene lie.

    Attributes:
        centres: Band centres, nm, or None; NaN for a band that has none.
        widths: Band widths, nm, or None.
        notes: Sentences for the user.
        place: Name of the place that states the centres.
    """

    centres: Wavelengths | None
    widths: Wavelengths | None
    notes: list[str]
    place: str = ""


def tag_place(name: str, tags: Sequence[Mapping[str, str]]) -> Place:
    """Read the tags of bands, whatever the case of their names."""
    lower = [{k.lower().replace(" ", "_"): v for k, v in row.items()} for row in tags]

    def column(*keys: str) -> list[str]:
        return [next((row[k] for k in keys if row.get(k)), "") for row in lower]

    centres = [_with_unit(text) for text in column(*CENTRES)]
    units = column("wavelength_units", "wavelength_unit")
    return Place(
        name,
        [number for number, _ in centres],
        [_with_unit(text)[0] for text in column("fwhm", "fwhm_nm")],
        [said or unit for said, (_, unit) in zip(units, centres, strict=True)],
    )


def _with_unit(text: str) -> tuple[str, str]:
    """Split a number from a unit behind it; its decimal mark may be a comma."""
    match = VALUE.fullmatch(text[:NAME_LENGTH])
    return (match[1].replace(",", "."), match[2] or "") if match else (text, "")


def imagery_place(tags: Sequence[Mapping[str, str]]) -> Place:
    """Read GDAL's IMAGERY domain, which rounds to 1 nm."""
    return Place(
        "",
        [row.get("CENTRAL_WAVELENGTH_UM", "") for row in tags],
        [row.get("FWHM_UM", "") for row in tags],
        ["um"] * len(tags),
    )


def listed(text: str) -> list[str]:
    """Split a list of numbers, which commas, semicolons or spaces separate."""
    return [item for item in SEPARATOR.split(text) if item]


def list_place(name: str, fields: Mapping[str, str], bands: int) -> Place:
    """Read lists of all bands, as an ENVI header has them; others are left out."""
    lower = {k.lower().replace(" ", "_"): v for k, v in fields.items()}

    def values(*keys: str) -> list[str]:
        text = next((lower[key] for key in keys if lower.get(key)), "")
        items = listed(text.strip(" {}[]()"))
        return items if len(items) == bands else [""] * bands

    unit = lower.get("wavelength_units", "")
    return Place(name, values(*CENTRES), values("fwhm", "fwhm_nm"), [unit] * bands)


def name_place(names: Sequence[str | None]) -> Place:
    """Read the lengths in the names of bands."""
    matches = [NAMED.search((name or "")[:NAME_LENGTH]) for name in names]
    return Place(
        "the names of the bands",
        [match[1] if match else "" for match in matches],
        [""] * len(names),
        [match[2] if match else "" for match in matches],
    )


def choose(source: str, places: Sequence[Place]) -> Spectrum:
    """Take the centres, and the widths, from the first place that states them.

    A place that states fewer than half of the centres is passed over, with a note.

    Args:
        source: The file, for messages.
        places: The better ones first; all of the same bands.

    Raises:
        SceneError: A value is not a number, or cannot be a wavelength.
    """
    notes: list[str] = []
    for place in places:
        stated = np.array([bool(text) for text in place.centres])
        if not stated.any():
            continue
        if stated.sum() * 2 < len(stated):
            notes.append(
                f"{source}: only {stated.sum()} of {len(stated)} bands have a "
                f"wavelength in {place.name or 'their tags'}; these are not used."
            )
            continue
        centres = _numbers(source, "wavelength", place.centres)
        units = [u for u, known in zip(place.units, stated, strict=True) if known]
        factor, remarks = _factor(source, centres[stated], units)
        notes += remarks
        if factor is None:
            continue
        if place.name:
            notes.append(f"{source}: wavelengths are those of {place.name}.")
        widths = _widths(source, places, place, factor, stated)
        if widths is None and any(any(other.widths) for other in places):
            notes.append(f"{source}: band widths are incomplete; not used.")
        return Spectrum(centres * factor, widths, notes, place.name)
    return Spectrum(None, None, notes)


def checked_nanometres(
    source: str, centres: Wavelengths
) -> tuple[Wavelengths | None, list[str]]:
    """Check centres that are said to be in nanometres, as those of a file are.

    Returns:
        The centres, or None where they are no wavelengths; notes for the user.

    Raises:
        SceneError: They cannot be wavelengths.
    """
    factor, notes = _factor(source, centres, ["nm"])
    return None if factor is None else centres * factor, notes


def _numbers(source: str, key: str, texts: Sequence[str]) -> Wavelengths:
    values = np.full(len(texts), np.nan)
    for band, text in enumerate(texts):
        try:
            values[band] = float(text) if text else np.nan
        except ValueError as error:
            raise SceneError(
                f"{source}: the {key} of band {band + 1} is not a number: "
                f"{text[:40]!r}."
            ) from error
    return values


def _factor(
    source: str, centres: Wavelengths, units: Sequence[str]
) -> tuple[float | None, list[str]]:
    """Find what brings centres to nanometres; None where they are no wavelengths."""
    names = {unit.strip().lower() for unit in units}
    foreign = sorted(names & NO_LENGTHS)
    if foreign:
        note = f"{source}: wavelengths in {foreign[0]!r} are no lengths; not used."
        return None, [note]
    first = centres[0]
    if len(centres) > 2 and first in (0, 1) and (np.diff(centres) == 1).all():
        note = f"{source}: wavelengths {first:g} to {centres[-1]:g} are band numbers; "
        return None, [note + "not used."]
    if not (np.isfinite(centres).all() and (centres > 0).all()):
        raise SceneError(f"{source}: wavelengths must be positive numbers.")
    low, high = float(centres.min()), float(centres.max())

    def fits(factor: float) -> bool:
        return low * factor >= SHORTEST_NM and high * factor <= LONGEST_NM

    by_size = next((factor for factor in (1.0, 1e3) if fits(factor)), None)
    named = "nm" if by_size == 1 else "micrometres"
    unknown = names - set(UNITS_NM)
    if not unknown or unknown == {""} != names:
        factors = {UNITS_NM.get(name) for name in names}
        if len(factors) > 1:
            raise SceneError(f"{source}: bands disagree on units: {sorted(names)}.")
        factor = factors.pop()
        assert factor is not None
        if fits(factor):
            return factor, []
        if by_size is None:
            raise SceneError(
                f"{source}: wavelengths run from {low * factor:g} to {high * factor:g} "
                f"nm, outside {SHORTEST_NM:g} to {LONGEST_NM:g}. Correct the "
                "wavelengths or their units."
            )
        unit = next(iter(names))
        note = f"{source}: wavelengths from {low:g} to {high:g} cannot be in {unit!r}; "
        return by_size, [note + f"taken as {named}."]
    if by_size is None:
        raise SceneError(
            f"{source}: wavelengths run from {low:g} to {high:g} without a unit that "
            "is known; state the wavelength units."
        )
    known = sorted(unknown - {"", "unknown"})
    if known:
        note = f"{source}: the wavelength unit {', '.join(known)!r} is not known; "
    else:
        note = f"{source}: wavelengths have no unit; "
    return by_size, [note + f"taken as {named}."]


def _widths(
    source: str,
    places: Sequence[Place],
    chosen: Place,
    factor: float,
    stated: NDArray[np.bool_],
) -> Wavelengths | None:
    """Take the widths of the chosen place, or of the first other one with a unit."""
    for place in (chosen, *places):
        widths = _numbers(source, "fwhm", place.widths)
        widths[widths > LONGEST_NM * 10] = np.nan  # in Angstroms, the shortest unit
        units = {unit.strip().lower() for unit in place.units} - {""}
        scale = factor
        if place is not chosen:
            scale = UNITS_NM.get(units.pop(), 0.0) if len(units) == 1 else 0.0
        usable = np.isfinite(widths) & (widths > 0)
        if scale and usable[stated].all():
            return widths * scale
    return None


def left_out(source: str, bands: NDArray[np.intp]) -> list[str]:
    """Name the bands, 0-based, that lack the wavelength which others have."""
    if not len(bands):
        return []
    numbers = ", ".join(str(band + 1) for band in bands[:5])
    more = f" and {len(bands) - 5} more" if len(bands) > 5 else ""
    subject = (
        f"band {numbers} has" if len(bands) == 1 else f"bands {numbers}{more} have"
    )
    return [f"{source}: {subject} no wavelength, which the others have; left out."]

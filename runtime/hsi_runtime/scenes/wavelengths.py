"""Reads band centres and widths from a file's tags, and converts them to nanometres."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError

UNITS_NM = {
    "nanometers": 1.0,
    "nanometer": 1.0,
    "nanometres": 1.0,
    "nm": 1.0,
    "micrometers": 1000.0,
    "micrometer": 1000.0,
    "micrometres": 1000.0,
    "microns": 1000.0,
    "um": 1000.0,
    "µm": 1000.0,
    "μm": 1000.0,
}


Wavelengths = NDArray[np.float64]


def to_nanometres(
    source: str, centres: Wavelengths | None, widths: Wavelengths | None, unit: str
) -> tuple[Wavelengths | None, Wavelengths | None, list[str]]:
    """Convert band centres and widths to nm.

    Without a unit, values all above 100 are nm and all below are micrometres; that is
    said in a note.

    Returns:
        Centres in nm, widths in nm (each None where absent), notes for the user.

    Raises:
        SceneError: A unit that is no length, or values that cannot be wavelengths.
    """
    if centres is None:
        return None, None, []
    notes = []
    factor = UNITS_NM.get(unit.strip().lower())
    if factor is None:
        if unit.strip().lower() not in ("", "unknown"):
            raise SceneError(
                f"{source}: wavelengths are in {unit!r}; "
                "expected Nanometers or Micrometers."
            )
        factor = 1.0 if np.all(centres > 100) else 1000.0
        if factor == 1000.0 and np.any(centres > 100):
            raise SceneError(
                f"{source}: wavelengths run from {centres.min():g} to "
                f"{centres.max():g} without a unit; state the wavelength units."
            )
        said = "nm" if factor == 1 else "micrometres"
        notes.append(f"{source}: wavelengths have no unit; taken as {said}.")
    centres = centres * factor
    if not (np.all(np.isfinite(centres)) and np.all(centres > 0)):
        raise SceneError(f"{source}: wavelengths must be positive numbers.")
    return centres, None if widths is None else widths * factor, notes


def from_band_tags(
    source: str,
    tags: Sequence[Mapping[str, str]],
    imagery: Sequence[Mapping[str, str]],
) -> tuple[Wavelengths | None, Wavelengths | None, list[str]]:
    """Read wavelengths from the tags of a GeoTIFF's bands.

    The ``wavelength`` tag comes first: GDAL rounds ``IMAGERY`` to 1 nm.

    Raises:
        SceneError: A tag is no number.
    """

    def column(rows: Sequence[Mapping[str, str]], key: str) -> Wavelengths | None:
        if not all(key in row for row in rows):
            return None
        try:
            return np.array([float(row[key]) for row in rows])
        except ValueError as error:
            raise SceneError(f"{source}: a tag {key} is not a number.") from error

    centres = column(tags, "wavelength")
    if centres is not None:
        units = {row.get("wavelength_units", "") for row in tags}
        if len(units) > 1:
            raise SceneError(f"{source}: bands disagree on units: {sorted(units)}.")
        return to_nanometres(source, centres, column(tags, "fwhm"), units.pop())
    centres = column(imagery, "CENTRAL_WAVELENGTH_UM")
    return to_nanometres(source, centres, column(imagery, "FWHM_UM"), "um")

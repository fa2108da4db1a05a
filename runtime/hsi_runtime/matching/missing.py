"""Tells the measurements of a scene from values that stand for missing ones."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.matching.bands import BandMatch
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.scenes.scene import LARGEST, Cube, SceneInfo, valid_pixels

log = logging.getLogger(__name__)

EXTREME = 1e6  # times the usual size of a value
LEAST_BANDS = 3  # of a spectrum: fewer values may be alike by chance
# Fill values in use; in scenes of wider types also those of types of two bytes.
FILLS = (
    *(-50.0, -99.0, -999.0, -9990.0, -9999.0, -99999.0, -999999.0),
    *(-32768.0, -32767.0, 32767.0, 65535.0),
)
MANY_ZEROS = 0.02, 16  # share of the pixels that are looked at, and their number
BRIGHT = 10.0  # times the usual size: no light makes all bands alike and so bright


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Which pixels of a scene hold no measurement, in the bands that are used.

    Besides declared fill values these are: values a million times as large as the model
    knows, and spectra that are one and the same value in all bands, where that is a
    fill value in use, the smallest of a signed type, or beyond all that the model
    knows.

    Attributes:
        path: The scene, for a warning.
        nodata: Fill value of each band, NaN where none, shape ``(band,)``.
        largest: Size beyond which a value is no measurement.
        usual: Largest size that the model knows, in stored units; infinite where it
            cannot be compared.
    """

    path: Path = Path("scene")
    nodata: NDArray[np.float64]
    largest: float = LARGEST
    usual: float = np.inf
    _told: set[float] = field(default_factory=set, compare=False, repr=False)

    def valid(self, cube: Cube) -> NDArray[np.bool_]:
        """Find the pixels that have a measurement in every band.

        The first fill value that nothing declares is logged.

        Args:
            cube: Stored units, shape ``(band, row, col)``.

        Returns:
            Shape ``(row, col)``.
        """
        valid = valid_pixels(cube, self.nodata, self.largest)
        if self.largest < LARGEST and not self._told - {0.0} and not valid.all():
            self._tell(_beyond(cube[:, ~valid], self.largest), "values of")
        fills = fill_spectra(cube, self.usual) & valid
        self._tell_of_zeros(cube, valid)
        if fills.any():
            self._tell(cube[0][fills][:1].astype(float), "whole spectra of")
            valid &= ~fills
        return valid

    def _tell_of_zeros(self, cube: Cube, valid: NDArray[np.bool_]) -> None:
        """Log once that many spectra are 0: what a border holds, or no light at all."""
        if 0.0 in self._told or len(cube) < LEAST_BANDS or np.any(self.nodata == 0):
            return
        # Three bands rule out nearly all pixels; the others are looked at in full.
        dark = valid & (cube[0] == 0) & (cube[1] == 0) & (cube[-1] == 0)
        least = max(MANY_ZEROS[0] * dark.size, MANY_ZEROS[1])
        if dark.sum() >= least and (~cube[:, dark].any(axis=0)).sum() >= least:
            self._told.add(0.0)
            log.warning(
                f"{self.path.name} holds many spectra that are 0 in all bands. They "
                "are classified like any other; if they lie outside the scene, declare "
                "0 as nodata."
            )

    def _tell(self, values: NDArray[np.float64], what: str) -> None:
        if self._told - {0.0} or not len(values):
            return
        self._told.add(float(values[0]))
        log.warning(
            f"{self.path.name} holds {what} {values[0]:g}, a fill value that nothing "
            "declares; these pixels are nodata in the map. Declare it as nodata."
        )


def fill_spectra(cube: Cube, usual: float = np.inf) -> NDArray[np.bool_]:
    """Find spectra of one and the same value that is no measurement.

    Args:
        cube: Stored units, shape ``(band, row, col)``.
        usual: Largest size of a measurement that is known.

    Returns:
        Shape ``(row, col)``.
    """
    first = cube[0]
    if len(cube) < LEAST_BANDS:
        return np.zeros(first.shape, dtype=bool)
    # Three bands rule out nearly all pixels; the others are compared in full.
    alike: NDArray[np.bool_] = (first == cube[1]) & (first == cube[-1])
    if not alike.any():
        return alike
    alike[alike] = (cube[:, alike] == first[alike]).all(axis=0)
    values = first[alike].astype(np.float64)
    known = np.isin(values, FILLS)
    if cube.dtype.kind != "u":
        limits = np.finfo if cube.dtype.kind == "f" else np.iinfo
        known |= values == limits(cube.dtype).min
    known |= (values <= -usual) | (values > BRIGHT * usual)
    alike[alike] = known
    return alike


def missing_in(info: SceneInfo, match: BandMatch, document: ModelDocument) -> Missing:
    """Derive from a model what a scene holds in place of measurements.

    The model knows the usual values of its bands, and those of its sample. Training
    refuses values a million times as large; in a scene they are fill values that
    nothing declares.
    """
    values, sample = document.values, document.self_test.cube.unpack()
    known = np.abs(np.concatenate([values.fill, sample.ravel().astype(np.float64)]))
    usual = float(known[np.isfinite(known)].max(initial=0.0))
    step = 1.0  # of a value of the scene, in the model's
    shifted = False
    if info.scale is not None and values.scale is not None:
        assert info.offset is not None
        smallest = np.abs(info.scale[match.indices]).min()
        step = float(smallest / np.abs(values.scale).max())
        shifted = bool(np.any(info.offset[match.indices]) or np.any(values.offset))
    limit = EXTREME * usual / step
    return Missing(
        path=info.path,
        nodata=info.nodata[match.indices],
        largest=min(limit, LARGEST) if limit > 0 else LARGEST,
        usual=usual / step if usual and not shifted else np.inf,
    )


def _beyond(spectra: Cube, largest: float) -> NDArray[np.float64]:
    """Return the finite values beyond a size."""
    values = spectra[np.isfinite(spectra)].astype(np.float64)
    return values[np.abs(values) > largest]

"""Turns raw counts into reflectance or radiance, by references of the camera."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.camera.references import References
from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.envi_header import read_header
from hsi_runtime.scenes.opening import open_raster
from hsi_runtime.scenes.scene import Cube, Scene, SceneInfo

ROWS_AT_ONCE = 64
MOST_BAD_SHARE = 0.5  # of the elements; above, the references are of something else
LEAST_LINES = 0.5  # share of a reference's lines in which an element has a count
# How long a camera collects light, as Specim and others name it in ENVI headers.
NUMBER = re.compile(r"\d{1,12}(\.\d{1,12})?")
EXPOSURE = re.compile(r"tint\d?|integration time|exposure( time)?|shutter")


@dataclass(frozen=True)
class Calibration:
    """Value = (count - dark) * gain + offset, for each element of the detector.

    Attributes:
        dark: Counts without light, shape ``(band, col)``.
        gain: Such as 1 / (white - dark); NaN where an element has none.
        offset: Shape ``(band, col)``, or None for zero.
        files: Files of the references.
        dead: What elements without a gain are like.
        exposures: How long dark and white were exposed, where their headers say it.
    """

    dark: NDArray[np.float32]
    gain: NDArray[np.float32]
    offset: NDArray[np.float32] | None
    files: tuple[Path, ...]
    dead: str
    exposures: Mapping[Path, Mapping[str, float]] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Hash of the numbers."""
        numbers = self.dark.tobytes() + self.gain.tobytes()
        if self.offset is not None:
            numbers += self.offset.tobytes()
        return hashlib.sha256(numbers).hexdigest()


def calibration_of(references: References) -> Calibration | None:
    """Read the references; None if there are none.

    Raises:
        SceneError: They cannot be read, or do not belong together.
    """
    dark, white, gain, offset = references
    if gain is not None:
        return read_factors(gain, offset)
    return read_calibration(dark, white) if dark and white else None


def read_calibration(dark: Path, white: Path) -> Calibration:
    """Average the lines of two references.

    Args:
        dark: Raster of some lines without light, as the camera stores them.
        white: Raster of some lines of a white panel.

    Raises:
        SceneError: They cannot be read, or do not belong together.
    """
    black, black_info = _mean_line(dark)
    bright, bright_info = _mean_line(white)
    if black.shape != bright.shape:
        raise SceneError(
            f"{dark} has {black.shape[0]} bands and {black.shape[1]} columns, {white} "
            f"{bright.shape[0]} and {bright.shape[1]}; both must be of one camera."
        )
    span = bright - black
    good = span > 0
    if np.mean(~good) > MOST_BAD_SHARE:
        raise SceneError(
            f"{white} is not brighter than {dark} in {np.mean(~good):.0%} of its "
            "elements. Were --dark and --white exchanged, or is one saturated?"
        )
    gain = np.full(span.shape, np.nan)
    gain[good] = 1 / span[good]
    return Calibration(
        dark=black.astype(np.float32),
        gain=gain.astype(np.float32),
        offset=None,
        files=(*black_info.all_files, *bright_info.all_files),
        dead="are saturated in a reference, or not brighter in the white one than in "
        "the dark one",
        exposures={dark: _exposures(black_info), white: _exposures(bright_info)},
    )


def read_factors(gain: Path, offset: Path | None) -> Calibration:
    """Read the factor and the summand of every element of the detector.

    Args:
        gain: Raster of one line; of several, the mean counts.
        offset: As ``gain``; None for zero.

    Raises:
        SceneError: They cannot be read, or do not belong together.
    """
    factors, info = _mean_line(gain)
    files = info.all_files
    good = np.isfinite(factors) & (factors != 0)
    summands = None
    if offset is not None:
        summands, info = _mean_line(offset)
        files += info.all_files
        if summands.shape != factors.shape:
            raise SceneError(
                f"{gain} has {factors.shape[0]} bands and {factors.shape[1]} columns, "
                f"{offset} {summands.shape[0]} and {summands.shape[1]}; both must be "
                "of one camera."
            )
        good &= np.isfinite(summands)
    if np.mean(~good) > MOST_BAD_SHARE:
        raise SceneError(
            f"{gain} has no usable gain in {np.mean(~good):.0%} of its elements. Give "
            "one line of factors, finite and not 0."
        )
    return Calibration(
        dark=np.zeros(factors.shape, np.float32),
        gain=np.where(good, factors, np.nan).astype(np.float32),
        offset=None if summands is None else summands.astype(np.float32),
        files=files,
        dead="have no usable gain",
    )


def _mean_line(path: Path) -> tuple[NDArray[np.float64], SceneInfo]:
    """Average a raster over its rows, ``(band, col)``; describe it.

    An element without a count in half of the rows is NaN: a saturated one would only
    show how much the camera can tell.
    """
    scene = open_raster(path)
    try:
        info = scene.info
        total = np.zeros((info.bands, info.cols))
        lines = np.zeros((info.bands, info.cols))
        for first in range(0, info.rows, ROWS_AT_ONCE):
            rows = first, min(first + ROWS_AT_ONCE, info.rows)
            cube = scene.read(rows, (0, info.cols), np.arange(info.bands))
            counted = np.isfinite(cube) & ~_missing(cube, info.nodata)
            total += cube.sum(axis=1, dtype=np.float64, where=counted)
            lines += counted.sum(axis=1)
        enough = lines >= max(LEAST_LINES * info.rows, 1)
        return np.where(enough, total / np.maximum(lines, 1), np.nan), info
    finally:
        scene.close()


def _missing(counts: Cube, nodata: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Find what is no count: fill values, and those at the upper end of the type."""
    missing: NDArray[np.bool_] = counts == nodata[:, None, None]
    if counts.dtype.kind in "iu":
        missing |= counts == np.iinfo(counts.dtype).max
    return missing


def _exposures(info: SceneInfo) -> dict[str, float]:
    """Read how long a camera collected light, where an ENVI header says it."""
    header = next((f for f in info.files if f.suffix.lower() == ".hdr"), None)
    if info.driver != "ENVI" or header is None:
        return {}
    stated = {}
    for key, text in read_header(header).fields.items():
        if EXPOSURE.fullmatch(key) and NUMBER.fullmatch(text):
            stated[key] = float(text)
    return stated


class CalibratedScene:
    """A scene of raw counts that is read as reflectance or radiance, float32.

    Args:
        scene: Raw counts.
        calibration: Of the same camera.

    Attributes:
        calibration: As given.

    Raises:
        SceneError: Bands or columns are others.
    """

    def __init__(self, scene: Scene, calibration: Calibration) -> None:
        info = scene.info
        if calibration.dark.shape != (info.bands, info.cols):
            bands, cols = calibration.dark.shape
            raise SceneError(
                f"{info.path.name} has {info.bands} bands and {info.cols} columns; its "
                f"references have {bands} and {cols}. Both must be of one camera."
            )
        self._scene, self.calibration = scene, calibration
        self._notes = self._other_exposures(_exposures(info))

    @property
    def info(self) -> SceneInfo:
        info, bands = self._scene.info, self._scene.info.bands
        dead = int(np.isnan(self.calibration.gain).sum())
        note = (
            f"{dead} elements of the detector {self.calibration.dead}; their pixels "
            "are nodata."
        )
        return replace(
            info,
            dtype=np.dtype(np.float32),
            nodata=np.full(bands, np.nan),
            scale=np.ones(bands),
            offset=np.zeros(bands),
            notes=(*info.notes, *self._notes, *([note] if dead else [])),
            files=(*info.all_files, *self.calibration.files),
        )

    def _other_exposures(self, own: Mapping[str, float]) -> list[str]:
        """Name references that were exposed longer or shorter than the scene."""
        name = self._scene.info.path.name
        return [
            f"{path} was taken with {key} = {value:g}, {name} with {own[key]:g}; "
            "counts differ by as much. Take references with the settings of the flight."
            for path, stated in self.calibration.exposures.items()
            for key, value in stated.items()
            if key in own and not np.isclose(value, own[key], rtol=0.01)
        ]

    def read(
        self,
        rows: tuple[int, int],
        cols: tuple[int, int],
        bands: NDArray[np.intp],
        out: Cube | None = None,
    ) -> Cube:
        counts = self._scene.read(rows, cols, bands)
        if out is None:
            out = np.empty(counts.shape, np.float32)
        place = bands, slice(*cols)
        np.subtract(counts, self.calibration.dark[place][:, None], out=out)
        out *= self.calibration.gain[place][:, None]
        if self.calibration.offset is not None:
            out += self.calibration.offset[place][:, None]
        # What has no count has no reflectance.
        out[_missing(counts, self._scene.info.nodata[bands])] = np.nan
        return out

    def close(self) -> None:
        self._scene.close()

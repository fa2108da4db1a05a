"""Simulate airborne hyperspectral scenes with known truth, of any size.

A scene is a function of its ``SceneSpec``: a landscape (``hsi_train.landscape``) is
sampled at 3x3 points per pixel, whose materials (``hsi_train.materials``) mix linearly,

    reflectance[band] = sum over points of light * spectrum[band] / points

and a sensor adds noise, worst at the ends of its range and where water vapour absorbs.
Each pixel row is computed from its coordinates alone, so a scene is written strip by
strip, and its bytes do not depend on the strips' height. Shadow is a factor of light
(the sky's blue is not modelled), and a label never means shadow.

Integers hold reflectance x 10000. The nodata value (uint16 0, int16 -32768, float32
-9999) is always declared, and no valid pixel holds it in any band.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import click
import msgspec
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.transform import from_origin
from rasterio.windows import Window

from hsi_runtime.errors import HsiError, OutputError, ResourceError, SceneError
from hsi_train.landscape import Landscape, hash_cells
from hsi_train.materials import FIRST_NM, LAST_NM, MATERIALS, variants

Layout = Literal["tiff-band", "tiff-pixel", "tiff-striped", "bsq", "bil", "bip"]
DType = Literal["uint16", "int16", "float32"]
FloatArray = NDArray[np.float32]
Simulated = tuple[NDArray[Any], FloatArray, NDArray[np.bool_]]

DEFAULT_MATERIALS = (
    *("grass", "broadleaf", "conifer", "crop", "dry_vegetation"),
    *("bright_soil", "dark_soil", "water", "asphalt", "red_tile"),
)
NODATA: dict[DType, float] = {"uint16": 0, "int16": -32768, "float32": -9999}
ENVI_TYPES: dict[DType, int] = {"uint16": 12, "int16": 2, "float32": 4}
SCALE = 10_000  # of the integer types
CRS_EPSG, WEST_M, NORTH_M = 32633, 400_000.0, 5_800_000.0

SAMPLES = 3  # points per pixel side when materials mix
VARIANTS = 8  # spectra that stand for one material
# Share of a point's spectrum that varies from pixel to pixel; the rest is its field's.
PIXEL_SHARE = 0.55
CHUNK_PIXELS = 8192  # computed at once: the temporaries fit a core's cache
BLOCK = 128  # side of a TIFF tile, rows of a strip


class DomainShift(msgspec.Struct, frozen=True, kw_only=True):
    """Another sensor or sky: what makes a target scene differ from a source scene.

    With w the wavelength in nm, the scene holds, before noise,
    ``(gain + gain_slope * (w - 1000) / 1000) * reflectance(w + spectral_shift_nm)
    + offset + haze * (550 / w) ** 2``.

    Attributes:
        gain: Factor at 1000 nm.
        gain_slope: Change of the factor per micrometre.
        offset: Reflectance added in all bands.
        haze: Reflectance that scattering adds at 550 nm.
        spectral_shift_nm: How far the bands truly lie above their stated centres.
    """

    gain: float = 1.0
    gain_slope: float = 0.0
    offset: float = 0.0
    haze: float = 0.0
    spectral_shift_nm: float = 0.0


class SceneSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A scene to simulate; equal specs give equal scenes.

    Attributes:
        rows: Height in pixels.
        cols: Width in pixels.
        wavelengths_nm: Band centres, rising, within 350..2500.
        fwhm_nm: Width of all bands; None takes the spacing of the centres.
        seed: Of the landscape and the noise, 0..2**32 - 1.
        materials: Names from ``hsi_train.materials``; their order gives the codes 1..K.
        resolution_m: Side of a pixel on the ground.
        noise: Factor on the sensor's noise, 0 is none.
        mixing: Whether pixels mix materials; if not, a pixel is what its centre is.
        nodata_border: Whether slanted edges are empty, as in a rotated flight line.
        origin_row: Row of the landscape where the scene starts. Scenes of one seed that
            do not overlap are different places of the same landscape.
        dtype: Of the stored cube.
        shift: Difference from the usual sensor and sky.
    """

    rows: int
    cols: int
    wavelengths_nm: tuple[float, ...]
    fwhm_nm: float | None = None
    seed: int = 0
    materials: tuple[str, ...] = DEFAULT_MATERIALS
    resolution_m: float = 1.0
    noise: float = 1.0
    mixing: bool = True
    nodata_border: bool = False
    origin_row: int = 0
    dtype: DType = "uint16"
    shift: DomainShift | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        w = np.asarray(self.wavelengths_nm, dtype=np.float64)
        if not w.size or not (w[0] >= FIRST_NM and w[-1] <= LAST_NM):
            raise SceneError(
                f"The band centres must lie within {FIRST_NM:g}..{LAST_NM:g} nm and "
                "there must be at least one; change wavelengths_nm."
            )
        if not np.all(np.diff(w) > 0):
            raise SceneError("The band centres do not rise; sort wavelengths_nm.")
        unknown = sorted(set(self.materials) - set(MATERIALS))
        if unknown:
            raise SceneError(
                f"No material is named {', '.join(unknown)}; choose from "
                f"{', '.join(MATERIALS)}."
            )
        if not self.materials or len(set(self.materials)) < len(self.materials):
            raise SceneError("Name at least one material, and each only once.")
        if self.dtype not in NODATA:
            raise SceneError(f"dtype is {self.dtype!r}; choose from {list(NODATA)}.")
        for name, value, least in (
            ("rows", self.rows, 1),
            ("cols", self.cols, 1),
            ("origin_row", self.origin_row, 0),
            ("noise", self.noise, 0),
            ("seed", self.seed, 0),
        ):
            if not value >= least:
                raise SceneError(f"{name} is {value}; it must be at least {least}.")
        if self.seed >= 2**32:
            raise SceneError(f"seed is {self.seed}; it must be below 2**32.")
        for label, width in (("resolution_m", self.resolution_m), ("fwhm_nm", 1.0)):
            if not width > 0:
                raise SceneError(f"{label} is {width}; it must be above 0.")
        if self.fwhm_nm is not None and not self.fwhm_nm > 0:
            raise SceneError(f"fwhm_nm is {self.fwhm_nm}; it must be above 0.")


def band_centres(
    count: int, first_nm: float = 400.0, last_nm: float = 2500.0
) -> tuple[float, ...]:
    """Spread band centres evenly; both ends are centres."""
    return tuple(np.linspace(first_nm, last_nm, count).round(3).tolist())


def band_widths(spec: SceneSpec) -> tuple[float, ...]:
    """Return each band's full width at half maximum in nm."""
    w = np.asarray(spec.wavelengths_nm)
    if spec.fwhm_nm is not None or w.size == 1:
        return (spec.fwhm_nm or 10.0,) * w.size
    return tuple(np.gradient(w).round(3).tolist())


def class_names(spec: SceneSpec) -> dict[int, str]:
    """Name each code of the truth map."""
    return dict(enumerate(spec.materials, start=1))


def class_colors(spec: SceneSpec) -> dict[int, tuple[int, int, int]]:
    """Give each code of the truth map its red, green and blue."""
    return {code: MATERIALS[name].colour for code, name in class_names(spec).items()}


def library(spec: SceneSpec) -> FloatArray:
    """Compute the spectra as this sensor sees them: ``(material, variant, band)``."""
    shift = spec.shift or DomainShift()
    centres = np.asarray(spec.wavelengths_nm) + shift.spectral_shift_nm
    sigma = np.asarray(band_widths(spec)) / 2.3548
    # A Gaussian response sampled at seven points.
    steps = np.linspace(-2.1, 2.1, 7)
    weights = np.exp(-0.5 * steps**2)
    weights /= weights.sum()
    spectra = [
        sum(
            weight * variants(name, centres + step * sigma, VARIANTS)
            for step, weight in zip(steps, weights, strict=True)
        )
        for name in spec.materials
    ]
    return np.asarray(spectra, dtype=np.float32)


def noise_sigma(spec: SceneSpec) -> FloatArray:
    """Return the standard deviation of the sensor's noise as reflectance, per band."""
    w = np.asarray(spec.wavelengths_nm)
    worse = (
        1
        + 2.0 * np.exp((350 - w) / 60)
        + 2.0 * np.exp((w - 2500) / 120)
        + 12 * np.exp(-0.5 * np.square((w - 1385) / 28))
        + 16 * np.exp(-0.5 * np.square((w - 1880) / 40))
        + 1.0 * np.exp(-0.5 * np.square((w - 940) / 20))
    )
    return np.asarray(spec.noise * 0.004 * worse, dtype=np.float32)


class Sensor:
    """What is the same for every row of a scene, and the way from points to values."""

    def __init__(self, spec: SceneSpec) -> None:
        self.spec = spec
        self.landscape = Landscape(spec.seed, spec.materials)
        self.samples = SAMPLES if spec.mixing else 1
        self.unit = np.float32(1 if spec.dtype == "float32" else SCALE)
        shift = spec.shift or DomainShift()
        w = np.asarray(spec.wavelengths_nm)
        gain = shift.gain + shift.gain_slope * (w - 1000) / 1000
        spectra = library(spec).reshape(-1, w.size) * gain.astype(np.float32)
        self.spectra = np.ascontiguousarray(spectra.T * self.unit)
        added = shift.offset + shift.haze * np.square(550 / w)
        self.added = (added[:, None] * self.unit).astype(np.float32)
        self.sigma = noise_sigma(spec)[:, None] * self.unit

    def mix(self, row0: int, rows: int) -> tuple[FloatArray, FloatArray]:
        """Sum the points of each pixel, from the landscape's row ``row0`` on.

        Returns:
            The light on each variant of each material, ``(row, material * variant,
            col)``, and the abundances, ``(material, row, col)``.
        """
        spec, n = self.spec, self.samples
        count = len(spec.materials)
        size = spec.resolution_m / n
        y = (np.arange(row0 * n, (row0 + rows) * n) + 0.5) * size
        x = (np.arange(spec.cols * n) + 0.5) * size
        cover = self.landscape.cover(y, x)
        row = np.arange(rows * n) // n
        col = np.arange(spec.cols * n) // n
        pixel = row[:, None] * spec.cols + col[None, :]
        shape = (count, rows, spec.cols)
        abundances = np.bincount(
            (cover.material * (rows * spec.cols) + pixel).ravel(),
            minlength=count * rows * spec.cols,
        ).reshape(shape)

        # Two varieties meet in a point: one of its field, and one of its pixel, which
        # stands for what a field's spectrum leaves open.
        drawn = hash_cells(
            spec.seed, 20, row0 + np.arange(rows)[:, None], np.arange(spec.cols)[None]
        )
        own = (drawn[row][:, col] >> np.uint32(8)) % np.uint32(VARIANTS)
        shared = (cover.field >> np.uint32(11)) % np.uint32(VARIANTS)
        strength = (cover.field >> np.uint32(3)) & np.uint32(255)
        light = cover.light * (0.88 + strength.astype(np.float32) * np.float32(1e-3))
        light *= np.float32(1 / n**2)
        place = row[:, None] * (count * VARIANTS * spec.cols) + col[None, :]
        place = place + cover.material * (VARIANTS * spec.cols)
        lit = np.zeros(rows * count * VARIANTS * spec.cols)
        for variant, share in ((shared, 1 - PIXEL_SHARE), (own, PIXEL_SHARE)):
            where = place + variant.astype(np.intp) * spec.cols
            lit += np.bincount(
                where.ravel(), (light * np.float32(share)).ravel(), lit.size
            )
        mixed = lit.astype(np.float32).reshape(rows, count * VARIANTS, spec.cols)
        return mixed, (abundances * np.float32(1 / n**2)).astype(np.float32)

    def expose(self, row: int, mixed: FloatArray) -> FloatArray:
        """Turn ``(material * variant, col)`` of one row into values ``(band, col)``."""
        values = self.spectra @ mixed
        values += self.added
        if self.spec.noise:
            key = np.array([self.spec.seed, row], dtype=np.uint64)
            random = np.random.Generator(np.random.Philox(key=key))
            noise = random.standard_normal(values.shape, dtype=np.float32)
            noise *= self.sigma
            values += noise
        if self.spec.dtype != "float32":
            limits = np.iinfo(self.spec.dtype)
            np.rint(values, out=values)
            np.clip(values, limits.min + 1, limits.max, out=values)
        result: FloatArray = values
        return result

    def window(self, row0: int, rows: int) -> Simulated:
        """Simulate some of the scene's rows; see ``simulate_window``."""
        spec = self.spec
        cube = np.empty((len(spec.wavelengths_nm), rows, spec.cols), spec.dtype)
        abundances = np.empty((len(spec.materials), rows, spec.cols), np.float32)
        step = max(1, CHUNK_PIXELS // spec.cols)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            origin = spec.origin_row + row0 + first
            mixed, abundances[:, first : first + count] = self.mix(origin, count)
            for row in range(count):
                cube[:, first + row] = self.expose(origin + row, mixed[row])
        valid = valid_pixels(spec, row0, rows)
        if spec.nodata_border:
            cube[:, ~valid] = NODATA[spec.dtype]
        return cube, abundances, valid


def valid_pixels(spec: SceneSpec, row0: int, rows: int) -> NDArray[np.bool_]:
    """Mark the pixels inside the flight line, ``(row, col)``.

    With a border, the line leans: up to an eighth of the width is empty, on the left at
    the bottom and on the right at the top.
    """
    lean = spec.cols / 8 if spec.nodata_border else 0.0
    down = (np.arange(row0, row0 + rows)[:, None] + 0.5) / spec.rows
    col = np.arange(spec.cols)[None, :] + 0.5
    inside: NDArray[np.bool_] = (col > lean * down) & (
        col < spec.cols - lean * (1 - down)
    )
    return inside


def simulate_window(spec: SceneSpec, row0: int, rows: int) -> Simulated:
    """Simulate rows ``row0`` to ``row0 + rows`` of a scene.

    Returns:
        The cube as stored, ``(band, row, col)``; the true abundances, ``(material, row,
        col)``, also where the cube is empty; and which pixels are valid, ``(row,
        col)``.
    """
    if row0 < 0 or rows < 1 or row0 + rows > spec.rows:
        raise SceneError(
            f"Rows {row0} to {row0 + rows} were asked for, but the scene has rows 0 to "
            f"{spec.rows}; ask for rows inside it."
        )
    return Sensor(spec).window(row0, rows)


def truth_labels(
    abundances: FloatArray, valid: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Label each valid pixel by its largest abundance: codes 1..K, else 0."""
    codes = (abundances.argmax(axis=0) + 1).astype(np.uint8)
    codes[~valid] = 0
    return codes

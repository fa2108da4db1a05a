"""Turns the landscape into pixels as a sensor stores them.

A pixel row is computed from its coordinates alone, so the values do not depend on which
other rows are computed with it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_train.simulate.landscape import Landscape, hash_cells
from hsi_train.simulate.materials import variants
from hsi_train.simulate.shift import added, factor
from hsi_train.simulate.spec import NODATA, SCALE, DomainShift, SceneSpec, band_widths

FloatArray = NDArray[np.float32]
Simulated = tuple[NDArray[Any], FloatArray, NDArray[np.bool_]]

SAMPLES = 3  # points per pixel side when materials mix
VARIANTS = 8  # spectra that stand for one material
# Share of a point's spectrum that varies from pixel to pixel; the rest is its field's.
PIXEL_SHARE = 0.75
CHUNK_PIXELS = 8192  # computed at once: the temporaries fit a core's cache


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
    return np.asarray(spec.noise * 0.009 * worse, dtype=np.float32)


class Sensor:
    """What is the same for every row of a scene, and the way from points to values."""

    def __init__(self, spec: SceneSpec) -> None:
        self.spec = spec
        self.landscape = Landscape(spec.seed, spec.materials)
        self.samples = SAMPLES if spec.mixing else 1
        self.unit = np.float32(1 if spec.dtype == "float32" else SCALE)
        shift = spec.shift or DomainShift()
        w = np.asarray(spec.wavelengths_nm)
        spectra = library(spec).reshape(-1, w.size)
        spectra = spectra * factor(shift, w).astype(np.float32)
        self.spectra = np.ascontiguousarray(spectra.T * self.unit)
        self.added = (added(shift, w)[:, None] * self.unit).astype(np.float32)
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
        y = (np.arange(row0 * n, (row0 + rows) * n, dtype=np.float64) + 0.5) * size
        x = (np.arange(spec.cols * n, dtype=np.float64) + 0.5) * size
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
        light = cover.light * (0.95 + strength.astype(np.float32) * np.float32(4e-4))
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

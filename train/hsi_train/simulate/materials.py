"""Parametric reflectance spectra of land-cover materials.

The shapes follow what the public spectral libraries (ASTER, ECOSTRESS, USGS) show for
each material, written as sums of smooth terms; no library data is copied. Leaves follow
the idea of PROSPECT: pigments rule the visible, structure the near-infrared plateau,
and water absorbs as ``exp(-content * coefficient)`` at 970, 1200, 1450 and 1940 nm.

Every parameter has bounds, and one material is the whole range of spectra within them:
a lush and a mown meadow are both grass.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Parameters = Mapping[str, float]

FIRST_NM, LAST_NM = 350.0, 2500.0


class Material(NamedTuple):
    """One land-cover class.

    Attributes:
        colour: Red, green, blue of its class in a map, 0..255.
        shape: Maps wavelengths in nm and parameters to reflectance.
        bounds: Lowest and highest value of each parameter.
    """

    colour: tuple[int, int, int]
    shape: Callable[[FloatArray, Parameters], FloatArray]
    bounds: dict[str, tuple[float, float]]


def bump(w: FloatArray, centre_nm: float, width_nm: float) -> FloatArray:
    """Return a bell of height one; the width is its standard deviation."""
    return np.exp(-0.5 * np.square((w - centre_nm) / width_nm))


def step(w: FloatArray, centre_nm: float, width_nm: float) -> FloatArray:
    """Return a smooth step from zero to one."""
    return 1 / (1 + np.exp((centre_nm - w) / width_nm))


def rise(w: FloatArray, scale_nm: float) -> FloatArray:
    """Return a curve that starts at zero in the ultraviolet and saturates at one."""
    return 1 - np.exp((FIRST_NM - w) / scale_nm)


def liquid_water(w: FloatArray) -> FloatArray:
    """Return the absorption of water in tissue or soil, in arbitrary units."""
    return (
        0.06 * bump(w, 975, 28)
        + 0.15 * bump(w, 1190, 42)
        + 1.1 * bump(w, 1450, 55)
        + 1.7 * bump(w, 1940, 70)
        + 0.45 * step(w, 1400, 60)
        + 0.6 * step(w, 2480, 110)
    )


def vegetation(w: FloatArray, p: Parameters) -> FloatArray:
    """Green leaves mixed with straw.

    Parameters are ``chlorophyll`` (0..1, more is darker and moves the red edge to
    longer wavelengths), ``nir`` (plateau), ``water`` and ``dry`` (share of straw).
    """
    pale = 1 - p["chlorophyll"]
    visible = 0.025 + 0.025 * pale + (0.04 + 0.07 * pale) * bump(w, 552, 36)
    edge = step(w, 720 - 14 * pale, 11)
    leaf = visible * (1 - edge) + p["nir"] * edge
    leaf = leaf * np.exp(-p["water"] * liquid_water(w))
    return (1 - p["dry"]) * leaf + p["dry"] * straw(w)


def straw(w: FloatArray) -> FloatArray:
    """Dead leaves and stalks: rising, with cellulose at 2100 and lignin at 2310 nm."""
    base = 0.06 + 0.42 * rise(w, 420)
    cellulose = 1 - 0.16 * bump(w, 2100, 55) - 0.12 * bump(w, 2310, 40)
    return base * cellulose * np.exp(-0.2 * liquid_water(w))


def dry_vegetation(w: FloatArray, p: Parameters) -> FloatArray:
    """Straw with a rest of ``green`` and soil showing through, times ``brightness``."""
    green = {"chlorophyll": 0.4, "nir": 0.42, "water": 0.7, "dry": 0.0}
    mixed = (1 - p["green"]) * straw(w) + p["green"] * vegetation(w, green)
    return p["brightness"] * mixed


def soil(w: FloatArray, p: Parameters) -> FloatArray:
    """Mineral soil or sand.

    Parameters are ``brightness`` (plateau), ``slope_nm`` (how slowly it rises),
    ``iron`` (500 and 880 nm), ``clay`` (2205 nm) and ``moisture`` (darkens, and water).
    """
    base = p["brightness"] * (0.22 + 0.78 * rise(w, p["slope_nm"]))
    iron = 1 - p["iron"] * (0.4 * bump(w, 490, 60) + 0.12 * bump(w, 880, 65))
    clay = 1 - p["clay"] * (0.18 * bump(w, 2205, 22) + 0.08 * bump(w, 1410, 22))
    wet = (1 - 0.4 * p["moisture"]) * np.exp(-0.6 * p["moisture"] * liquid_water(w))
    return base * iron * clay * wet


def water(w: FloatArray, p: Parameters) -> FloatArray:
    """Open water: blue to green with ``turbidity``; only ``glint`` beyond 900 nm."""
    turbid = p["turbidity"]
    clear = 0.045 * (1 - 0.5 * turbid) * bump(w, 470, 60)
    algae = (0.012 + 0.06 * turbid) * bump(w, 560, 50)
    sediment = 0.03 * turbid * bump(w, 690, 60)
    return clear + algae + sediment + p["glint"]


def asphalt(w: FloatArray, p: Parameters) -> FloatArray:
    """Dark and gently rising; ``age`` bleaches it, hydrocarbons absorb at 2310 nm."""
    base = 0.07 + 0.09 * p["age"] + (0.03 + 0.09 * p["age"]) * rise(w, 700)
    return base * (1 - 0.06 * (1 - p["age"]) * bump(w, 2310, 30))


def concrete(w: FloatArray, p: Parameters) -> FloatArray:
    """Steep, flat from 600 nm; ``carbonate`` absorbs at 2340 nm, ``dirt`` darkens."""
    base = p["brightness"] * (0.45 + 0.55 * rise(w, 160))
    lines = 1 - p["carbonate"] * (0.16 * bump(w, 2340, 38) + 0.06 * bump(w, 1420, 40))
    return base * lines * (1 - p["dirt"] * (0.2 + 0.1 * bump(w, 480, 90)))


def red_tile(w: FloatArray, p: Parameters) -> FloatArray:
    """Fired clay: haematite's edge near 580 nm and its band at 870 nm."""
    base = 0.06 + 0.08 * p["weathering"]
    top = p["brightness"] * (0.7 + 0.3 * rise(w, 900)) * step(w, 585, 22)
    return base + top * (1 - 0.14 * bump(w, 870, 70)) * (1 - 0.08 * bump(w, 1930, 60))


def metal_roof(w: FloatArray, p: Parameters) -> FloatArray:
    """Coated sheet: bright, nearly flat, ``tilt`` per micrometre, a binder's bands."""
    base = p["brightness"] * (1 + p["tilt"] * (w - 1000) / 1000)
    binder = 1 - 0.05 * bump(w, 1720, 30) - 0.12 * bump(w, 2310, 45)
    return base * step(w, 385, 18) * binder


def shade(w: FloatArray, p: Parameters) -> FloatArray:
    """Ground that only the sky lights: dark, bluish; ``ground`` is its reflectance."""
    sky = 0.05 + 0.2 * np.square(450 / w)
    return p["ground"] * sky * (0.5 + 0.5 * rise(w, 500))


def leaves(
    chlorophyll: tuple[float, float],
    nir: tuple[float, float],
    content: tuple[float, float],
    dry: tuple[float, float],
) -> dict[str, tuple[float, float]]:
    """Name the bounds of a plant's parameters."""
    return {"chlorophyll": chlorophyll, "nir": nir, "water": content, "dry": dry}


MATERIALS: dict[str, Material] = {
    "grass": Material(
        (124, 190, 80),
        vegetation,
        leaves((0.25, 0.85), (0.34, 0.46), (0.45, 0.9), (0.0, 0.25)),
    ),
    "broadleaf": Material(
        (34, 120, 50),
        vegetation,
        leaves((0.5, 0.95), (0.38, 0.54), (0.65, 1.1), (0.0, 0.12)),
    ),
    "conifer": Material(
        (12, 70, 56),
        vegetation,
        leaves((0.75, 1.0), (0.2, 0.34), (0.9, 1.35), (0.0, 0.12)),
    ),
    "crop": Material(
        (200, 220, 60),
        vegetation,
        leaves((0.3, 0.9), (0.45, 0.64), (0.55, 1.0), (0.0, 0.15)),
    ),
    "dry_vegetation": Material(
        (222, 190, 110),
        dry_vegetation,
        {"green": (0.0, 0.3), "brightness": (0.65, 1.0)},
    ),
    "bright_soil": Material(
        (190, 140, 90),
        soil,
        {
            "brightness": (0.42, 0.55),
            "slope_nm": (500, 850),
            "iron": (0.3, 1.0),
            "clay": (0.3, 1.0),
            "moisture": (0.0, 0.4),
        },
    ),
    "dark_soil": Material(
        (105, 75, 55),
        soil,
        {
            "brightness": (0.18, 0.32),
            "slope_nm": (800, 1300),
            "iron": (0.1, 0.6),
            "clay": (0.2, 0.9),
            "moisture": (0.2, 0.9),
        },
    ),
    "sand": Material(
        (245, 232, 160),
        soil,
        {
            "brightness": (0.5, 0.68),
            "slope_nm": (260, 420),
            "iron": (0.05, 0.35),
            "clay": (0.0, 0.2),
            "moisture": (0.0, 0.4),
        },
    ),
    "water": Material(
        (40, 95, 190), water, {"turbidity": (0.0, 0.8), "glint": (0.004, 0.02)}
    ),
    "asphalt": Material((80, 80, 88), asphalt, {"age": (0.0, 1.0)}),
    "concrete": Material(
        (185, 185, 190),
        concrete,
        {"brightness": (0.28, 0.46), "carbonate": (0.2, 1.0), "dirt": (0.0, 0.8)},
    ),
    "red_tile": Material(
        (200, 70, 45),
        red_tile,
        {"brightness": (0.22, 0.38), "weathering": (0.0, 1.0)},
    ),
    "metal_roof": Material(
        (140, 190, 220), metal_roof, {"brightness": (0.3, 0.6), "tilt": (-0.15, 0.15)}
    ),
    "shade": Material((40, 36, 52), shade, {"ground": (0.2, 0.6)}),
}


def reflectance(
    name: str, wavelengths_nm: Sequence[float] | FloatArray, parameters: Parameters
) -> FloatArray:
    """Compute one spectrum.

    Args:
        name: A key of ``MATERIALS``.
        wavelengths_nm: Wavelengths; those outside 350..2500 nm count as its ends.
        parameters: A value for each key of the material's ``bounds``.

    Returns:
        Reflectance per wavelength, 0..1.
    """
    w = np.clip(np.asarray(wavelengths_nm, dtype=np.float64), FIRST_NM, LAST_NM)
    return np.clip(MATERIALS[name].shape(w, parameters), 0.0, 1.0)


def variants(
    name: str, wavelengths_nm: Sequence[float] | FloatArray, count: int
) -> FloatArray:
    """Spread spectra over a material's range: ``(variant, band)``.

    A Latin hypercube, so that each parameter takes ``count`` evenly spaced values; the
    same for every scene, so that all scenes show the same materials.
    """
    bounds = MATERIALS[name].bounds
    random = np.random.default_rng(zlib.crc32(name.encode()))
    columns = {
        key: low + (high - low) * (random.permutation(count) + 0.5) / count
        for key, (low, high) in bounds.items()
    }
    return np.stack(
        [
            reflectance(
                name, wavelengths_nm, {key: float(v[i]) for key, v in columns.items()}
            )
            for i in range(count)
        ]
    )

"""Describes a scene to simulate, and derives what depends on that alone."""

from typing import Literal

import msgspec
import numpy as np

from hsi_runtime.errors import SceneError
from hsi_train.simulate.materials import FIRST_NM, LAST_NM, MATERIALS

DType = Literal["uint16", "int16", "float32"]

DEFAULT_MATERIALS = (
    *("grass", "broadleaf", "conifer", "crop", "dry_vegetation"),
    *("bright_soil", "dark_soil", "water", "asphalt", "red_tile"),
)
NODATA: dict[DType, float] = {"uint16": 0, "int16": -32768, "float32": -9999}
MAX_BANDS = 65_535  # of a TIFF
MAX_SIDE = 2**31 - 1  # of a raster of GDAL
SCALE = 10_000  # the integer types hold reflectance times this


class DomainShift(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
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
        fwhm_nm: Width of all bands, or of each; None takes the spacing of the centres.
        seed: Seed of the landscape and the noise, 0..2**32 - 1.
        materials: Names from `materials`; their order gives the codes 1..K.
        resolution_m: Side of a pixel on the ground.
        noise: Factor on the sensor's noise, 0 is none.
        mixing: Whether pixels mix materials; if not, a pixel is what its centre is.
        nodata_border: Whether slanted edges are empty, as in a rotated flight line.
        origin_row: Row of the landscape where the scene starts. Scenes of one seed that
            do not overlap are different places of the same landscape.
        dtype: Type of the stored cube.
        shift: Difference from the usual sensor and sky.
    """

    rows: int
    cols: int
    wavelengths_nm: tuple[float, ...]
    fwhm_nm: float | tuple[float, ...] | None = None
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
            if value > MAX_SIDE and name != "seed":
                raise SceneError(f"{name} is {value}; it must be at most {MAX_SIDE}.")
        if self.seed >= 2**32:
            raise SceneError(f"seed is {self.seed}; it must be below 2**32.")
        for label, width in [
            ("resolution_m", self.resolution_m),
            *(("fwhm_nm", width) for width in _listed(self.fwhm_nm)),
        ]:
            if not 0 < width < np.inf:
                raise SceneError(f"{label} is {width}; it must be above 0, and finite.")
        if isinstance(self.fwhm_nm, tuple) and len(self.fwhm_nm) != w.size:
            raise SceneError(
                f"fwhm_nm has {len(self.fwhm_nm)} widths for {w.size} bands; give one "
                "for each, or one for all."
            )
        if (
            self.shift is not None
            and not np.isfinite(msgspec.structs.astuple(self.shift)).all()
        ):
            raise SceneError(f"shift is {self.shift}; its numbers must be finite.")


def _listed(widths: float | tuple[float, ...] | None) -> tuple[float, ...]:
    if widths is None:
        return ()
    return widths if isinstance(widths, tuple) else (widths,)


def band_centres(
    count: int, first_nm: float = 400.0, last_nm: float = 2500.0
) -> tuple[float, ...]:
    """Spread band centres evenly; both ends are centres."""
    if not 1 <= count <= MAX_BANDS:
        raise SceneError(
            f"{count} bands were asked for; ask for 1 to {MAX_BANDS}, the most that a "
            "TIFF holds."
        )
    return tuple(np.linspace(first_nm, last_nm, count).round(3).tolist())


def band_widths(spec: SceneSpec) -> tuple[float, ...]:
    """Return each band's full width at half maximum in nm."""
    w = np.asarray(spec.wavelengths_nm)
    if isinstance(spec.fwhm_nm, tuple):
        return spec.fwhm_nm
    if spec.fwhm_nm is not None or w.size == 1:
        return (spec.fwhm_nm or 10.0,) * w.size
    return tuple(np.gradient(w).round(3).tolist())


def class_names(spec: SceneSpec) -> dict[int, str]:
    """Name each code of the truth map."""
    return dict(enumerate(spec.materials, start=1))


def class_colors(spec: SceneSpec) -> dict[int, tuple[int, int, int]]:
    """Give each code of the truth map its red, green and blue."""
    return {code: MATERIALS[name].colour for code, name in class_names(spec).items()}

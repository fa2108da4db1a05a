"""Matches the bands of a scene to those of a model, by wavelength or by position."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import BandMismatchError
from hsi_runtime.matching import resample
from hsi_runtime.scenes.scene import SceneInfo
from hsi_runtime.scenes.wavelengths import Wavelengths

TOLERANCE_NM = 2.0  # a recalibrated sensor moves by less, its next band is farther


@dataclass(frozen=True)
class BandMatch:
    """The bands of a scene that are fed to a model.

    Attributes:
        indices: 0-based bands of the scene to read, shape ``(band,)``; in the model's
            order, unless they are resampled.
        warnings: Sentences the user should read.
        resampling: Weights that turn these bands into the model's bands, shape
            ``(model band, band)``; None where they are the model's bands.
    """

    indices: NDArray[np.intp]
    warnings: tuple[str, ...] = ()
    resampling: NDArray[np.float32] | None = None

    @property
    def method(self) -> str:
        """Name how the model's bands were made: matched or resampled."""
        return "resampled" if self.resampling is not None else "matched"


def match_bands(
    info: SceneInfo,
    model_wavelengths_nm: Sequence[float] | None,
    source_count: int,
    source_used: Sequence[int],
    model_fwhm_nm: Sequence[float] | None = None,
    tolerance_nm: float = TOLERANCE_NM,
) -> BandMatch:
    """Find the model's bands in a scene: by wavelength, else by an equal count.

    Where centres differ by more than the tolerance, but the scene covers every band of
    the model, its spectra are resampled, and a warning says so.

    Args:
        info: The scene.
        model_wavelengths_nm: Centres of the bands the model needs, or None.
        source_count: Bands of the scene the model was trained on.
        source_used: Those of them that the model needs, 0-based.
        model_fwhm_nm: Widths of the bands the model needs, or None.
        tolerance_nm: Largest accepted distance between two centres.

    Raises:
        BandMismatchError: The scene lacks a band, or cannot be matched at all.
    """
    if model_wavelengths_nm is not None and info.wavelengths_nm is not None:
        widths = None if model_fwhm_nm is None else np.array(model_fwhm_nm, float)
        return _by_wavelength(
            info, np.array(model_wavelengths_nm, float), widths, tolerance_nm
        )
    lacks = "The scene" if info.wavelengths_nm is None else "The model"
    if info.bands == source_count:
        indices = np.asarray(source_used, dtype=np.intp)
    elif info.bands == len(source_used):
        indices = np.arange(info.bands)
    else:
        raise BandMismatchError(
            f"{lacks} has no wavelengths, and the band counts differ: "
            f"{info.path.name} has {info.bands} bands, the model was trained on "
            f"{source_count} and uses {len(source_used)} of them. "
            "Add wavelengths to the scene, or select the bands."
        )
    return BandMatch(
        indices,
        (
            f"{lacks} has no wavelengths: {len(indices)} bands are matched by their "
            "position only.",
        ),
    )


def _by_wavelength(
    info: SceneInfo,
    requested: Wavelengths,
    widths: Wavelengths | None,
    tolerance: float,
) -> BandMatch:
    assert info.wavelengths_nm is not None
    distance = np.abs(info.wavelengths_nm[None, :] - requested[:, None])
    usable = np.where(info.good[None, :], distance, np.inf)  # (model, scene)
    indices = usable.argmin(axis=1)
    matched = usable.min(axis=1) <= tolerance
    if not matched.all():
        table, covered = resample.weights(
            info.wavelengths_nm, info.good, requested, widths
        )
        if not covered.all():
            raise _missing(info, requested, distance, (matched, covered), tolerance)
        return _resampled(info, table, int(matched.sum()), tolerance)
    if len(np.unique(indices)) < len(indices):
        # Bands of overlapping spectrometers lie closer than a recalibration moves.
        indices = _assign(info, requested, usable, tolerance)
        return BandMatch(indices)
    return BandMatch(indices, _ambiguous(info, indices))


def _ambiguous(info: SceneInfo, indices: NDArray[np.intp]) -> tuple[str, ...]:
    """Warn where a scene has another band of the wavelength of one that is used."""
    assert info.wavelengths_nm is not None
    centres = np.where(info.good, info.wavelengths_nm, np.nan)
    alike = centres[None, :] == centres[indices][:, None]
    twice = np.flatnonzero(alike.sum(axis=1) > 1)
    if not len(twice):
        return ()
    first, second = np.flatnonzero(alike[twice[0]])[:2] + 1
    return (
        f"{info.path.name} has several bands of one wavelength, such as {first} and "
        f"{second} of {centres[first - 1]:g} nm; the first is used. If the others are "
        "no copies of it, leave one in the file.",
    )


def _resampled(
    info: SceneInfo, table: resample.Weights, matched: int, tolerance: float
) -> BandMatch:
    """Match through weights that cover every band of the model."""
    used = np.flatnonzero(table.any(axis=0))
    warning = (
        f"{info.path.name} is resampled: {matched} of the model's {len(table)} bands "
        f"match within {tolerance:g} nm; {len(used)} bands of the scene are weighed."
    )
    return BandMatch(used, (warning,), table[:, used])


def _missing(
    info: SceneInfo,
    requested: Wavelengths,
    distance: Wavelengths,
    available: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    tolerance: float,
) -> BandMismatchError:
    """Name the model's bands that are neither matched nor covered by neighbours.

    Args:
        info: The scene.
        requested: Centres of the model's bands.
        distance: Distance of each pair of centres, ``(model, scene)``.
        available: Which model bands are matched, and which could be resampled.
        tolerance: Largest accepted distance.
    """
    assert info.wavelengths_nm is not None
    matched, covered = available
    missing = requested[~matched & ~covered]
    shown = ", ".join(f"{nm:.1f}" for nm in missing[:5])
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    bad = int(((distance.min(axis=1) <= tolerance) & ~matched).sum())
    marked = f" ({bad} of them are there but marked bad)" if bad else ""
    return BandMismatchError(
        f"The model needs {len(requested)} bands from {requested.min():.1f} to "
        f"{requested.max():.1f} nm; {info.path.name} has {info.bands} bands from "
        f"{info.wavelengths_nm.min():.1f} to {info.wavelengths_nm.max():.1f} nm, "
        f"and only {int(matched.sum())} match within {tolerance:g} nm. "
        f"Missing: {shown}{more} nm{marked}, and the neighbours are too far apart "
        "to resample. Use a scene that covers the model's bands."
    )


def _assign(
    info: SceneInfo, requested: Wavelengths, usable: Wavelengths, tolerance: float
) -> NDArray[np.intp]:
    """Give every model band a scene band of its own, at the least sum of squares.

    Along both sorted axes such an assignment never crosses, so that bands which moved
    together keep their order.

    Args:
        info: The scene.
        requested: Centres of the model's bands.
        usable: Distance of each pair, infinite for a bad band, ``(model, scene)``.
        tolerance: Largest accepted distance.
    """
    assert info.wavelengths_nm is not None
    rows = np.argsort(requested, kind="stable")
    cols = np.argsort(info.wavelengths_nm, kind="stable")
    sorted_pairs = usable[rows][:, cols]
    costs = np.where(sorted_pairs <= tolerance, sorted_pairs**2, np.inf)
    # totals[m, s]: the first m model bands in the first s scene bands.
    totals = np.full((len(rows) + 1, len(cols) + 1), np.inf)
    totals[0] = 0
    for m, cost in enumerate(costs):
        totals[m + 1, 1:] = np.minimum.accumulate(totals[m, :-1] + cost)
    if not np.isfinite(totals[-1, -1]):
        raise BandMismatchError(
            f"Some of the model's {len(requested)} bands share a band of "
            f"{info.path.name}, which has {info.bands}: no scene band of their own "
            f"lies within {tolerance:g} nm. The scene's bands are coarser than the "
            "model's; use a scene of the same sensor."
        )
    indices = np.empty(len(rows), dtype=np.intp)
    s = len(cols)
    for m in range(len(rows), 0, -1):
        s = int(np.argmax(totals[m, : s + 1] == totals[m, s]))  # where it was reached
        indices[rows[m - 1]] = cols[s - 1]
        s -= 1
    return indices

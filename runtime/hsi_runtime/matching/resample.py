"""Resamples a scene's spectra to the band centres of a model."""

import numpy as np
from numpy.typing import NDArray

Wavelengths = NDArray[np.float64]
Weights = NDArray[np.float32]  # (model band, scene band)

# A model band lies between two scene bands no farther apart than so many of its widths;
# so a band that is missing in the same sensor is not made up from its neighbours.
MAX_GAP = 1.5
FWHM_TO_SIGMA = 1 / 2.3548


def spacing(centres: Wavelengths) -> Wavelengths:
    """Distance of each centre to its nearest neighbour, nm; NaN is no neighbour."""
    if len(centres) < 2:
        return np.full(len(centres), np.inf)
    order = np.argsort(centres)
    gaps = np.diff(centres[order])
    nearest = np.fmin(np.append(gaps, np.inf), np.insert(gaps, 0, np.inf))
    out = np.empty(len(centres))
    out[order] = nearest
    return out


def weights(
    have: Wavelengths,
    usable: NDArray[np.bool_],
    requested: Wavelengths,
    widths: Wavelengths | None,
) -> tuple[Weights, NDArray[np.bool_]]:
    """Weigh scene bands so that they stand for model bands.

    Where the scene is finer than the model, its bands are averaged with the model
    band's Gaussian response; elsewhere the two neighbours are interpolated linearly.

    Args:
        have: Centres of the scene, nm.
        usable: False for bad bands.
        requested: Centres of the model, nm.
        widths: Full widths at half maximum of the model's bands, nm; None takes their
            spacing.

    Returns:
        Weights, rows adding up to one, shape ``(model band, scene band)``; and which
        model bands the scene covers. Rows of others are zero.
    """
    apart = spacing(requested)
    apart[np.isinf(apart)] = 0  # one band alone says nothing of its width
    fwhm = apart if widths is None else widths
    reach = MAX_GAP * np.maximum(fwhm, apart)
    table = np.zeros((len(requested), len(have)), dtype=np.float32)
    covered = np.zeros(len(requested), dtype=bool)
    places = np.flatnonzero(usable)
    places = places[np.argsort(have[places])]
    centres = have[places]
    for row, (centre, width) in enumerate(zip(requested, fwhm, strict=True)):
        right = int(np.searchsorted(centres, centre))
        left = right - 1
        if right < len(centres) and centres[right] == centre:
            left = right
        if left < 0 or right >= len(centres):
            continue
        gap = centres[right] - centres[left]
        if gap > reach[row]:
            continue
        covered[row] = True
        inside = np.abs(centres - centre) <= width / 2
        if inside.sum() >= 3:
            near = np.abs(centres - centre) <= 1.5 * width
            bell = np.exp(
                -0.5 * ((centres[near] - centre) / (width * FWHM_TO_SIGMA)) ** 2
            )
            table[row, places[near]] = bell / bell.sum()
        elif gap == 0:
            table[row, places[left]] = 1
        else:
            share = (centre - centres[left]) / gap
            table[row, places[left]] = 1 - share
            table[row, places[right]] = share
    return table, covered

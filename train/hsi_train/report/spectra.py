"""Mean spectra of the classes, with their spread, over a spectral axis with gaps."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from hsi_runtime.model.plain_text import plain
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.report.html import (
    Safe,
    figure,
    grid,
    joined,
    named,
    paragraph,
    svg,
    text,
)

GAP = 3.0  # a line is broken where bands are more median steps apart
FEW_BANDS = 40  # up to so many, each band is marked
SPIKE = 5  # bands; spikes that its running median removes do not stretch an axis
ROWS_AT_ONCE = 64  # of a scene, while spectra are summed up
INK = "#1f2328"
PANEL = (0.19, 0.205, 0.76, 0.71)  # left, bottom, width and height of a plot


@dataclass(frozen=True)
class SpectralAxis:
    """Positions of the bands on a plot.

    Attributes:
        places: Sorted wavelengths in nm, or band numbers, and NaN in each gap.
        label: Label of the axis, with unit.
        order: Band of each place that is not a gap.
        broken: Indices into ``order`` that follow a gap.
    """

    places: NDArray[np.float64]
    label: str
    order: NDArray[np.intp]
    broken: NDArray[np.intp]

    def values(self, spectrum: NDArray[np.floating]) -> NDArray[np.float64]:
        """Bring a spectrum ``(band,)`` to the places, NaN in each gap."""
        return np.insert(spectrum[self.order].astype(np.float64), self.broken, np.nan)

    def marks(self) -> list[int]:
        """List the places to mark: all if they are few, else those without a line."""
        known = np.isfinite(self.places)
        if known.sum() <= FEW_BANDS:
            return [int(n) for n in np.flatnonzero(known)]
        lone = known & ~np.append(known[1:], False) & ~np.append(False, known[:-1])
        return [int(n) for n in np.flatnonzero(lone)]


class Spectra(NamedTuple):
    """Statistics of pixels in stored units.

    Attributes:
        mean: Shape ``(class, band)``, NaN for a class without pixels.
        std: Shape ``(class, band)``.
        pixels: Number of pixels, shape ``(class,)``.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    pixels: NDArray[np.int64]


def spectral_axis(data: LabelledData) -> SpectralAxis:
    """Place the used bands by wavelength, or by number if there are none."""
    centres = data.reference.wavelengths_nm
    if centres is None:
        places, label = data.bands.astype(np.float64) + 1, "band of the scene"
    else:
        places, label = centres[data.bands], "wavelength [nm]"
    order = np.argsort(places, kind="stable")  # spectrometers may overlap
    steps = np.diff(places[order])
    usual = np.median(steps) if len(steps) else 0.0
    broken = np.flatnonzero(steps > GAP * usual) + 1
    return SpectralAxis(
        places=np.insert(places[order], broken, np.nan),
        label=label,
        order=order,
        broken=broken,
    )


def class_spectra(
    data: LabelledData,
    role: Role,
    centre: NDArray[np.float64],
) -> Spectra:
    """Measure each class over the pixels of one role.

    Args:
        data: Scenes and classes.
        role: Role of the pixels.
        centre: Rough mean, shape ``(band,)``: sums of squares far from it lose digits.
    """
    classes = len(data.classes)
    count = np.zeros(classes, dtype=np.int64)
    total = np.zeros((classes, len(centre)))
    squares = np.zeros_like(total)
    for scene in data.scenes:
        for top in range(0, len(scene.roles), ROWS_AT_ONCE):
            rows = slice(top, top + ROWS_AT_ONCE)
            chosen = scene.roles[rows] == role
            spectra = scene.cube[:, rows][:, chosen].T - centre  # (pixel, band)
            members = np.eye(classes)[:, scene.classes[rows][chosen]]  # (class, pixel)
            count += members.sum(axis=1).astype(np.int64)
            total += members @ spectra
            squares += members @ spectra**2
    divisor = np.where(count, count, np.nan)[:, None]
    mean = total / divisor
    std = np.sqrt(np.maximum(squares / divisor - mean**2, 0))
    return Spectra(mean + centre, std, count)


def spectra_section(
    data: LabelledData,
    centre: NDArray[np.float64],
    quantity: str,
    scale: list[float] | None,
) -> Safe:
    """Draw a panel for each class, all on the same axes.

    Args:
        data: Scenes and classes.
        centre: Mean of the training pixels, shape ``(band,)``.
        quantity: Quantity of the values, such as reflectance.
        scale: Quantity = stored value * scale, per band; None where not declared.
    """
    train = class_spectra(data, Role.TRAIN, centre)
    test = class_spectra(data, Role.TEST, centre)
    axis = spectral_axis(data)
    unit = "value" if quantity == "unknown" else plain(quantity)
    drawn_values = [train.mean - train.std, train.mean + train.std, test.mean]
    limits, cut = value_limits(np.concatenate(drawn_values)[:, axis.order])
    panels = []
    for k, info in enumerate(data.classes):
        drawn = draw_spectrum(
            axis,
            mean=train.mean[k],
            std=train.std[k],
            test=test.mean[k],
            color=info.color,
            limits=limits,
            unit=f"{unit}, as stored",
        )
        pixels = f": {train.pixels[k]:,} training, {test.pixels[k]:,} test {data.units}"
        caption = Safe(named(info) + text(pixels))
        alt = f"Mean spectrum of class {info.name}"
        panels.append(figure(svg(drawn), alt, caption))
    note = (
        f"Line: mean of the training {data.units}; shade: one standard deviation to "
        f"each side; dashed: mean of the test {data.units}. All panels share their "
        "axes; lines break where bands are missing."
    )
    if cut:
        note += " Spikes of one or two bands reach beyond them."
    if scale is not None and len(set(scale)) == 1 and quantity != "unknown":
        note += f" {quantity.capitalize()} is the stored value times {scale[0]:g}."
    return joined(paragraph(note), grid(panels, 1, 3))


def value_limits(values: NDArray[np.float64]) -> tuple[tuple[float, float], bool]:
    """Choose the limits of an axis, which one or two extreme bands do not stretch.

    Args:
        values: Values of each line, shape ``(line, band)``, bands in order; NaN where
            there is none.

    Returns:
        The ends of the axis, and whether they leave any value out.
    """
    values = values[np.isfinite(values).all(axis=1)]
    calm = values
    if values.shape[1] > FEW_BANDS:
        calm = ndimage.median_filter(values, (1, SPIKE), mode="nearest")
    margin = 0.08 * (calm.max() - calm.min()) or 1.0
    low, high = float(calm.min() - margin), float(calm.max() + margin)
    return (low, high), bool(values.min() < low or values.max() > high)


def draw_spectrum(
    axis: SpectralAxis,
    mean: NDArray[np.float64],
    std: NDArray[np.float64],
    test: NDArray[np.float64],
    color: str,
    limits: tuple[float, float],
    unit: str,
) -> Figure:
    """Plot one class; all spectra have the shape ``(band,)``."""
    drawn, plot = spectral_plot(axis, unit)
    middle, spread = axis.values(mean), axis.values(std)
    plot.fill_between(
        axis.places, middle - spread, middle + spread, color=color, alpha=0.55, lw=0.5
    )
    plot.plot(
        axis.places, middle, color=INK, lw=1.2, marker=".", ms=3, markevery=axis.marks()
    )
    plot.plot(axis.places, axis.values(test), color=INK, lw=0.9, ls=(0, (4, 2)))
    plot.set_ylim(limits)
    return drawn


def spectral_plot(axis: SpectralAxis, unit: str) -> tuple[Figure, Axes]:
    """Open a small plot over the spectral axis."""
    drawn = Figure(figsize=(3.4, 2.2))
    plot = drawn.add_axes(PANEL)
    plot.ticklabel_format(axis="y", scilimits=(-2, 5))
    plot.set_xlabel(axis.label)
    plot.set_ylabel(unit)
    low, high = np.nanmin(axis.places), np.nanmax(axis.places)
    margin = 0.02 * (high - low) or 1.0
    plot.set_xlim(low - margin, high + margin)
    return drawn, plot

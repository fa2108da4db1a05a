"""Draws what a method that unmixes has learnt: endmembers and abundance maps."""

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hsi_runtime.model_file import ABUNDANCES
from hsi_train.labelled_scene import LabelledData, LabelledScene
from hsi_train.method import BaseMethod
from hsi_train.patches import Statistics
from hsi_train.predict import output_maps

MAX_SCENES = 2  # whose abundances are drawn
MAX_PIXELS = 500_000  # of a scene that is drawn
COLUMNS = 6  # maps side by side
GAP = 3.0  # a line is broken where bands are so many usual steps apart


def figures(
    method: BaseMethod, data: LabelledData, statistics: Statistics, device: torch.device
) -> list[Figure]:
    """Draw the endmembers and the abundances of the first scenes.

    Args:
        method: One with abundances, in evaluation mode.
        data: Scenes and classes.
        statistics: Of the training pixels.
        device: Where the method lives.
    """
    spectra = method.endmembers()
    assert spectra is not None
    drawn = [draw_endmembers(spectra.cpu().numpy(), data)]
    small = [s for s in data.scenes if s.valid.size <= MAX_PIXELS]
    for scene in small[:MAX_SCENES]:
        maps = output_maps(
            method, ABUNDANCES, scene, scene.valid, statistics.mean, device
        )
        drawn.append(draw_abundances(maps, scene, data))
    return drawn


def draw_endmembers(spectra: NDArray[np.float32], data: LabelledData) -> Figure:
    """Plot spectra ``(endmember, band)`` over wavelength, or over the band number."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    axis = figure.subplots()
    centres = data.reference.wavelengths_nm
    if centres is None:
        places = data.bands.astype(float) + 1
        axis.set_xlabel("band of the scene")
    else:
        places = centres[data.bands]
        axis.set_xlabel("wavelength [nm]")
    order = np.argsort(places, kind="stable")  # spectrometers may overlap
    places, spectra = places[order], spectra[:, order]
    steps = np.diff(places)
    usual = np.median(steps) if len(steps) else 0.0
    broken = np.flatnonzero(steps > GAP * usual) + 1
    places = np.insert(places, broken, np.nan)
    for info, spectrum in zip(data.classes, spectra, strict=True):
        line = np.insert(spectrum, broken, np.nan)
        axis.plot(places, line, ".-", color=info.color, lw=1.6, ms=3, label=info.name)
    axis.set_ylabel("endmember, peak = 1")
    axis.set_ylim(0, 1.05)
    axis.grid(color="#dddddd", lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    return figure


def draw_abundances(
    maps: NDArray[np.float32], scene: LabelledScene, data: LabelledData
) -> Figure:
    """Draw ``(endmember, row, col)`` as a map for each class, white to its colour."""
    count, rows, cols = maps.shape
    columns = min(count, COLUMNS)
    lines = -(-count // columns)
    width = 12 / columns
    height = width * max(0.4, min(rows / cols, 2)) + 0.3
    figure = Figure(figsize=(12, lines * height + 0.4), layout="constrained")
    title = f"{scene.info.path.name}: abundances, from 0 (grey) to 1 (full colour)"
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, info, shares in zip(axes[:count], data.classes, maps, strict=True):
        colors = LinearSegmentedColormap.from_list("share", ["#f4f4f4", info.color])
        shown = np.where(scene.valid, shares, np.nan)
        axis.imshow(shown, colors, vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(info.name, fontsize=9)
    return figure

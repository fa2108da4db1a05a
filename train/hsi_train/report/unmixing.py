"""Draws what a method that unmixes has learnt: endmembers and abundance maps."""

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hsi_runtime.model.model_file import ABUNDANCES
from hsi_train.data.labelled_scene import LabelledData, LabelledScene
from hsi_train.fitting.predict import output_maps
from hsi_train.method import BaseMethod
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
from hsi_train.report.maps import layout, share_scale
from hsi_train.report.pictures import painted_shares
from hsi_train.report.spectra import INK, SpectralAxis, spectral_axis, spectral_plot

MAX_SCENES = 2  # whose abundances are drawn
MAX_PIXELS = 500_000  # of a scene that is drawn
MAP_PIXELS = 1_500_000  # of all abundance maps together


def unmixing(method: BaseMethod, data: LabelledData, device: torch.device) -> Safe:
    """Draw endmembers and abundances; empty for a method that does not unmix.

    Args:
        method: In evaluation mode.
        data: Scenes and classes.
        device: Where the method lives.
    """
    endmembers = method.endmembers()
    if endmembers is None:
        return Safe()
    spectra = endmembers.cpu().numpy()
    means = method.problem.class_means.cpu().numpy()
    axis = spectral_axis(data)
    panels = [
        figure(
            svg(draw_endmember(axis, spectrum, mean, info.color)),
            f"Endmember of class {info.name}",
            named(info),
        )
        for info, spectrum, mean in zip(data.classes, spectra, means, strict=True)
    ]
    parts = [
        paragraph(
            "Line: endmember, in the values of the scene; dashed: mean of the training "
            "pixels. Where they differ much, the endmember is not the spectrum of the "
            "class."
        ),
        grid(panels, 1, 3),
    ]
    small = [s for s in data.scenes if s.valid.size <= MAX_PIXELS][:MAX_SCENES]
    for scene in small:
        maps = output_maps(method, ABUNDANCES, scene, scene.valid, device)
        limit = MAP_PIXELS // (len(small) * len(maps))
        parts += [
            Safe(f"<h3>Abundances in {text(scene.info.path.name)}</h3>"),
            paragraph(
                joined(
                    "Share of each class in the area of a pixel, 0 to 1; the shares of "
                    "a pixel sum to 1, and its brightness is no part of them. Where "
                    "true shares are known, python -m hsi_train.accuracy --shares "
                    "measures the error:",
                    share_scale(),
                )
            ),
            abundance_maps(maps, scene, data, limit),
        ]
    return joined(*parts)


def draw_endmember(
    axis: SpectralAxis,
    spectrum: NDArray[np.float32],
    mean: NDArray[np.float64],
    color: str,
) -> Figure:
    """Plot an endmember over the mean of its class, both of shape ``(band,)``."""
    drawn, plot = spectral_plot(axis, "stored value")
    line = axis.values(spectrum)
    plot.fill_between(axis.places, 0, line, color=color, alpha=0.55, lw=0)
    plot.plot(
        axis.places, line, color=INK, lw=1.2, marker=".", ms=3, markevery=axis.marks()
    )
    dashes = (0, (4, 2))
    plot.plot(axis.places, axis.values(mean), color=INK, lw=0.9, ls=dashes)
    plot.set_ylim(bottom=min(0, mean.min()))
    return drawn


def abundance_maps(
    maps: NDArray[np.float32], scene: LabelledScene, data: LabelledData, limit: int
) -> Safe:
    """Draw ``(class, row, col)`` as maps of at most ``limit`` pixels."""
    panels = [
        figure(
            painted_shares(shares, scene.valid, limit),
            f"Abundance of {info.name} in {scene.info.path.name}",
            named(info),
        )
        for info, shares in zip(data.classes, maps, strict=True)
    ]
    return layout(panels, scene.valid.shape, 1)

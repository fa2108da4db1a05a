"""How the benchmarks draw: SVGs that can be read on light and on dark pages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, NullLocator

INK = "#808080"  # as far from white as from black
COLORS = ("#0d96a8", "#d9772b", "#8f6fd1", "#4f9d4f", "#c9599b", "#a08c2c", "#b0503f")


def panels(
    titles: Sequence[str], width: float, height: float
) -> tuple[Figure, list[Axes]]:
    """Make a figure with transparent panels side by side; size in inches."""
    figure = Figure((width, height), layout="constrained")
    axes = []
    for number, title in enumerate(titles, start=1):
        panel = figure.add_subplot(1, len(titles), number)
        panel.set_title(title, fontsize=10)
        panel.grid(color=INK, alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        axes.append(panel)
    return figure, axes


def make_log(axis: Any, ticks: Sequence[float] = ()) -> None:
    """Make an axis logarithmic, with plain numbers: those given, or 1, 2 and 5."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    steps = LogLocator(subs=(1, 2, 5))
    axis.set_major_locator(FixedLocator(list(ticks)) if ticks else steps)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(EngFormatter(sep=""))


def save(figure: Figure, path: Path) -> None:
    """Write a figure, all its text in one ink; the same figure gives the same bytes."""
    for legend in figure.legends:
        legend.set_frame_on(False)
        for text in legend.get_texts():
            text.set_color(INK)
    for panel in figure.axes:
        panel.tick_params(which="both", colors=INK)
        for text in (panel.title, panel.xaxis.label, panel.yaxis.label, *panel.texts):
            text.set_color(INK)
        for spine in panel.spines.values():
            spine.set_color(INK)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hsi-edge"}):
        figure.savefig(path, transparent=True, metadata={"Date": None})

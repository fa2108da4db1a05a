"""Plots of what training and testing measured: confusion, curves, reliability."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unicodedata import east_asian_width

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from hsi_runtime.model.plain_text import plain
from hsi_train.fitting.progress import Epoch, Progress

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8c959f"
STYLE: Any = {
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e4e8ec",
    "grid.linewidth": 0.6,
    "xtick.color": "#57606a",
    "ytick.color": "#57606a",
    # Names are drawn as they are: a `$` starts no formula.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "hsi-edge",  # the same plot has the same bytes
}
MANY_EPOCHS = 40  # above, they are not marked one by one
NAME_LENGTH = 26  # of a class on an axis
LARGE_CELL, SMALL_CELL = 0.5, 0.14  # inches
SMALLEST_FONT = 4.5  # points; smaller counts are left out


@contextmanager
def plot_style() -> Iterator[None]:
    """Draw all plots alike, with names of any script.

    What the measuring font lacks the reader's own fonts may have.
    """
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ")
        yield


def draw_confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Figure:
    """Draw counts ``(true, predicted)``, coloured by their share of the true class."""
    counts = np.array(matrix, dtype=float)
    support = counts.sum(axis=1, keepdims=True)
    shares = np.divide(
        counts, support, out=np.full_like(counts, np.nan), where=support > 0
    )
    cell = float(np.clip(6.6 / len(names), SMALL_CELL, LARGE_CELL))
    font = min(8.0, cell * 72 * 0.62)
    labels = [shortened(name) for name in names]
    side, edge = cell * len(names), _inches(labels, font) + 0.3
    width, height = edge + side + 0.75, side + edge + 0.1
    drawn = Figure(figsize=(width, height))
    axis = drawn.add_axes((edge / width, edge / height, side / width, side / height))
    colors = matplotlib.colormaps["Blues"].with_extremes(bad="#ececec")
    # Rare confusions show, too: the square root raises small shares.
    image = axis.imshow(shares, colors, norm=PowerNorm(0.5, 0, 1), aspect="auto")
    size = min(8.0, cell * 72 * 0.9 / (0.64 * len(f"{int(counts.max())}")))
    if size >= SMALLEST_FONT:
        for (row, col), value in np.ndenumerate(counts):
            if value:
                color = "white" if shares[row, col] > 0.4 else "black"
                where: Any = {"ha": "center", "va": "center", "fontsize": size}
                axis.text(col, row, f"{int(value)}", color=color, **where)
    axis.set_xticks(range(len(names)), labels, rotation=90, fontsize=font)
    axis.set_yticks(range(len(names)), labels, fontsize=font)
    axis.tick_params(length=0)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.grid(False)
    left = (edge + side + 0.1) / width
    bar = drawn.add_axes((left, edge / height, 0.12 / width, side / height))
    ticks = [0, 0.01, 0.05, 0.2, 0.5, 1]
    drawn.colorbar(image, bar, ticks=ticks, format=lambda s, _: f"{100 * s:.0f} %")
    bar.grid(False)
    return drawn


def shortened(name: str) -> str:
    """Shorten a name that is too long for an axis."""
    return plain(name, NAME_LENGTH)


def _inches(labels: Sequence[str], font: float) -> float:
    """Estimate the room for labels, whatever font the reader has for their script."""
    return max(sum(map(_ems, label)) for label in labels) * font / 72


def _ems(character: str) -> float:
    if east_asian_width(character) in "WF":
        return 1.0
    return 0.85 if character.isupper() or character in "mw" else 0.63


def draw_loss(progress: Progress) -> Figure:
    """Plot the training loss over the epochs."""
    drawn, axis = _epoch_plot(progress, "training loss")
    values = [e.loss for e in progress.history]
    _curve(axis, progress.history, values, BLUE, "-", "training loss")
    if min(values) > 0 and max(values) > 20 * min(values):
        axis.set_yscale("log")
        # The usual labels are formulas, which are switched off here.
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.legend(loc="best")
    return drawn


def draw_validation(progress: Progress) -> Figure | None:
    """Plot accuracy and kappa of the validation pixels, if there are any."""
    history = progress.history
    if history[0].validation_accuracy is None:
        return None
    drawn, axis = _epoch_plot(progress, "validation pixels")
    accuracies = [e.validation_accuracy or 0.0 for e in history]
    kappas = [e.validation_kappa or 0.0 for e in history]
    _curve(axis, history, accuracies, BLUE, "-", "overall accuracy")
    _curve(axis, history, kappas, ORANGE, "--", "kappa")
    axis.legend(loc="best")
    return drawn


def _epoch_plot(progress: Progress, unit: str) -> tuple[Figure, Axes]:
    drawn = Figure(figsize=(4.6, 2.9), layout="constrained")
    axis = drawn.subplots()
    axis.axvline(progress.best_epoch, color=GREY, lw=1, ls=":", label="epoch kept")
    axis.set_xlabel("epoch")
    axis.set_ylabel(unit)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return drawn, axis


def _curve(
    axis: Axes,
    history: list[Epoch],
    values: list[float],
    color: str,
    style: str,
    label: str,
) -> None:
    marker = "o" if len(history) <= MANY_EPOCHS else ""
    epochs = [e.epoch for e in history]
    axis.plot(
        epochs, values, color=color, ls=style, lw=1.4, marker=marker, ms=3, label=label
    )


def draw_reliability(calibration: dict[str, Any]) -> Figure:
    """Plot the share of right classes against the confidence.

    Args:
        calibration: Table ``calibration`` of ``metrics.json``; shares in [0, 1].
    """
    drawn = Figure(figsize=(4.6, 4.9), layout="constrained")
    upper, lower = drawn.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
    upper.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":")
    before: Any = {
        "color": ORANGE,
        "ls": "--",
        "marker": "s",
        "markerfacecolor": "none",
    }
    after: Any = {"color": BLUE, "ls": "-", "marker": "o", "markerfacecolor": BLUE}
    for label, prefix, suffix, look in (
        ("before", "uncalibrated_", "_uncalibrated", before),
        ("after", "", "", after),
    ):
        bins = calibration[f"{prefix}bins"]
        error = calibration[f"expected_calibration_error{suffix}"]
        label = f"{label}: error {100 * error:.1f} %"
        confidence = [b["confidence"] for b in bins]
        accuracy = [b["accuracy"] for b in bins]
        counts = np.array([b["count"] for b in bins], dtype=float)
        upper.plot(confidence, accuracy, lw=1.3, ms=5, label=label, **look)
        lower.plot(confidence, counts / counts.sum(), lw=1, ms=4, **look)
    if calibration["reject"] is not None:
        label = f"suggested --reject {calibration['reject']:.3f}"
        upper.axvline(calibration["reject"], color=GREY, lw=1, ls="-.", label=label)
    upper.set(xlim=(0, 1.02), ylim=(0, 1.02), ylabel="share that is right")
    upper.legend(loc="upper left")
    lower.set(xlabel="confidence", ylabel="share of pixels")
    lower.set_ylim(bottom=0)
    return drawn

"""Writes ``report.html``: one self-contained page to judge a run by."""

import base64
import html
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from hsi_train import recipe
from hsi_train.fit import Progress
from hsi_train.labelled_scene import UNLABELLED, LabelledData, LabelledScene
from hsi_train.method import BaseMethod
from hsi_train.patches import Statistics
from hsi_train.predict import classify
from hsi_train.recipe import Recipe
from hsi_train.split import Role, Roles
from hsi_train.target import comparison

MAX_MAPS = 6  # scenes that are drawn
MAX_MAP_PIXELS = 500_000  # a larger scene is classified only where it has labels
TRUE_COLOUR_NM = (640.0, 550.0, 460.0)
ROLE_COLORS = {
    Role.TRAIN: "#1f78b4",
    Role.VALIDATION: "#9ecae1",
    Role.TEST: "#d7301f",
    Role.BUFFER: "#cccccc",
}

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#222} h1{font-size:1.6rem} h2{font-size:1.2rem;margin-top:2rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right}
th:first-child,td:first-child{text-align:left} img{max-width:100%;height:auto}
pre{background:#f6f6f6;padding:1rem;overflow-x:auto;font-size:.85rem}
.warning{background:#fff4d6;border-left:4px solid #e6ab02;padding:.5rem 1rem;
margin:.5rem 0}
.wide{overflow-x:auto}
"""


@contextmanager
def _plain_text() -> Iterator[None]:
    """Draw names as they are: a ``$`` starts no formula, any script is welcome.

    What the font lacks is drawn as boxes; the tables of the page hold it as text.
    """
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ")
        yield


@_plain_text()
def write_report(
    path: Path,
    method: BaseMethod,
    data: LabelledData,
    splits: list[Roles],
    statistics: Statistics,
    progress: Progress,
    result: dict[str, Any],
    resolved: Recipe,
    device: torch.device,
) -> None:
    """Write the page: maps, accuracy, confusion matrix, curves, recipe."""
    maps = []
    for scene, roles in list(zip(data.scenes, splits, strict=True))[:MAX_MAPS]:
        found = _class_map(method, scene, statistics, device)
        maps.append(_image(_draw_maps(scene, roles, found, data)))
    left_out = len(data.scenes) - len(maps)
    parts = [
        f"<h1>{html.escape(resolved.method)}: {_percent(result['overall_accuracy'])} "
        "of the test pixels are right</h1>",
        *(f'<p class="warning">{html.escape(w)}</p>' for w in result["warnings"]),
        _summary(result),
        "<h2>Maps</h2>",
        *maps,
        f"<p>{left_out} more scenes are not drawn.</p>" if left_out else "",
        "<h2>Accuracy of each class</h2>",
        _class_table(result),
        *_target(result),
        "<h2>Confusion matrix</h2>",
        _image(_draw_confusion(result)),
        "<h2>Training</h2>",
        _image(_draw_curves(progress)),
        "<h2>Recipe</h2>",
        f"<pre>{html.escape(recipe.dump(resolved))}</pre>",
    ]
    path.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(resolved.method)}</title><style>{STYLE}</style>"
        + "\n".join(parts)
        + "</html>\n",
        encoding="utf-8",
    )


def _class_map(
    method: BaseMethod,
    scene: LabelledScene,
    statistics: Statistics,
    device: torch.device,
) -> NDArray[np.int16]:
    wanted = scene.valid
    if wanted.size > MAX_MAP_PIXELS:
        wanted = scene.classes != UNLABELLED
    found = classify(
        method.network, scene, wanted, statistics.mean, method.halo, device
    )
    return np.where(scene.valid, found, -1).astype(np.int16)


def _draw_maps(
    scene: LabelledScene, roles: Roles, found: NDArray[np.int16], data: LabelledData
) -> Figure:
    rows, cols = found.shape
    figure = Figure(figsize=(12, 12 / 4 * max(0.4, min(rows / cols, 2)) + 1.1))
    axes = figure.subplots(1, 4)
    colors = ListedColormap(["#ffffff", *(c.color for c in data.classes)])
    last = len(data.classes) - 1
    axes[0].imshow(_composite(scene, data))
    axes[1].imshow(scene.classes, colors, vmin=-1, vmax=last, interpolation="nearest")
    axes[2].imshow(
        roles,
        ListedColormap(["#ffffff", *ROLE_COLORS.values()]),
        vmin=Role.NONE,
        vmax=Role.BUFFER,
        interpolation="nearest",
    )
    axes[3].imshow(found, colors, vmin=-1, vmax=last, interpolation="nearest")
    titles = (scene.info.path.name, "labels", "split", "class map")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
    names = [Patch(color=c.color, label=c.name) for c in data.classes]
    figure.legend(handles=names, loc="lower right", ncols=6, fontsize=8, frameon=False)
    present = set(np.unique(roles).tolist())
    used = [
        Patch(color=color, label=role.name.lower())
        for role, color in ROLE_COLORS.items()
        if role in present
    ]
    figure.legend(handles=used, loc="lower left", ncols=2, fontsize=8, frameon=False)
    figure.subplots_adjust(0.01, 0.16, 0.99, 0.92, 0.03)
    return figure


def _composite(scene: LabelledScene, data: LabelledData) -> NDArray[np.float64]:
    """Build a true-colour picture, or one of three spread bands without wavelengths."""
    centres = data.reference.wavelengths_nm
    if centres is not None:
        used = centres[data.bands]
        bands = [int(np.abs(used - nm).argmin()) for nm in TRUE_COLOUR_NM]
    else:
        bands = [len(data.bands) * n // 6 for n in (3, 2, 1)]
    picture = scene.cube[bands].astype(np.float64)
    for plane in picture:
        low, high = np.percentile(plane[scene.valid], (2, 98))
        plane[:] = np.clip((plane - low) / max(high - low, 1e-9), 0, 1)
    picture[:, ~scene.valid] = 1
    return np.moveaxis(picture, 0, -1)


def _draw_confusion(result: dict[str, Any]) -> Figure:
    matrix = np.array(result["confusion"], dtype=float)
    support = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, support, out=np.zeros_like(matrix), where=support > 0)
    names = [c["name"] for c in result["classes"]]
    side = max(4.0, 0.55 * len(names) + 2)
    figure = Figure(figsize=(side + 1, side))
    axis = figure.subplots()
    axis.imshow(shares, "Blues", vmin=0, vmax=1)
    for (row, col), value in np.ndenumerate(matrix):
        if value:
            dark = shares[row, col] > 0.5
            axis.text(
                col, row, f"{int(value)}", ha="center", va="center", fontsize=8,
                color="white" if dark else "black",
            )  # fmt: skip
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    figure.tight_layout()
    return figure


def _draw_curves(progress: Progress) -> Figure:
    figure = Figure(figsize=(8, 3.2))
    left = figure.subplots()
    epochs = [e.epoch for e in progress.history]
    left.plot(epochs, [e.loss for e in progress.history], "o-", ms=3, label="loss")
    left.set_xlabel("epoch")
    left.set_ylabel("training loss")
    if progress.history[0].validation_kappa is not None:
        right = left.twinx()
        kappas = [e.validation_kappa or 0.0 for e in progress.history]
        right.plot(epochs, kappas, "s-", ms=3, color="#d95f02")
        right.axvline(progress.best_epoch, color="#999999", lw=1, ls=":")
        right.set_ylabel("validation kappa", color="#d95f02")
    figure.tight_layout()
    return figure


def _image(figure: Figure) -> str:
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="" src="data:image/png;base64,{data}"></p>'


def _summary(result: dict[str, Any]) -> str:
    counts = result["counts"]
    rows = [
        ("Overall accuracy", _percent(result["overall_accuracy"])),
        ("Average accuracy", _percent(result["average_accuracy"])),
        ("Kappa", f"{result['kappa']:.3f}"),
        ("Pixels: train / validation / test",
         f"{counts['train']} / {counts['validation']} / {counts['test']}"),
        ("Receptive field", f"{result['receptive_field']} px"),
        ("Parameters", f"{result['parameters']:,}"),
        ("Seed", str(result["seed"])),
        ("Seconds", f"{result['seconds']:.0f}"),
    ]  # fmt: skip
    return _table([], [list(row) for row in rows])


def _class_table(result: dict[str, Any]) -> str:
    head = ["class", "code", "recall", "precision", "F1", "test pixels"]
    rows = [
        [
            c["name"], str(c["code"]), _percent(c["recall"]), _percent(c["precision"]),
            _percent(c["f1"]), str(c["support"]),
        ]
        for c in result["per_class"]
    ]  # fmt: skip
    return _table(head, rows)


def _target(result: dict[str, Any]) -> list[str]:
    if "target" not in result:
        return []
    return [
        "<h2>Source and target</h2>",
        *(
            f'<p class="warning">{html.escape(w)}</p>'
            for w in result["target"]["warnings"]
        ),
        _table(*comparison(result)),
    ]


def _table(head: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        inner = "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)
        return f"<tr>{inner}</tr>"

    body = "".join(line(row, "td") for row in rows)
    top = line(head, "th") if head else ""
    return f'<div class="wide"><table>{top}{body}</table></div>'


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"

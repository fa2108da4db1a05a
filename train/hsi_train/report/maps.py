"""Pictures of the scenes: composites, labels, split, class map and confidence."""

from collections.abc import Iterable
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from hsi_train import target
from hsi_train.data.labelled_scene import UNLABELLED, LabelledData, LabelledScene
from hsi_train.data.roles import Role
from hsi_train.fitting.predict import class_and_confidence
from hsi_train.method import BaseMethod
from hsi_train.report.html import (
    Safe,
    figure,
    grid,
    joined,
    legend,
    named,
    paragraph,
    scale,
    swatch,
    text,
)
from hsi_train.report.pictures import (
    NODATA,
    NOTHING,
    SHARE_COLORS,
    SHARE_STEPS,
    composite,
    composites,
    painted,
    painted_shares,
    photograph,
)
from hsi_train.target import Target

MAX_MAPS = 6  # scenes that are drawn
MAX_MAP_PIXELS = 500_000  # a larger scene is classified only where it has labels
PICTURE_PIXELS = 1_000_000  # of one kind of picture, in all scenes together
CHANNELS = ("red", "green", "blue")

# Told apart with any colour vision, and in grey.
ROLE_COLORS = {
    Role.TRAIN: "#004488",
    Role.VALIDATION: "#ddaa33",
    Role.TEST: "#bb5566",
    Role.BUFFER: "#b0b0b0",
}


def maps(
    method: BaseMethod,
    data: LabelledData,
    device: torch.device,
) -> Safe:
    """Draw the first scenes, each with its split and what the method makes of it.

    Args:
        method: In evaluation mode.
        data: Scenes and classes.
        device: Where the method lives.
    """
    bands, sentence = composites(data)
    drawn = _gallery(method, data.scenes, len(data.scenes), bands, data, device)
    return joined(paragraph(sentence), drawn) if sentence else drawn


def target_maps(
    method: BaseMethod,
    target_data: Target,
    data: LabelledData,
    device: torch.device,
) -> Safe:
    """Draw the first target scenes with a known label as `maps` does, without a split.

    Args:
        method: In evaluation mode.
        target_data: The target scenes.
        data: Source scenes and classes.
        device: Where the method lives.
    """
    known = [
        (p, classes)
        for p, classes in target_data.scenes
        if (classes != UNLABELLED).any()
    ]
    scenes = (target.read(target_data, p, classes, method.halo) for p, classes in known)
    bands, _ = composites(data)
    return _gallery(method, scenes, len(known), bands, data, device, divided=False)


def _gallery(
    method: BaseMethod,
    scenes: Iterable[LabelledScene],
    total: int,
    bands: dict[str, list[int]],
    data: LabelledData,
    device: torch.device,
    divided: bool = True,
) -> Safe:
    """Draw the first scenes, with headings, a legend and the number of other scenes.

    Args:
        method: Trained method in evaluation mode.
        scenes: Scenes, of which `MAX_MAPS` at most are read.
        total: Number of scenes.
        bands: Bands of the composites.
        data: Source scenes and classes.
        device: Device of the method.
        divided: Whether the scenes have a split to draw; target scenes have none.
    """
    many = min(total, MAX_MAPS)
    parts: list[Safe] = []
    for scene in islice(scenes, many):
        large = scene.valid.size > MAX_MAP_PIXELS
        pixels = scene.classes != UNLABELLED if large else scene.valid
        predicted, confidence = class_and_confidence(method, scene, pixels, device)
        limit = PICTURE_PIXELS // many
        panels = [
            *_composite_panels(scene, divided, bands, data, limit),
            _label_panel(scene, data, limit),
            *([_split_panel(scene, limit)] if divided else []),
            *_map_panels(scene, data, predicted, confidence, limit),
        ]
        parts += [_heading(scene), layout(panels, scene.valid.shape, many)]
        if large:
            parts.append(
                paragraph(
                    "This scene is large: only the tiles that hold labels are "
                    "classified here, the rest is grey. hsi-run maps all of it."
                )
            )
    present = [named(c) for c in data.classes]
    parts.append(
        legend([*present, swatch(NOTHING, "no label"), swatch(NODATA, "nodata")])
    )
    if total > many:
        parts.append(paragraph(f"{total - many} more scenes are not drawn."))
    return joined(*parts)


def share_scale() -> Safe:
    """Explain the colours of `painted_shares`."""
    return scale(SHARE_COLORS[:: SHARE_STEPS // 10], "0", "1")


def layout(panels: list[Safe], shape: tuple[int, ...], scenes: int) -> Safe:
    """Lay the pictures of a scene side by side, as its shape suggests."""
    aspect = shape[1] / shape[0]
    if aspect >= 4:
        return grid(panels, 1, 1, "map strip", f"--aspect:{aspect:.2f}")
    if aspect >= 1.8:
        return grid(panels, 1, 2, "map")
    many = min(len(panels), 6)
    if aspect <= 0.4:
        return grid(panels, 3, many, "map tall")
    return grid(panels, 3, many, "map") if scenes > 2 else grid(panels, 2, 3, "map")


def _composite_panels(
    scene: LabelledScene,
    divided: bool,
    bands: dict[str, list[int]],
    data: LabelledData,
    limit: int,
) -> list[Safe]:
    centres = data.reference.wavelengths_nm
    panels = []
    for title, chosen in bands.items():
        names = [f"band {data.bands[b] + 1}" for b in chosen]
        if centres is not None:
            nm = centres[data.bands[chosen]]
            # Bands of a target scene may be in another order, or resampled.
            numbers = [f" ({name})" if divided else "" for name in names]
            names = [f"{n:.0f} nm{s}" for n, s in zip(nm, numbers, strict=True)]
        caption = ", ".join(f"{c} {n}" for c, n in zip(CHANNELS, names, strict=True))
        uri = photograph(composite(scene, chosen), limit)
        panels.append(_panel(uri, title, scene, text(caption)))
    return panels


def _label_panel(scene: LabelledScene, data: LabelledData, limit: int) -> Safe:
    colors = [c.color for c in data.classes]
    uri = painted(scene.classes, colors, scene.valid, limit, rare=True)
    labelled = int((scene.classes != UNLABELLED).sum())
    return _panel(uri, "Labels", scene, text(f"{labelled:,} pixels"))


def _map_panels(
    scene: LabelledScene,
    data: LabelledData,
    predicted: NDArray[np.int16],
    confidence: NDArray[np.float32],
    limit: int,
) -> list[Safe]:
    colors = [c.color for c in data.classes]
    class_map = painted(predicted, colors, scene.valid, limit)
    shares = painted_shares(confidence, scene.valid, limit)
    caption = joined("probability of the class shown", share_scale())
    return [
        _panel(class_map, "Class map", scene, text("by the trained network")),
        _panel(shares, "Confidence", scene, caption),
    ]


def _split_panel(scene: LabelledScene, limit: int) -> Safe:
    roles = scene.roles
    counts = np.bincount(roles.ravel(), minlength=len(Role))
    keys = [
        swatch(color, f"{role.name.lower()} {counts[role]:,}")
        for role, color in ROLE_COLORS.items()
        if counts[role]
    ]
    # The highest index wins where a picture is thinned out: training pixels are rare.
    order = [Role.BUFFER, Role.TEST, Role.VALIDATION, Role.TRAIN]
    parts = np.full(roles.shape, UNLABELLED)
    for index, role in enumerate(order):
        parts[roles == role] = index
    role_colors = [ROLE_COLORS[role] for role in order]
    uri = painted(parts, role_colors, scene.valid, limit, rare=True)
    caption = Safe(f'<span class="keys">{" ".join(keys)}</span>')
    return _panel(uri, "Split", scene, caption)


def _panel(uri: str, title: str, scene: LabelledScene, caption: Safe) -> Safe:
    below = Safe(f"<b>{text(title)}</b><br>{caption}")
    return figure(uri, f"{title} of {scene.info.path.name}", below)


def _heading(scene: LabelledScene) -> Safe:
    info, (rows, cols) = scene.info, scene.valid.shape
    size = f"{rows:,} rows x {cols:,} columns"
    if info.resolution_m is not None:
        size += f" of {info.resolution_m:g} m pixels"
    if (rows, cols) != (info.rows, info.cols):
        size += (
            f": the labelled part, from row {scene.row + 1:,} and column "
            f"{scene.col + 1:,}, of {info.rows:,} x {info.cols:,}"
        )
    return joined(Safe(f"<h3>{text(info.path.name)}</h3>"), paragraph(size, "soft"))

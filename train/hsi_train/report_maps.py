"""Pictures of the scenes: composites, labels, split, class map and confidence."""

import math

import matplotlib
import numpy as np
import torch
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from PIL import Image, ImageColor

from hsi_train.labelled_scene import UNLABELLED, LabelledData, LabelledScene
from hsi_train.method import BaseMethod
from hsi_train.patches import Statistics
from hsi_train.predict import class_and_confidence
from hsi_train.report_html import (
    Safe,
    figure,
    grid,
    joined,
    jpeg,
    legend,
    named,
    paragraph,
    png,
    scale,
    swatch,
    text,
)
from hsi_train.split import Role, Roles

MAX_MAPS = 6  # scenes that are drawn
MAX_MAP_PIXELS = 500_000  # a larger scene is classified only where it has labels
PICTURE_PIXELS = 1_000_000  # of one kind of picture, in all scenes together
SMALL_SIDE = 420  # px; a smaller picture is enlarged, by whole factors
PHOTO_PIXELS = 250_000  # from here on a composite is stored as a photograph

TRUE_COLOUR_NM = (640.0, 550.0, 460.0)  # shown as red, green and blue
INFRARED_NM = (860.0, 650.0, 550.0)
FARTHEST_NM = 50.0  # that a band may lie from what it stands for
CHANNELS = ("red", "green", "blue")
STRETCH = (2, 98)  # percentiles of a band that become black and full

# Told apart with any colour vision, and in grey.
ROLE_COLORS = {
    Role.TRAIN: "#004488",
    Role.VALIDATION: "#ddaa33",
    Role.TEST: "#bb5566",
    Role.BUFFER: "#b0b0b0",
}
NOTHING, NODATA = "#ececec", "#ffffff"
SHARE_STEPS = 50  # shades between 0 and 1
SHARE_COLORS = [
    to_hex(c)
    for c in matplotlib.colormaps["viridis"](np.linspace(0, 1, SHARE_STEPS + 1))
]


def maps(
    method: BaseMethod,
    data: LabelledData,
    splits: list[Roles],
    statistics: Statistics,
    device: torch.device,
) -> Safe:
    """Draw the first scenes, each with its split and what the method makes of it.

    Args:
        method: In evaluation mode.
        data: Scenes and classes.
        splits: Role of every pixel, one array for each scene.
        statistics: Of the training pixels.
        device: Where the method lives.
    """
    pairs = list(zip(data.scenes, splits, strict=True))
    drawn = pairs[:MAX_MAPS]
    bands, sentence = composites(data)
    parts = [paragraph(sentence)]
    for scene, roles in drawn:
        wanted = scene.valid
        large = wanted.size > MAX_MAP_PIXELS
        if large:
            wanted = scene.classes != UNLABELLED
        found = class_and_confidence(method, scene, wanted, statistics.mean, device)
        panels = _panels(
            scene, roles, bands, data, *found, PICTURE_PIXELS // len(drawn)
        )
        parts += [_heading(scene), layout(panels, scene.valid.shape, len(drawn))]
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
    if len(pairs) > len(drawn):
        parts.append(paragraph(f"{len(pairs) - len(drawn)} more scenes are not drawn."))
    return joined(*parts)


def composites(data: LabelledData) -> tuple[dict[str, list[int]], str]:
    """Choose the bands of the colour pictures.

    Returns:
        Three indices into the cube for each picture, by its name, and a sentence on
        what could not be chosen, or an empty one.
    """
    used = len(data.bands)
    spread = {"Three bands": [used * n // 6 for n in (5, 3, 1)]}
    centres = data.reference.wavelengths_nm
    if centres is None:
        return spread, (
            "The scene has no wavelengths, so its red, green, blue and infrared bands "
            "are not known: three bands spread over the spectrum are shown."
        )
    centres = centres[data.bands]
    wanted = {"True colour": TRUE_COLOUR_NM, "Colour infrared": INFRARED_NM}
    found = {name: nearest_bands(centres, nm) for name, nm in wanted.items()}
    chosen = {name: bands for name, bands in found.items() if bands is not None}
    lacking = [
        f"{name} needs bands near {', '.join(f'{nm:.0f}' for nm in wanted[name])} nm."
        for name in wanted
        if name not in chosen
    ]
    if lacking:
        low, high = centres.min(), centres.max()
        lacking.append(f"The used bands lie between {low:.0f} and {high:.0f} nm.")
    return chosen or spread, " ".join(lacking)


def nearest_bands(
    centres: NDArray[np.float64], wanted: tuple[float, ...]
) -> list[int] | None:
    """Find the band nearest to each wavelength, in nm.

    None where one is far from all bands, or two are nearest to the same one.
    """
    found = [int(np.abs(centres - nm).argmin()) for nm in wanted]
    far = max(abs(centres[b] - nm) for b, nm in zip(found, wanted, strict=True))
    return found if far <= FARTHEST_NM and len(set(found)) == len(found) else None


def composite(scene: LabelledScene, bands: list[int]) -> NDArray[np.uint8]:
    """Stretch three bands to a picture ``(row, col, colour)``; nodata is white."""
    picture = np.full((*scene.valid.shape, 3), 255, dtype=np.uint8)
    if not scene.valid.any():
        return picture
    for channel, band in enumerate(bands):
        values = scene.cube[band][scene.valid].astype(np.float64)  # (pixel,)
        low, high = np.percentile(values, STRETCH)
        shares = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
        picture[scene.valid, channel] = np.rint(255 * shares)
    return picture


def painted(
    indices: NDArray[np.integer],
    colors: list[str],
    valid: NDArray[np.bool_],
    limit: int,
) -> str:
    """Paint a map of indices of colours, `UNLABELLED` where there is none.

    Args:
        indices: Shape ``(row, col)``.
        colors: ``#rrggbb`` of each index.
        valid: False where the scene has no data.
        limit: Pixels of the picture.
    """
    places = np.where(valid, indices, len(colors) + 1)
    places[valid & (indices == UNLABELLED)] = len(colors)
    table = [ImageColor.getrgb(c) for c in (*colors, NOTHING, NODATA)]
    step = _step(places.shape, limit)
    picture = np.array(table, dtype=np.uint8)[places[::step, ::step]]
    return png(_enlarged(Image.fromarray(picture)))


def painted_shares(
    shares: NDArray[np.float32], valid: NDArray[np.bool_], limit: int
) -> str:
    """Paint shares in [0, 1], shape ``(row, col)``; NaN where there is none."""
    known = np.isfinite(shares)
    steps = np.full(shares.shape, UNLABELLED)
    steps[known] = np.rint(SHARE_STEPS * np.clip(shares[known], 0, 1))
    return painted(steps, SHARE_COLORS, valid, limit)


def share_scale() -> Safe:
    """Explain the colours of `painted_shares`."""
    return scale(SHARE_COLORS[:: SHARE_STEPS // 10], "0", "1")


def layout(panels: list[Safe], shape: tuple[int, ...], scenes: int) -> Safe:
    """Lay the pictures of a scene side by side, as its shape suggests."""
    aspect = shape[1] / shape[0]
    if aspect >= 4:
        return grid(panels, 1, 1, "map strip")
    if aspect >= 1.8:
        return grid(panels, 1, 2, "map")
    if aspect <= 0.4 or scenes > 2:
        return grid(panels, 3, 6, "map")
    return grid(panels, 2, 3, "map")


def _panels(
    scene: LabelledScene,
    roles: Roles,
    bands: dict[str, list[int]],
    data: LabelledData,
    found: NDArray[np.int16],
    confidence: NDArray[np.float32],
    limit: int,
) -> list[Safe]:
    name = scene.info.path.name
    centres = data.reference.wavelengths_nm
    panels = []
    for title, chosen in bands.items():
        said = [f"band {data.bands[b] + 1}" for b in chosen]
        if centres is not None:
            nm = centres[data.bands[chosen]]
            said = [f"{n:.0f} nm ({s})" for n, s in zip(nm, said, strict=True)]
        caption = ", ".join(f"{c} {s}" for c, s in zip(CHANNELS, said, strict=True))
        uri = _photograph(composite(scene, chosen), limit)
        panels.append(_panel(uri, title, name, text(caption)))
    colors = [c.color for c in data.classes]
    labelled = int((scene.classes != UNLABELLED).sum())
    counts = np.bincount(roles.ravel(), minlength=len(Role))
    keys = [
        f"<span>{swatch(color, f'{role.name.lower()} {counts[role]:,}')}</span>"
        for role, color in ROLE_COLORS.items()
        if counts[role]
    ]
    parts = np.where(roles == Role.NONE, UNLABELLED, roles.astype(np.int16) - 1)
    role_colors = [ROLE_COLORS[role] for role in Role if role != Role.NONE]
    valid = scene.valid
    return [
        *panels,
        _panel(
            painted(scene.classes, colors, valid, limit),
            "Labels", name, text(f"{labelled:,} pixels"),
        ),
        _panel(
            painted(parts, role_colors, valid, limit),
            "Split", name, Safe(f'<span class="keys">{" ".join(keys)}</span>'),
        ),
        _panel(
            painted(found, colors, valid, limit),
            "Class map", name, text("by the trained network"),
        ),
        _panel(
            painted_shares(confidence, valid, limit),
            "Confidence", name, joined("probability of the class shown", share_scale()),
        ),
    ]  # fmt: skip


def _panel(uri: str, title: str, scene: str, caption: Safe) -> Safe:
    below = Safe(f"<b>{text(title)}</b><br>{caption}")
    return figure(uri, f"{title} of {scene}", below)


def _heading(scene: LabelledScene) -> Safe:
    info, (rows, cols) = scene.info, scene.valid.shape
    said = f"{rows:,} rows x {cols:,} columns"
    if info.resolution_m is not None:
        said += f" of {info.resolution_m:g} m pixels"
    if (rows, cols) != (info.rows, info.cols):
        said += (
            f": the labelled part, from row {scene.row + 1:,} and column "
            f"{scene.col + 1:,}, of {info.rows:,} x {info.cols:,}"
        )
    return joined(Safe(f"<h3>{text(info.path.name)}</h3>"), paragraph(said, "soft"))


def _photograph(picture: NDArray[np.uint8], limit: int) -> str:
    step = _step(picture.shape, limit)
    image = _enlarged(Image.fromarray(picture).reduce(step))
    return jpeg(image) if picture[..., 0].size > PHOTO_PIXELS else png(image)


def _step(shape: tuple[int, ...], limit: int) -> int:
    """Return which rows and columns a picture shows: every so many."""
    return math.ceil(math.sqrt(shape[0] * shape[1] / limit))


def _enlarged(image: Image.Image) -> Image.Image:
    factor = max(1, SMALL_SIDE // max(image.size))
    size = (image.width * factor, image.height * factor)
    return image.resize(size, Image.Resampling.NEAREST)

"""Draws a class map as a PNG with legend and scale bar, for a first look."""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from hsi_runtime.errors import DISK_FULL, OutputError, ResourceError, reason
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.model.plain_text import plain
from hsi_runtime.output.layers import UNCLASSIFIED, Counts, map_dtype, rgb
from hsi_runtime.scenes.georeference import resolution_m
from hsi_runtime.scenes.geotiff import open_tiff

LONGEST_SIDE = 1600  # of the map, px
SHORTEST_SIDE = 480  # a smaller scene is enlarged by whole factors
FONT_PX, MARGIN = 18, 16
LINE = FONT_PX + 10
LONGEST_NAME, MOST_LINES = 60, 256  # of the legend: characters, classes
INK, PAPER = (34, 34, 34), (255, 255, 255)


def write_preview(
    class_map: Path,
    output: Path,
    document: ModelDocument,
    counts: Counts,
    *,
    tags: dict[str, str] | None = None,
) -> None:
    """Write a PNG of a finished class map.

    Args:
        class_map: The COG; its overviews serve large maps.
        output: The PNG, which is replaced.
        document: Names and colours of the classes.
        counts: Pixels of each class, for the shares in the legend.
        tags: Provenance, as in the class map; kept as text of the PNG.

    Raises:
        ResourceError: The disk is full.
        OutputError: The file cannot be written.
    """
    with open_tiff(class_map) as raster:
        shrink = max(max(raster.shape) / LONGEST_SIDE, 1)
        shape = tuple(max(1, round(n / shrink)) for n in raster.shape)
        codes = raster.read(1, out_shape=shape)
        pixel_m = resolution_m(raster.crs, raster.transform.to_gdal())
        width = raster.width
    factor = max(1, SHORTEST_SIDE // min(codes.shape))
    factor = min(factor, max(1, LONGEST_SIDE // max(codes.shape)))
    codes = codes.repeat(factor, axis=0).repeat(factor, axis=1)
    picture = Image.fromarray(_colour(codes, document))
    legend = _legend(document, counts)
    scale = None if pixel_m is None else pixel_m * width / picture.width
    height = max(picture.height + (2 * LINE if scale else 0), legend.height)
    sheet = Image.new(
        "RGB",
        (picture.width + legend.width + 3 * MARGIN, height + 2 * MARGIN),
        PAPER,
    )
    sheet.paste(picture, (MARGIN, MARGIN))
    sheet.paste(legend, (picture.width + 2 * MARGIN, MARGIN))
    if scale:
        _scale_bar(sheet, picture.width, MARGIN + picture.height, scale)
    try:
        sheet.save(output, format="PNG", optimize=True, pnginfo=_texts(tags or {}))
    except OSError as error:
        kind = ResourceError if error.errno in DISK_FULL else OutputError
        raise kind(f"The preview cannot be written: {reason(error)}.") from error


def tags_of_preview(path: Path) -> dict[str, str]:
    """Read the provenance back that `write_preview` wrote.

    Raises:
        OSError: The file cannot be read, or is no PNG.
        ValueError: Its texts are larger than any of ours.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=["PNG"]) as picture:
                return {
                    key: value
                    for key, value in picture.info.items()
                    if isinstance(key, str) and isinstance(value, str)
                }
        except (SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} is no preview of ours.") from error


def _texts(tags: dict[str, str]) -> PngInfo:
    """Turn tags into texts of a PNG: none but ours, and in Unicode."""
    texts = PngInfo()
    for key, value in tags.items():
        if key.startswith("HSI_"):
            texts.add_itxt(key, value)
    return texts


def _colour(codes: NDArray[np.integer], document: ModelDocument) -> NDArray[np.uint8]:
    """Colour codes, shape ``(row, col, rgb)``; nodata stays paper."""
    dtype = map_dtype(document)
    table = np.full((int(np.iinfo(dtype).max) + 1, 3), PAPER, dtype=np.uint8)
    table[UNCLASSIFIED] = (0, 0, 0)
    for info in document.classes:
        table[info.code] = rgb(info.color)
    painted: NDArray[np.uint8] = table[codes]
    return painted


def _legend(document: ModelDocument, counts: Counts) -> Image.Image:
    """Draw a box, the name and the share of every class that a legend has room for."""
    font = ImageFont.load_default(FONT_PX)
    mapped = sum(counts.of_class) + counts.unclassified
    entries = [
        (rgb(c.color), plain(c.name, LONGEST_NAME), int(n))
        for c, n in zip(document.classes, counts.of_class, strict=True)
    ]
    if counts.unclassified:
        entries.append(((0, 0, 0), "unclassified", counts.unclassified))
    lines = [f"{name}  {n / max(mapped, 1):.1%}" for _, name, n in entries[:MOST_LINES]]
    if len(entries) > MOST_LINES:
        lines.append(f"and {len(entries) - MOST_LINES} more")
    width = int(max(font.getlength(line) for line in lines)) + LINE + MARGIN
    image = Image.new("RGB", (width, LINE * len(lines)), PAPER)
    draw = ImageDraw.Draw(image)
    for number, (color, _, _) in enumerate(entries[:MOST_LINES]):
        top = number * LINE
        draw.rectangle((0, top + 3, FONT_PX, top + 3 + FONT_PX), color, INK)
    for number, line in enumerate(lines):
        draw.text((LINE, number * LINE + 2), line, INK, font)
    return image


def _scale_bar(sheet: Image.Image, width: int, top: int, metres: float) -> None:
    """Draw a bar of a round length, about a quarter of the map."""
    rough = metres * width / 4
    power = 10 ** np.floor(np.log10(rough))
    length = max((f * power for f in (1, 2, 5) if f * power <= rough), default=power)
    pixels = round(length / metres)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    draw = ImageDraw.Draw(sheet)
    y = top + LINE // 2
    draw.line((MARGIN, y, MARGIN + pixels, y), INK, 3)
    for x in (MARGIN, MARGIN + pixels):
        draw.line((x, y - 5, x, y + 5), INK, 3)
    font = ImageFont.load_default(FONT_PX)
    draw.text((MARGIN + pixels + 12, y - FONT_PX // 2 - 2), text, INK, font)

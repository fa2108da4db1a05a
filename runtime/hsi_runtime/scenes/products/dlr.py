"""Recognises EnMAP and DESIS products by their METADATA.XML.

Both write what their cubes are in ``bandCharacterisation``, each with words of its own.
Read from descriptions and from public readers, not yet held against a full product.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hsi_runtime.errors import SceneError
from hsi_runtime.files import read_whole
from hsi_runtime.scenes.products.metadata_xml import Metadata, read_metadata
from hsi_runtime.scenes.products.recognised import Recognised
from hsi_runtime.scenes.products.tiff_product import TiffProduct
from hsi_runtime.scenes.scene import Product, QualityLayer
from hsi_runtime.scenes.side_car import Statements

MOST_BYTES = 64 * 1024**2  # EnMAP's have about 4 MB
MARK = re.compile(rb"<\w*:?bandCharacterisation\b", re.IGNORECASE)
LEVEL = re.compile(r"L[12][A-D]\d?")
CUBE = "-SPECTRAL_IMAGE"
QUALITY = re.compile(
    r"-QL_((?:QUALITY|PIXELMASK)[\w-]*?)(?:_COG)?\.tiff?$", re.IGNORECASE
)
NO_VALUE = ("-1000000", "0")  # EnMAP's mean and deviation of a band without a value


class Words(NamedTuple):
    """The elements that describe a band, and others that are read.

    Attributes:
        sensor: Sensor that writes them.
        number: Element of a band's number; empty for the attribute of the band itself.
        centre: Element of its centre, nm.
        width: Element of its width, nm.
        gain: Element of its gain.
        offset: Element of its offset.
        background: Element of the fill value.
        level: Elements that may name the processing level.
        fill: Fill value by level, where the metadata's is not to be trusted.
    """

    sensor: str
    number: str
    centre: str
    width: str
    gain: str
    offset: str
    background: str
    level: tuple[str, ...]
    fill: dict[str, float]


def _columns(words: Words) -> dict[str, str]:
    """Return the elements that hold one number for each band."""
    return {
        "centre": words.centre,
        "width": words.width,
        "gain": words.gain,
        "offset": words.offset,
    }


ENMAP = Words(
    sensor="EnMAP",
    number="",
    centre="bandCharacterisation/bandID/wavelengthCenterOfBand",
    width="bandCharacterisation/bandID/FWHMOfBand",
    gain="bandCharacterisation/bandID/GainOfBand",
    offset="bandCharacterisation/bandID/OffsetOfBand",
    background="specific/backgroundValue",
    level=("base/level", "base/format"),
    fill={"L2A": -32768.0},
)
DESIS = Words(
    sensor="DESIS",
    number="bandCharacterisation/band/bandNumber",
    centre="bandCharacterisation/band/wavelengthCenterOfBand",
    width="bandCharacterisation/band/wavelengthWidthOfBand",
    gain="bandCharacterisation/band/gainOfBand",
    offset="bandCharacterisation/band/offsetOfBand",
    background="backgroundValue",
    level=("productType", "level", "format"),
    fill={},
)
OTHERS = (
    "metadata/name",
    "temporalCoverage/startTime",
    "startTime",
    "vnirProductQuality/expectedChannelsList",
    "swirProductQuality/expectedChannelsList",
    "bandStatistics/bandID/mean",
    "bandStatistics/bandID/stdDeviation",
    "image/merge/name",
    "productFileInformation/file/name",
)
NAMES = {
    name
    for words in (ENMAP, DESIS)
    for name in (
        *(*OTHERS, *words.level, words.number, words.background),
        *_columns(words).values(),
    )
    if name
}


def recognise(path: Path, start: bytes) -> Recognised | None:
    """Recognise METADATA.XML of EnMAP or DESIS.

    Args:
        path: A file.
        start: Its first bytes.

    Raises:
        SceneError: It is such a file, but cannot be read.
    """
    if not start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return None
    if path.stat().st_size > MOST_BYTES:
        return None
    content = read_whole(path, MOST_BYTES)
    if not MARK.search(content):
        return None
    metadata = read_metadata(path, content, NAMES)
    for words in (ENMAP, DESIS):
        if metadata.texts(words.centre):
            return _product(metadata, words).recognised()
    return None


def _product(metadata: Metadata, words: Words) -> TiffProduct:
    """Describe a product by its metadata."""
    levels = [LEVEL.search(metadata.text(name).upper()) for name in words.level]
    name = _name(metadata)
    levels.append(LEVEL.search(name.upper()))
    level = next((match[0] for match in levels if match), "")
    statements = _statements(metadata, words, level)
    cubes = [metadata.text("image/merge/name")] if words is ENMAP else []
    cubes += [f"{name}{CUBE}{end}.tif" for end in ("", "_COG")]
    members = metadata.texts("productFileInformation/file/name")
    refusal = ""
    if level == "L1B":
        refusal = (
            "it is in the geometry of the sensor, without a map grid. Order the "
            "product as L1C or L2A."
        )
    return TiffProduct(
        product=Product(
            kind=f"{words.sensor} {level}".strip(),
            name=name,
            time=metadata.text("temporalCoverage/startTime")
            or metadata.text("startTime"),
        ),
        statements=statements,
        bands=len(statements.tags),
        cube_names=[cube for cube in cubes if cube],
        members=members,
        prefixes=[f"{name}-{kind}" for kind in ("QL_", "HISTORY") if name],
        quality=_quality(metadata.path, name, members),
        refusal=refusal,
    )


def _name(metadata: Metadata) -> str:
    """Return the name of a product, without the part that names its metadata."""
    file = metadata.text("metadata/name") or metadata.path.name
    return re.split("-METADATA", file, flags=re.IGNORECASE)[0].removesuffix(".xml")


def _statements(metadata: Metadata, words: Words, level: str) -> Statements:
    """Collect what the metadata say of the cube's bands."""
    columns = {
        key: metadata.by_number(element, words.number)
        for key, element in _columns(words).items()
    }
    numbers = sorted(columns["centre"])
    if numbers != list(range(1, len(numbers) + 1)):
        raise SceneError(
            f"{metadata.path} describes bands {numbers[0]} to {numbers[-1]}, but only "
            f"{len(numbers)} of them. Copy it again."
        )
    said = Statements(metadata.path, product=True)
    bad = _bad_bands(metadata, len(numbers), said.notes)
    for number in numbers:
        said.tags[number - 1, ""] = {
            "wavelength": columns["centre"][number],
            "wavelength_units": "nm",
            "fwhm": columns["width"].get(number, ""),
            "bbl": "0" if number in bad else "1",
        }
    gain = _numbers(metadata.path, words.gain, columns["gain"])
    offset = _numbers(metadata.path, words.offset, columns["offset"])
    if gain:
        said.scale = {number - 1: gain.get(number, 1.0) for number in numbers}
        said.offset = {number - 1: offset.get(number, 0.0) for number in numbers}
    fill = words.fill.get(level, _background(metadata.text(words.background)))
    if fill is not None:
        said.nodata = dict.fromkeys(range(len(numbers)), fill)
    return said


def _background(text: str) -> float | None:
    """Return the fill value that the metadata state, or None."""
    try:
        return float(text)
    except ValueError:
        return None


def _numbers(path: Path, element: str, texts: dict[int, str]) -> dict[int, float]:
    try:
        return {number: float(text) for number, text in texts.items() if text}
    except ValueError as error:
        raise SceneError(f"{path}: a value of {element} is not a number.") from error


def _bad_bands(metadata: Metadata, bands: int, notes: list[str]) -> set[int]:
    """Find the bands that EnMAP's metadata mark as without values."""
    mean = metadata.by_number("bandStatistics/bandID/mean")
    spread = metadata.by_number("bandStatistics/bandID/stdDeviation")
    bad = {n for n in mean if (mean[n], spread.get(n)) == NO_VALUE}
    lists = metadata.texts("vnirProductQuality/expectedChannelsList")
    lists += metadata.texts("swirProductQuality/expectedChannelsList")
    expected = {
        int(n) for text in lists for n in text.split(",") if n.strip().isdigit()
    }
    unexpected = set(range(1, bands + 1)) - expected
    if not expected:
        return bad
    if len(unexpected) > bands // 2 or max(expected) > bands:
        notes.append(
            f"{metadata.path.name}: expectedChannelsList does not count the cube's "
            "bands; it is not used."
        )
        return bad
    return bad | unexpected


def _quality(path: Path, name: str, members: Iterable[str]) -> list[QualityLayer]:
    """List the quality layers of a product, by the names of its files."""
    try:
        beside = [other.name for other in path.parent.iterdir()]
    except OSError:
        beside = []
    own = {member.lower() for member in members}
    layers = []
    for other in sorted(beside):
        match = QUALITY.search(other)
        if match and (
            other.lower() in own or other.lower().startswith(f"{name}-".lower())
        ):
            layer = match[1].lower().removeprefix("quality_")
            layers.append(QualityLayer(name=layer, place=other))
    return layers

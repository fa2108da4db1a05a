"""Finds the sensor product that a file or a folder belongs to, by content.

Names mean nothing, because people rename what they downloaded: every recogniser looks
into the file. Only which files of a folder may describe a product is told by suffix.
"""

import itertools
import os
from pathlib import Path
from typing import NamedTuple

from hsi_runtime.errors import SceneError
from hsi_runtime.files import open_binary
from hsi_runtime.scenes.hdf5.opening import recognise_hdf5
from hsi_runtime.scenes.products import dlr, wyvern
from hsi_runtime.scenes.products.recognised import (
    START_BYTES,
    Recognised,
    Recogniser,
)

# One line for each family of products; the first that recognises a file has it.
RECOGNISERS: tuple[Recogniser, ...] = (
    dlr.recognise,
    wyvern.recognise,
    recognise_hdf5,
)

# Suffixes of files that describe a product whose pixels lie in another file.
DESCRIPTIONS = (".xml", ".json")
MOST_DESCRIPTIONS = 16  # of a folder that are read for one raster in it


def recognise(path: Path) -> Recognised | None:
    """Find the product of a file: one that it describes, or that it belongs to.

    Args:
        path: A regular file.

    Raises:
        SceneError: The description of the product cannot be read.
    """
    described = _described(path)
    if described is not None:
        return described
    for description in _descriptions_beside(path):
        described = _described(description)
        if described is not None and described.owns(path):
            return described
    return None


class Search(NamedTuple):
    """What was found in a folder.

    Attributes:
        products: Products, in order of name.
        errors: What is wrong with descriptions that cannot be read.
    """

    products: list[Recognised]
    errors: list[SceneError]


def products_in(folder: Path) -> Search:
    """Find the products in a folder, not in the folders below it.

    Raises:
        SceneError: The folder cannot be listed.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise SceneError(f"{folder} cannot be listed: {error.strerror}.") from error
    products: dict[Path, Recognised] = {}
    errors: list[SceneError] = []
    for path in files:
        try:
            described = _described(path)
        except SceneError as error:
            errors.append(error)
            continue
        if described is not None:
            products.setdefault(described.path, described)
    return Search(list(products.values()), errors)


def _described(path: Path) -> Recognised | None:
    """Return the product that a file describes, if it describes one."""
    with open_binary(path) as file:
        start = file.read(START_BYTES)
    for recogniser in RECOGNISERS:
        described = recogniser(path, start)
        if described is not None:
            return described
    return None


def _descriptions_beside(path: Path) -> list[Path]:
    """List files that may describe the product of a raster, likely ones first.

    Those whose names begin like the raster's come first, as archives name them. A
    folder of thousands of scenes must not make each of them slow to open.
    """
    try:
        with os.scandir(path.parent) as entries:
            names = [
                entry.name
                for entry in entries
                if entry.name.lower().endswith(DESCRIPTIONS)
                and not entry.name.lower().endswith((".aux.xml", ".stac.json"))
                and entry.name != path.name
                and entry.is_file()
                and os.access(entry.path, os.R_OK)
            ]
    except OSError:  # a folder that may be entered but not listed
        return []

    def alike(name: str) -> int:
        pairs = zip(name.lower(), path.name.lower(), strict=False)
        return sum(
            1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
        )

    likely = sorted(sorted(names), key=alike, reverse=True)[:MOST_DESCRIPTIONS]
    return [path.with_name(name) for name in likely]

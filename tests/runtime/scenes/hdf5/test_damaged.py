"""Whatever an attribute holds: the scene opens, or is refused in a sentence."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from products import Delivered

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.opening import open_scene

ODD: dict[str, Any] = {
    "a word": "x",
    "no text": "",
    "bytes that are no text": b"\xff\xfe",
    "a long text": "9" * 5000,
    "not a number": np.nan,
    "a large number": 10**18,
    "infinite": np.inf,
    "a complex number": 1j,
    "three numbers": np.array([1.0, 2.0, 3.0]),
    "no number": np.array([], float),
    "words": np.array([b"a", b"b"]),
    "a table": np.zeros((3, 4)),
    "nothing": h5py.Empty("f"),
}


def attributes(path: Path) -> list[tuple[str, str]]:
    places = [""]
    with h5py.File(path) as file:
        file.visit(places.append)
        return [(p, name) for p in places for name in file[p or "/"].attrs]


@pytest.mark.parametrize("product", ["prisma", "neon", "tanager", "emit", "aviris3"])
def test_odd_attributes(
    product: str, delivered: Callable[..., Delivered], tmp_path: Path
) -> None:
    whole, changed = delivered(product, bands=9).path, tmp_path / "changed"
    opened = 0
    for place, name in attributes(whole):
        for what, value in ODD.items():
            shutil.copy(whole, changed)
            with h5py.File(changed, "r+") as file:
                file[place or "/"].attrs[name] = value
            # Any other error shows the place and the value.
            print(f"{place}@{name}: {what}")
            with (
                contextlib.suppress(SceneError),
                contextlib.closing(open_scene(changed)) as scene,
            ):
                scene.read((0, 4), (0, 4), np.arange(2))
                opened += 1
    assert opened  # most attributes decide nothing


def test_lists_of_one_spectrometer_that_differ(
    delivered: Callable[..., Delivered], tmp_path: Path
) -> None:
    """Together they have the right length; every band would have its neighbour's."""
    path = tmp_path / "prisma.he5"
    shutil.copy(delivered("prisma", bands=9).path, path)
    with h5py.File(path, "r+") as file:
        for name, change in (("Vnir", 1), ("Swir", -1)):
            widths = file.attrs[f"List_Fwhm_{name}"]
            file.attrs[f"List_Fwhm_{name}"] = np.resize(widths, len(widths) + change)
    with pytest.raises(SceneError, match="of Vnir, but its lists of them have"):
        open_scene(path)

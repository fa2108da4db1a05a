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


@pytest.mark.parametrize("product", ["prisma", "neon", "tanager", "emit", "aviris3"])
def test_attribute_without_a_value_counts_as_missing(
    product: str, delivered: Callable[..., Delivered], copied: Callable[[Path], Path]
) -> None:
    """NetCDF writes an empty text so; only what a scene needs may refuse it."""
    whole = delivered(product, bands=9).path
    for place, name in attributes(whole):
        opened = []
        for value in (None, h5py.Empty("S1"), np.array([], float)):
            changed = copied(whole)
            with h5py.File(changed, "r+") as file:
                del file[place or "/"].attrs[name]
                if value is not None:
                    file[place or "/"].attrs[name] = value
            try:
                open_scene(changed).close()
                opened.append("")
            except SceneError as error:
                opened.append(str(error))
        assert len(set(opened)) == 1, (place, name)


@pytest.mark.parametrize("product", ["prisma", "neon", "tanager", "emit", "aviris3"])
def test_data_set_without_a_value_is_refused(
    product: str, delivered: Callable[..., Delivered], copied: Callable[[Path], Path]
) -> None:
    whole = delivered(product, bands=9).path
    names: list[str] = []
    with h5py.File(whole) as file:
        file.visititems(
            lambda name, item: (
                names.append(name)
                if isinstance(item, h5py.Dataset) and item.dtype.kind in "iuf"
                else None
            )
        )
    refused = 0
    for name in names:
        changed = copied(whole)
        with h5py.File(changed, "r+") as file:
            shape, kind = file[name].shape, file[name].dtype
            noted = dict(file[name].attrs)
            del file[name]
            file.create_dataset(name, shape=(0, *shape[1:]), dtype=kind)
            file[name].attrs.update(noted)
        try:
            open_scene(changed).close()
        except SceneError as error:
            refused += "holds no value. Is the file complete?" in str(error)
    assert refused


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

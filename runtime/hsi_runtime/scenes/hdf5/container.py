"""Opens HDF5 files of others and reads what describes a product in them.

Whatever is read lies in the file itself. Only hard links are followed, because soft and
external ones may lead out of the file; data sets that are virtual, or whose values lie
in another file, are refused; and no plug-in of a filter is loaded, because values are
decoded here (`values`). What a file declares is compared with limits before memory is
taken for it.

HDF5 is not parallel: one lock serves all files.
"""

import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5pl, h5t
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.files import open_binary
from hsi_runtime.scenes.hdf5.values import Values

DESCRIBING_BYTES = 1024**2  # of an attribute, or of a data set that describes others
# Texts of any length: length, heap and number of one; a heap; an item of it.
REFERENCE, COLLECTION = struct.Struct("<IQI"), struct.Struct("<4s4sQ")
ITEM = struct.Struct("<HHxxxxQ")
MOST_NAMES = 1000  # of a group that are looked at
DEEPEST, MOST_LISTED = 4, 20  # of the groups that a message lists

DAMAGED = (OSError, RuntimeError, KeyError, TypeError, ValueError)

_lock = threading.RLock()


class Container:
    """An open HDF5 or netCDF4 file.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            SceneError: It cannot be read as HDF5.
        """
        self.path = path
        self._bytes = open_binary(path)
        with self._calls():
            # Named, so that no variable of the environment chooses another driver.
            driver = None if os.name == "nt" else "sec2"
            options = {"driver": driver, "locking": "best-effort", "rdcc_nbytes": 0}
            try:
                self._file = h5py.File(path, "r", **options)
            except BaseException:
                self._bytes.close()
                raise

    def close(self) -> None:
        """Close the file."""
        self._bytes.close()
        with self._calls():
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def has(self, name: str) -> bool:
        """Return True if there is a group or a data set of that name."""
        return self._find(name) is not None

    def names(self, group: str = "") -> list[str]:
        """List what is in a group, the first `MOST_NAMES`; nothing if there is none."""
        with self._calls():
            found = self._find(group)
            return _names(found) if isinstance(found, h5g.GroupID) else []

    def values(self, name: str) -> Values:
        """Describe a data set of numbers.

        Raises:
            SceneError: There is none of that name, or its values cannot be read.
        """
        with self._calls():
            found = self._find(name)
            if not isinstance(found, h5d.DatasetID):
                raise SceneError(f"{self.path} has no data set {name}.")
            _check_storage(self.path, name, found)
            return Values(
                self.path, self._bytes, name=name, dataset=found, calls=self._calls
            )

    def numbers(self, name: str) -> NDArray[np.float64] | None:
        """Read a small data set of numbers; None where there is none."""
        if not self.has(name):
            return None
        values = self.values(name)
        if values.bytes > DESCRIBING_BYTES:
            raise SceneError(
                f"{self.path}: {name} has {values.bytes} bytes, where at most "
                f"{DESCRIBING_BYTES} were expected."
            )
        return values.read([(0, length) for length in values.shape]).astype(np.float64)

    def text(self, name: str) -> str:
        """Read a data set that holds one text; empty where there is none."""
        with self._calls():
            found = self._find(name)
            if not isinstance(found, h5d.DatasetID):
                return ""
            plan = _check_storage(self.path, name, found)
            size = max(found.get_storage_size(), found.get_type().get_size())
            if plan.get_nfilters() or size > DESCRIBING_BYTES:
                raise SceneError(
                    f"{self.path}: {name} is compressed, or has more than "
                    f"{DESCRIBING_BYTES} bytes; a short text was expected."
                )
            if (
                h5t.check_string_dtype(found.dtype)
                and found.get_type().is_variable_str()
            ):
                return self._variable_text(name, found)
            return _as_text(h5py.Dataset(found)[()])

    def _variable_text(self, name: str, dataset: Any) -> str:
        """Read a text of any length from the heap of the file, where such texts lie.

        HDF5 would not return from a heap that is damaged.
        """
        bytes_of, where = self._bytes.fileno(), dataset.get_offset()
        if where is None or dataset.get_space().get_simple_extent_npoints() != 1:
            return ""
        length, heap, number = REFERENCE.unpack(
            os.pread(bytes_of, REFERENCE.size, where)
        )
        mark, _, size = COLLECTION.unpack(os.pread(bytes_of, COLLECTION.size, heap))
        if mark == b"GCOL" and size <= 4 * DESCRIBING_BYTES:
            content, at = os.pread(bytes_of, size, heap), COLLECTION.size
            while at + ITEM.size <= len(content):
                found, _, taken = ITEM.unpack_from(content, at)
                at += ITEM.size
                if found == number and length <= taken:
                    return _as_text(content[at : at + length])
                at += -(-taken // 8) * 8
                if not found:  # the rest is free
                    break
        raise ValueError(f"the text of {name} is damaged")

    def attribute(self, name: str, *places: str) -> Any:
        """Read an attribute of the first place that has it, "" being the root.

        Returns:
            As h5py gives it; None where no place has it, or it holds no value.
        """
        with self._calls():
            for place in places or ("",):
                found = self._find(place)
                if found is None or not h5a.exists(found, name.encode()):
                    continue
                one = h5a.open(found, name.encode())
                # netCDF writes an empty text as no value at all.
                if not one.get_space().get_simple_extent_npoints():
                    continue
                size = max(one.get_storage_size(), one.get_type().get_size())
                if size > DESCRIBING_BYTES:
                    raise SceneError(
                        f"{self.path}: the attribute {name} has {size} bytes; at most "
                        f"{DESCRIBING_BYTES} are read."
                    )
                group = isinstance(found, h5g.GroupID)
                return (h5py.Group if group else h5py.Dataset)(found).attrs[name]
        return None

    def attribute_text(self, name: str, *places: str) -> str:
        """Read an attribute as text; empty where there is none."""
        value = self.attribute(name, *places)
        return "" if value is None else _as_text(value)

    def attribute_numbers(self, name: str, *places: str) -> NDArray[np.float64] | None:
        """Read an attribute as numbers, shape ``(value,)``; None where there is none.

        Raises:
            SceneError: A value is not a number.
        """
        value = self.attribute(name, *places)
        if value is None:
            return None
        try:
            if np.iscomplexobj(value):
                raise TypeError
            return np.asarray(value).astype(np.float64).ravel()
        except (TypeError, ValueError) as error:
            raise SceneError(
                f"{self.path}: the attribute {name} holds no numbers."
            ) from error

    def listing(self) -> list[str]:
        """List groups and data sets for a message, the shallow ones first."""
        with self._calls():
            level: list[tuple[str, Any]] = [("", self._file.id)]
            listed: list[str] = []
            for _ in range(DEEPEST):
                below = []
                for place, group in level:
                    for name in _names(group)[: MOST_LISTED - len(listed)]:
                        listed.append(f"{place}{name}")
                        item = _linked(group, name)
                        if isinstance(item, h5g.GroupID):
                            below.append((f"{place}{name}/", item))
                level = below
        return listed

    def _find(self, name: str) -> Any:
        """Follow hard links to a group or a data set; None where there is none.

        Raises:
            SceneError: A link leads elsewhere.
        """
        with self._calls():
            item: Any = h5o.open(self._file.id, b"/")
            for part in filter(None, name.split("/")):
                if not isinstance(item, h5g.GroupID):
                    return None
                if not item.links.exists(part.encode()):
                    return None
                item = _linked(item, part)
                if item is None:
                    raise _refers(self.path, part, "a link")
            return item

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """Call HDF5: alone, without its plug-ins, with its errors turned into ours."""
        with _lock, _without_plugins():
            try:
                yield
            except (*DAMAGED, struct.error) as error:
                raise SceneError(
                    f"{self.path} cannot be read as HDF5: {str(error).rstrip('.')}. Is "
                    "the file complete?"
                ) from error


@contextmanager
def _without_plugins() -> Iterator[None]:
    """Hide the folders of plug-ins (``HDF5_PLUGIN_PATH``) from HDF5 for a while."""
    folders = [h5pl.get(number) for number in range(h5pl.size())]
    for _ in folders:
        h5pl.remove(0)
    try:
        yield
    finally:
        for folder in folders:
            h5pl.append(folder)


def _names(group: Any) -> list[str]:
    found: list[str] = []

    def take(name: bytes) -> bool | None:
        found.append(name.decode("utf-8", "replace"))
        return True if len(found) >= MOST_NAMES else None

    group.links.iterate(take)
    return found


def _linked(group: Any, name: str) -> Any:
    """Open what a hard link leads to; None for other links and other objects."""
    encoded = name.encode("utf-8", "replace")
    if group.links.get_info(encoded).type != h5l.TYPE_HARD:
        return None
    item = h5o.open(group, encoded)
    return item if isinstance(item, h5g.GroupID | h5d.DatasetID) else None


def _check_storage(path: Path, name: str, dataset: Any) -> Any:
    """Refuse a data set whose values lie in other files; return how it is stored.

    Its size is not asked for before: that of a virtual one may depend on other files.
    """
    plan = dataset.get_create_plist()
    if plan.get_layout() == h5d.VIRTUAL:
        raise _refers(path, name, "a virtual data set")
    if plan.get_external_count():
        raise _refers(path, name, "raw external storage")
    return plan


def _refers(path: Path, name: str, how: str) -> SceneError:
    return SceneError(
        f"{path}: {name} is {how}, which may read another file. Store the values in "
        "the file itself."
    )


def _as_text(value: Any) -> str:
    """Return the text of a scalar, or of an array that holds one."""
    if isinstance(value, np.ndarray):
        if value.size != 1:
            return ""
        value = value.ravel()[0]
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text.strip("\0 \n")

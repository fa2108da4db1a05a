"""Lists and reads the variables of MATLAB files, v5 and v7.3 (HDF5).

Sizes are checked before anything is read, and one variable is read at a time: a file of
a kilobyte can promise gigabytes. HDF5 can refer to other files by external links, raw
external storage and virtual data sets; a file that does is refused.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import ResourceError, SceneError
from hsi_runtime.files import local_file, open_binary
from hsi_runtime.machine import machine_bytes
from hsi_train.data.formats import matlab_structs
from hsi_train.data.formats.matlab_structs import MOST_VARIABLES, too_many

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
MATLAB_HEADER_BYTES = 512  # before HDF5 in v7.3
# zlib cannot make data smaller than this share of them.
MOST_COMPRESSED = 1032
V5_TYPES = {
    "double": "f8", "single": "f4", "logical": "u1",
    "int8": "i1", "int16": "i2", "int32": "i4", "int64": "i8",
    "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8",
}  # fmt: skip
NO_NUMBERS = ("char", "cell", "struct", "function_handle", "object")


class Variable(NamedTuple):
    """A variable of a MATLAB file, before it is read.

    Attributes:
        shape: As MATLAB shows it.
        dtype: Type of real numbers, or None for text, cells, structs and others.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None


class MatlabFile(Protocol):
    """An open MATLAB file."""

    @property
    def variables(self) -> Mapping[str, Variable]:
        """The variables by name."""

    def fields(self, name: str) -> Mapping[str, tuple[int, ...]]:
        """Return the shapes of the fields of a struct; none for another variable."""

    def read(self, name: str) -> NDArray[Any]:
        """Read a variable that holds numbers, in native byte order.

        Raises:
            SceneError: It is damaged, or promises more than the file can hold.
            ResourceError: It is larger than the machine's memory.
        """


def open_file(path: str) -> MatlabFile:
    """Open a MATLAB file by its first bytes.

    Raises:
        SceneError: It is damaged, or refers to other files.
    """
    with open_binary(local_file(path)) as stream:
        magic = stream.read(8)
        stream.seek(MATLAB_HEADER_BYTES)
        nested = stream.read(8)
    return _Hdf5(path) if HDF5_MAGIC in (magic, nested) else _Version5(path)


def _check_bytes(path: str, name: str, variable: Variable) -> None:
    assert variable.dtype is not None
    needed = variable.dtype.itemsize
    for length in variable.shape:
        needed *= length
    if needed > MOST_COMPRESSED * local_file(path).stat().st_size:
        raise SceneError(
            f"{path} is too small for {name} with shape {variable.shape}: it is "
            "damaged, or was never filled. Save the variable again."
        )
    if needed > machine_bytes():
        raise ResourceError(
            f"{name} of {path} takes {needed / 1e9:.1f} GB, more than the memory of "
            "this machine. Save a part of it, or convert it to GeoTIFF or ENVI."
        )


class _Version5:
    def __init__(self, path: str) -> None:
        from scipy.io import loadmat, whosmat

        matlab_structs.check_count(path)
        self._path, self._load = path, loadmat
        try:
            listed = whosmat(path)
        except Exception as error:  # scipy raises many kinds for a damaged file
            raise _damaged(path, error) from error
        self.variables = {
            name: Variable(
                shape=tuple(int(n) for n in shape),
                dtype=np.dtype(V5_TYPES[kind]) if kind in V5_TYPES else None,
            )
            for name, shape, kind in listed
            if kind != "sparse"
        }

    def fields(self, name: str) -> dict[str, tuple[int, ...]]:
        if self.variables[name].dtype is not None:
            return {}
        return matlab_structs.fields(self._path, name)

    def read(self, name: str) -> NDArray[Any]:
        _check_bytes(self._path, name, self.variables[name])
        try:
            array = self._load(self._path, variable_names=[name])[name]
        except Exception as error:
            raise _damaged(self._path, error) from error
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iufb":
            raise SceneError(f"{self._path}: {name} holds no real numbers.")
        return array.astype(array.dtype.newbyteorder("="), copy=False)


class _Hdf5:
    def __init__(self, path: str) -> None:
        import h5py

        self._path = path
        self.variables: dict[str, Variable] = {}
        try:
            with h5py.File(path, "r") as content:
                if len(content) > MOST_VARIABLES:
                    raise too_many(path)
                for name in content:
                    link = content.get(name, getlink=True)
                    if isinstance(link, h5py.ExternalLink):
                        raise self._refers(name, "an external link")
                    # Soft links name the same data again, and may lead anywhere.
                    if isinstance(link, h5py.HardLink) and not name.startswith("#"):
                        self.variables[name] = self._variable(content, name)
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, SceneError):
                raise
            raise _damaged(path, error) from error

    def _variable(self, content: Any, name: str) -> Variable:
        import h5py

        item = content[name]
        if not isinstance(item, h5py.Dataset):
            return Variable((1, 1), None)
        self._check_storage(item, name)
        kind = item.attrs.get("MATLAB_class", b"")
        text = kind.decode("ascii", "replace") if isinstance(kind, bytes) else str(kind)
        real = item.dtype.kind in "iufb" and text not in NO_NUMBERS
        # MATLAB counts axes from the other end: HDF5 shows them reversed.
        return Variable(item.shape[::-1], item.dtype if real else None)

    def _check_storage(self, item: Any, name: str) -> None:
        if item.external:
            raise self._refers(name, "raw external storage")
        if item.is_virtual:
            raise self._refers(name, "a virtual data set")

    def fields(self, name: str) -> dict[str, tuple[int, ...]]:
        import h5py

        with h5py.File(self._path, "r") as content:
            group = content[name]
            if not isinstance(group, h5py.Group):
                return {}
            items = {
                field: group[field]
                for field in group
                if isinstance(group.get(field, getlink=True), h5py.HardLink)
            }
            return {
                field: item.shape[::-1]
                for field, item in items.items()
                if isinstance(item, h5py.Dataset)
            }

    def _refers(self, name: str, how: str) -> SceneError:
        return SceneError(
            f"{self._path}: {name} is {how}, which reads another file. Save the "
            "variables themselves into one file."
        )

    def read(self, name: str) -> NDArray[Any]:
        import h5py

        _check_bytes(self._path, name, self.variables[name])
        try:
            with h5py.File(self._path, "r") as content:
                array: NDArray[Any] = np.asarray(content[name]).T
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise _damaged(self._path, error) from error
        return array.astype(array.dtype.newbyteorder("="), copy=False)


def _damaged(path: str, error: Exception) -> SceneError:
    return SceneError(f"{path} is not a readable MATLAB file: {error}.")

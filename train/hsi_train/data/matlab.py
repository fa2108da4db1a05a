"""Reads MATLAB files, v5 and v7.3: benchmark cubes and their label maps."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.files import local_file
from hsi_runtime.scenes.array_scene import ArrayScene

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def is_matlab(path: str) -> bool:
    """Return True for a MATLAB file, ``file.mat`` or ``file.mat:name``."""
    return path.lower().endswith(".mat") or ".mat:" in path.lower()


def open_cube(path: str) -> ArrayScene:
    """Open the 3-D array of a MATLAB file, axes ``(row, col, band)``.

    Raises:
        SceneError: No such array, or several and none is named.
    """
    cube = np.moveaxis(read_array(path, 3), 2, 0)
    return ArrayScene(cube, Path(split_name(path)[0]))


def read_array(path: str, dimensions: int) -> NDArray[Any]:
    """Read the array named after the colon, or the only one of that dimension.

    Only arrays of real numbers count; the values come in native byte order.

    Raises:
        SceneError: The file is damaged, or the array is not to be found.
    """
    file, variable = split_name(path)
    with local_file(file).open("rb") as stream:
        magic = stream.read(8)
        stream.seek(512)
        nested = stream.read(8)  # v7.3 keeps 512 bytes of MATLAB header first
    is_hdf5 = HDF5_MAGIC in (magic, nested)
    every = _read_hdf5(file) if is_hdf5 else _read_v5(file)
    shapes = ", ".join(f"{k} {v.shape}" for k, v in every.items()) or "none"
    arrays = {
        k: v.astype(v.dtype.newbyteorder("="), copy=False)
        for k, v in every.items()
        if v.dtype.kind in "iufb"
    }
    if variable is not None:
        if variable not in arrays or arrays[variable].ndim != dimensions:
            raise SceneError(
                f"{file} has no {dimensions}-D array {variable!r}; arrays in it: "
                f"{shapes}."
            )
        return arrays[variable]
    fitting = [v for v in arrays.values() if v.ndim == dimensions and v.size > 1]
    if len(fitting) != 1:
        raise SceneError(
            f"{file} has {len(fitting)} {dimensions}-D arrays; expected one, or its "
            f"name as {file}:NAME. Arrays in it: {shapes}."
        )
    return fitting[0]


def split_name(path: str) -> tuple[str, str | None]:
    """Separate ``file.mat:name`` into the file and the name, None where none is."""
    at = path.lower().rfind(".mat:")
    if at < 0:
        return path, None
    return path[: at + 4], path[at + 5 :]


def _read_v5(file: str) -> dict[str, NDArray[Any]]:
    from scipy.io import loadmat

    try:
        content = loadmat(file)
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise SceneError(f"{file} is not a readable MATLAB file: {error}.") from error
    return {k: v for k, v in content.items() if isinstance(v, np.ndarray)}


def _read_hdf5(file: str) -> dict[str, NDArray[Any]]:
    import h5py

    try:
        with h5py.File(file, "r") as content:
            # MATLAB counts axes from the other end: HDF5 shows them reversed.
            return {
                k: np.asarray(v).T
                for k, v in content.items()
                if isinstance(v, h5py.Dataset) and v.dtype.kind in "iufbc"
            }
    except OSError as error:
        raise SceneError(f"{file} is not a readable MATLAB file: {error}.") from error

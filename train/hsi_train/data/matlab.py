"""Chooses the array in a MATLAB file: a cube with what it declares, or a label map."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.array_scene import ArrayScene
from hsi_runtime.scenes.wavelengths import Place, choose
from hsi_train.data.formats.matlab_files import MatlabFile, open_file

# Variables beside a cube that describe it, in any case of letters.
WAVELENGTHS = {"wavelength": "", "wavelengths": "", "wavelengths_nm": "nm"}
WIDTHS = ("fwhm", "fwhm_nm")
NODATA = ("nodata", "nodata_value", "nodatavalue", "fillvalue", "data_ignore_value")
MOST_LISTED = 20  # variables in a message


def is_matlab(path: str) -> bool:
    """Return True for a MATLAB file, ``file.mat`` or ``file.mat:name``."""
    return path.lower().endswith(".mat") or ".mat:" in path.lower()


def open_cube(path: str) -> ArrayScene:
    """Open the 3-D array of a MATLAB file, axes ``(row, col, band)``.

    Variables ``wavelengths``, ``fwhm`` and ``nodata`` beside it describe it.

    Raises:
        SceneError: No such array, or several and none is named.
        ResourceError: It is larger than the machine's memory.
    """
    file = open_file(split_name(path)[0])
    cube = np.moveaxis(_read(file, path, 3), 2, 0)
    source = Path(split_name(path)[0])
    centres, unit, notes = _per_band(file, source, WAVELENGTHS, len(cube))
    widths, _, _ = _per_band(file, source, dict.fromkeys(WIDTHS, ""), len(cube))
    spectrum = choose(str(source), [_place(centres, widths, unit, len(cube))])
    fills, _ = _beside(file, dict.fromkeys(NODATA, ""))
    if fills is not None and len(np.unique(fills)) != 1:
        raise SceneError(
            f"{source} declares several values of nodata; a cube has one. Save it as "
            "one number."
        )
    scene = ArrayScene(
        cube,
        source,
        nodata=None if fills is None else float(fills[0]),
        wavelengths_nm=spectrum.centres,
        fwhm_nm=spectrum.widths,
    )
    scene.info = replace(
        scene.info,
        notes=(*notes, *spectrum.notes, *scene.info.notes),
        files=(source.absolute(),),
    )
    return scene


def read_array(path: str, dimensions: int) -> NDArray[Any]:
    """Read the array named after the colon, or the only one of that dimension.

    Only arrays of real numbers count; the values come in native byte order.

    Raises:
        SceneError: The file is damaged, or does not have the array.
        ResourceError: It is larger than the machine's memory.
    """
    return _read(open_file(split_name(path)[0]), path, dimensions)


def split_name(path: str) -> tuple[str, str | None]:
    """Separate ``file.mat:name`` into the file and the name, None where none is."""
    at = path.lower().rfind(".mat:")
    if at < 0:
        return path, None
    return path[: at + 4], path[at + 5 :]


def _read(file: MatlabFile, path: str, dimensions: int) -> NDArray[Any]:
    source, name = split_name(path)
    fitting = {
        key: variable
        for key, variable in file.variables.items()
        if variable.dtype is not None and len(variable.shape) == dimensions
    }
    if name is not None:
        if name not in fitting:
            raise SceneError(
                f"{source} has no {dimensions}-D array {name!r}; arrays in it: "
                f"{_listed(file)}."
            )
        return file.read(name)
    several = [key for key, v in fitting.items() if max(v.shape) > 1]
    if len(several) != 1:
        raise SceneError(
            f"{source} has {len(several)} {dimensions}-D arrays; expected one, or its "
            f"name as {source}:NAME. Arrays in it: {_listed(file)}."
        )
    return file.read(several[0])


def _listed(file: MatlabFile) -> str:
    """List variables with their shapes, and the fields of structs."""
    shown = []
    for name, variable in islice(file.variables.items(), MOST_LISTED):
        text = f"{name} {variable.shape}"
        if fields := file.fields(name):
            listed = ", ".join(f"{k} {shape}" for k, shape in fields.items())
            text += f", a struct with fields {listed}: save the field as a variable"
        shown.append(text)
    if (more := len(file.variables) - MOST_LISTED) > 0:
        shown.append(f"and {more} more")
    return ", ".join(shown) or "none"


def _place(
    centres: NDArray[np.float64] | None,
    widths: NDArray[np.float64] | None,
    unit: str,
    bands: int,
) -> Place:
    """State the wavelengths as those of other files are stated."""

    def texts(values: NDArray[np.float64] | None) -> list[str]:
        return [""] * bands if values is None else [str(v) for v in values]

    return Place(
        name="", centres=texts(centres), widths=texts(widths), units=[unit] * bands
    )


def _per_band(
    file: MatlabFile, source: Path, names: Mapping[str, str], bands: int
) -> tuple[NDArray[np.float64] | None, str, list[str]]:
    """Read one number for each band, its unit, and a note where the count is other."""
    values, unit = _beside(file, names)
    if values is None or len(values) == bands:
        return values, unit, []
    return (
        None,
        "",
        [
            f"{source}: {next(iter(names))} has {len(values)} values for {bands} bands "
            "and is not used."
        ],
    )


def _beside(
    file: MatlabFile, names: Mapping[str, str]
) -> tuple[NDArray[np.float64] | None, str]:
    """Read a list of numbers by one of several names; None where there is none."""
    for name, variable in file.variables.items():
        unit = names.get(name.lower())
        if unit is None or variable.dtype is None or not variable.shape:
            continue
        if np.prod(variable.shape) == max(variable.shape):
            return file.read(name).ravel().astype(np.float64), unit
    return None, ""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CENTRES = [450.0, 550.0, 650.0, 750.0]
NAMES = ["soil_1", "soil_2", "grass_1", "grass_2", "grass_3"]
SOIL, GRASS = [0.1, 0.15, 0.2, 0.25], [0.04, 0.1, 0.05, 0.4]


def reflectances() -> NDArray[np.float64]:
    """Two spectra of soil and three of grass, all different."""
    lines = np.array([SOIL, SOIL, GRASS, GRASS, GRASS])
    scaled: NDArray[np.float64] = lines * (1 + 0.05 * np.arange(5))[:, None]
    return scaled


def write_library(
    folder: Path, values: NDArray[Any] | None = None, **fields: Any
) -> Path:
    """Write ``library.sli`` by hand with its header; None leaves a field out."""
    stored = reflectances().astype("<f4") if values is None else values
    known: dict[str, Any] = {
        "samples": stored.shape[1],
        "lines": len(stored),
        "bands": 1,
        "header offset": 0,
        "file type": "ENVI Spectral Library",
        "data type": {"f4": 4, "i2": 2, "f8": 5}[stored.dtype.str[1:]],
        "interleave": "bsq",
        "byte order": 0,
        "reflectance scale factor": 1.0,
        "wavelength units": "Nanometers",
        "wavelength": braces(CENTRES),
        "spectra names": braces(NAMES),
    }
    known |= {key.replace("_", " "): value for key, value in fields.items()}
    lines = [f"{key} = {value}" for key, value in known.items() if value is not None]
    header = folder / "library.hdr"
    header.write_text("\n".join(["ENVI", *lines]) + "\n", encoding="utf-8")
    data = folder / "library.sli"
    data.write_bytes(stored.tobytes())
    return data


def braces(values: Sequence[object]) -> str:
    return "{" + ",\n ".join(map(str, values)) + "}"


def write_table(
    path: Path,
    classes: Sequence[str] = ("soil", "soil", "grass", "grass", "grass"),
    centres: Sequence[object] = CENTRES,
    values: NDArray[Any] | None = None,
    delimiter: str = ",",
) -> Path:
    """Write a CSV file with a column for the class, and one for each band."""
    stored = reflectances() if values is None else values
    lines = [["class", *map(str, centres)]]
    lines += [[name, *map(str, row)] for name, row in zip(classes, stored, strict=True)]
    path.write_text("\n".join(map(delimiter.join, lines)) + "\n", encoding="utf-8")
    return path

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.scenes.scene import Scene


def header_text(**fields: Any) -> str:
    """Write a header of 3 bands, 4 lines, 5 samples; None leaves a field out."""
    known: dict[str, Any] = {
        "samples": 5,
        "lines": 4,
        "bands": 3,
        "header offset": 0,
        "data type": 12,
        "interleave": "bsq",
        "byte order": 0,
    }
    known |= {key.replace("_", " "): value for key, value in fields.items()}
    lines = [f"{key} = {value}" for key, value in known.items() if value is not None]
    return "\n".join(["ENVI", *lines]) + "\n"


def write(folder: Path, **fields: Any) -> Path:
    """Write ``scene.img`` with its header; 3 x 4 x 5 whole numbers by default."""
    values = fields.pop("values", np.arange(60, dtype="<u2").reshape(3, 4, 5))
    (folder / "scene.hdr").write_text(header_text(**fields), encoding="utf-8")
    data = folder / "scene.img"
    data.write_bytes(values.tobytes())
    return data


def everything(scene: Scene) -> NDArray[Any]:
    info = scene.info
    cube = scene.read((0, info.rows), (0, info.cols), np.arange(info.bands))
    scene.close()
    return cube

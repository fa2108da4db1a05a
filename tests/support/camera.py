"""A camera for tests: writes a cube line by line into an ENVI file, as told."""

from pathlib import Path
from typing import Any

import numpy as np
from envi_files import header_text
from numpy.typing import NDArray

ORDERS = {"bil": (1, 0, 2), "bip": (1, 2, 0), "bsq": (0, 1, 2)}
TYPES = {"uint8": 1, "int16": 2, "float32": 4, "uint16": 12}
WAVELENGTHS = "{450, 550, 650, 850}"


class Camera:
    """A data file and its header; the header comes first, without its lines.

    Args:
        folder: Where ``flight.bil`` and ``flight.hdr`` are written.
        cube: What is there to see, shape ``(band, row, col)``.
        interleave: ``bil`` or ``bip``.
        lines: Of the first header.
        fields: Further fields of every header.
    """

    def __init__(
        self,
        folder: Path,
        cube: NDArray[Any],
        interleave: str = "bil",
        lines: int = 0,
        **fields: Any,
    ) -> None:
        self.cube, self.interleave, self.fields = cube, interleave, fields
        self.path = folder / "flight.bil"
        self.header_path = folder / "flight.hdr"
        self.written = 0
        self.header(lines)
        self.path.write_bytes(b"")

    @property
    def line_bytes(self) -> int:
        return self.cube[:, 0].nbytes

    def bytes_of(self, rows: slice) -> bytes:
        return self.cube[:, rows].transpose(ORDERS[self.interleave]).tobytes()

    def write(self, lines: int, part: float = 0.0) -> None:
        """Write more lines, and a part of the next one."""
        data = self.bytes_of(slice(self.written, self.written + lines + 1))
        size = int((lines + part) * self.line_bytes)
        with self.path.open("r+b", buffering=0) as file:
            file.seek(self.written * self.line_bytes)
            file.write(data[:size])
        self.written += lines

    def header(self, lines: int, **changed: Any) -> None:
        bands, _, cols = self.cube.shape
        fields = {
            "samples": cols,
            "bands": bands,
            "data_type": TYPES[self.cube.dtype.name],
            "interleave": self.interleave,
            "wavelength": WAVELENGTHS,
            "wavelength_units": "Nanometers",
            "reflectance_scale_factor": 10000,
            "map_info": "{UTM, 1, 1, 400000, 5800000, 2, 2, 33, North, WGS-84}",
        }
        text = header_text(**(fields | self.fields | {"lines": lines} | changed))
        self.header_path.write_text(text, encoding="utf-8")

    def finish(self) -> None:
        """Write all lines that are left, and the final header."""
        self.write(self.cube.shape[1] - self.written)
        self.header(self.written)


def tall_cube(rows: int, cols: int = 31, seed: int = 3) -> NDArray[np.uint16]:
    """Return 4 bands of patches with noise, nowhere 0."""
    random = np.random.default_rng(seed)
    small = random.integers(500, 9000, (4, rows // 4 + 1, cols // 4 + 1))
    patches = np.kron(small, np.ones((1, 4, 4)))[:, :rows, :cols]
    rough = patches + random.normal(0, 300, patches.shape)
    return rough.clip(1, 9999).astype(np.uint16)

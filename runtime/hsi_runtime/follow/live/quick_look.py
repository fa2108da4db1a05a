"""Draws the live map as a PNG that grows with it, for a look from afar."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hsi_runtime.output.layers import Layer, rgb

MOST_ROWS = 2000  # of the picture; a longer flight is thinned out
REDRAW_S = 1.0


class QuickLook:
    """A picture of all classes so far, with every n-th row and column.

    Args:
        path: The PNG, which is replaced at once.
        layer: The class map, with its colours.
        cols: Width of the map.
    """

    def __init__(self, path: Path, layer: Layer, cols: int) -> None:
        self._path, self._step, self._rows = path, 1, 0
        self._lines: list[NDArray[Any]] = []
        self._cols = cols
        colors = layer.colors or {}
        self._table = np.zeros((int(np.iinfo(layer.dtype).max) + 1, 3), np.uint8)
        for code, text in colors.items():
            self._table[code] = rgb(text)
        self._drawn = -REDRAW_S

    def add(self, codes: NDArray[Any]) -> None:
        """Add rows, shape ``(row, col)``, and draw if it is time."""
        for line in codes:
            if self._rows % self._step == 0:
                self._lines.append(line.copy())
            self._rows += 1
        while len(self._lines) > MOST_ROWS:
            self._lines = self._lines[::2]
            self._step *= 2
        if time.monotonic() - self._drawn > REDRAW_S:
            self.draw()

    def draw(self) -> None:
        """Write the picture of what is there."""
        if not self._lines:
            return
        rows = np.stack(self._lines)[:, :: self._step]
        partial = self._path.with_name(self._path.name + ".part")
        Image.fromarray(self._table[rows]).save(partial, format="PNG")
        os.replace(partial, self._path)
        self._drawn = time.monotonic()

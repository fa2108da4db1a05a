"""Counts the bytes that reading a scene decodes: each block as often as it is read."""

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.scenes.scene import Cube, Scene, SceneInfo

Interval = tuple[int, int]


def block_of(info: SceneInfo) -> tuple[int, int]:
    """Return the rows and columns that are decoded at once."""
    return (1, 1) if info.mapped else info.block


def decoded_bytes(info: SceneInfo, rows: Interval, cols: Interval, bands: int) -> int:
    """Return the size of the blocks that a window touches, as values in memory.

    Args:
        info: The scene.
        rows: Half-open interval.
        cols: Half-open interval.
        bands: How many bands are read; of pixel-interleaved blocks, all are decoded.
    """
    tall, wide = block_of(info)
    height, width = _touched(rows, tall, info.rows), _touched(cols, wide, info.cols)
    if info.interleave == "bip" and not info.mapped:
        bands = info.bands
    return height * width * bands * info.dtype.itemsize


def _touched(interval: Interval, side: int, size: int) -> int:
    """Count the pixels of the blocks that an interval touches, along one axis."""
    return min(-(-interval[1] // side) * side, size) - interval[0] // side * side


class CountedReads:
    """A scene that counts what is decoded to read it.

    Attributes:
        decoded_bytes: Size of all blocks decoded so far, as values in memory.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.decoded_bytes = 0

    @property
    def info(self) -> SceneInfo:
        """Description of the scene."""
        return self._scene.info

    def read(
        self,
        rows: Interval,
        cols: Interval,
        bands: NDArray[np.intp],
        out: Cube | None = None,
    ) -> Cube:
        self.decoded_bytes += decoded_bytes(self.info, rows, cols, len(bands))
        return self._scene.read(rows, cols, bands, out)

    def close(self) -> None:
        self._scene.close()

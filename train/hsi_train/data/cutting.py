"""Cuts windows out of a labelled scene, as every network and classifier sees them."""

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.walk.windows import mirror
from hsi_train.data.labelled_scene import LabelledScene


def cut_cube(
    scene: LabelledScene,
    known: NDArray[np.bool_],
    fill: NDArray[np.float32],
    rows: tuple[int, int],
    cols: tuple[int, int],
) -> NDArray[np.float32]:
    """Cut a window that may reach over the scene's edge, where it is mirrored.

    Args:
        scene: The scene.
        known: Pixels to take from the scene, shape ``(row, col)``; others are filled.
        fill: Shape ``(band, 1, 1)``.
        rows: Half-open interval.
        cols: Half-open interval.
    """
    height, width = known.shape
    row_index, col_index = np.ix_(mirror(*rows, height), mirror(*cols, width))
    values = scene.cube[:, row_index, col_index].astype(np.float32)
    cube: NDArray[np.float32] = np.where(known[row_index, col_index], values, fill)
    return cube

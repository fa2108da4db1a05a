"""Divides training pixels into folds of blocks, to judge what was not trained on."""

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
BLOCK_SIDES = (32, 16, 8, 4, 2, 1)  # pixels
BLOCKS_OF_FOLD = 2  # of every class, where its pixels allow it
ALWAYS_TRAINED = -1  # fold of a class that cannot be divided


def blocked_folds(
    places: NDArray[np.intp], classes: NDArray[np.integer], seed: int = 0
) -> NDArray[np.intp]:
    """Give every pixel a fold, neighbours of a class the same one.

    Each class is cut into the largest square blocks of which it has enough. Blocks go,
    the largest first, to the fold that has least of the class.

    Args:
        places: Scene, row and column, shape ``(pixel, 3)``.
        classes: Class indices, shape ``(pixel,)``.
        seed: Breaks ties.

    Returns:
        Fold from 0, shape ``(pixel,)``; `ALWAYS_TRAINED` for a class in one block.
    """
    rng = np.random.default_rng(seed)
    folds = np.full(len(classes), ALWAYS_TRAINED, dtype=np.intp)
    for index in np.unique(classes):
        own = np.flatnonzero(classes == index)
        for side in BLOCK_SIDES:
            cells = np.column_stack([places[own, 0], places[own, 1:] // side])
            _, blocks = np.unique(cells, axis=0, return_inverse=True)
            blocks = blocks.ravel()
            if blocks.max() + 1 >= BLOCKS_OF_FOLD * FOLDS:
                break
        sizes = np.bincount(blocks) + rng.uniform(0, 0.5, blocks.max() + 1)
        if len(sizes) < 2:
            continue
        load = rng.uniform(0, 0.1, FOLDS)
        for block in np.argsort(-sizes):
            fold = int(load.argmin())
            load[fold] += sizes[block]
            folds[own[blocks == block]] = fold
    return folds

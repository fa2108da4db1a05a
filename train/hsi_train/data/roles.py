"""The roles of labelled pixels: what each is used for."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Role(IntEnum):
    """What a labelled pixel is used for; the codes of ``split.tif``."""

    NONE = 0
    TRAIN = 1
    VALIDATION = 2
    TEST = 3
    BUFFER = 4


Roles = NDArray[np.uint8]  # role of every pixel, shape (row, col)

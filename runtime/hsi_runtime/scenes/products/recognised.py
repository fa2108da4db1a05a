"""What a recogniser of sensor products is called with, and what it returns."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hsi_runtime.scenes.scene import Scene


class Recognised(NamedTuple):
    """A sensor product, found by the content of the file that describes it.

    Attributes:
        kind: Sensor and level, such as ``EnMAP L2A``.
        path: The file that describes the product: the one of its files whose content
            says what it is. It stands for the product wherever products are compared.
        open: Opens the scene of the product.
        owns: Returns True if another file of the same folder belongs to the product
            and stands for its scene, such as the cube or a quality layer.
    """

    kind: str
    path: Path
    open: Callable[[], Scene]
    owns: Callable[[Path], bool] = lambda _: False


# Called with a regular file and its first bytes, at most `START_BYTES`. Returns None
# for a file that describes no product of this kind, and raises a SceneError for one
# that does and cannot be read.
Recogniser = Callable[[Path, bytes], Recognised | None]
START_BYTES = 4096

"""What a rival hands over to be compared: its classes of the test pixels."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Candidate(NamedTuple):
    """A fitted rival's answer.

    Attributes:
        name: Short name, as ``metrics.json`` has it.
        variant: How it sees spectra, and its settings.
        classes: Class index of each scene's test pixels, shape ``(row, col)``.
    """

    name: str
    variant: str
    classes: list[NDArray[np.int16]]


def view_text(spectra: str, side: int) -> str:
    """Describe how a rival sees a pixel."""
    return f"{spectra}, means of {side} x {side} px"

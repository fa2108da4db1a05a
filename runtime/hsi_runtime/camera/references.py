"""The files that calibrate raw counts, as the user names them."""

from pathlib import Path
from typing import NamedTuple


class References(NamedTuple):
    """Files that calibrate raw counts: dark and white, or gain and perhaps offset.

    Attributes:
        dark: Raster of some lines without light, as the camera stores them.
        white: Raster of some lines of a white panel.
        gain: Raster of one line of factors.
        offset: Raster of one line of summands.
    """

    dark: Path | None = None
    white: Path | None = None
    gain: Path | None = None
    offset: Path | None = None

    def problem(self) -> tuple[str, str] | None:
        """Return what is wrong with the choice of files, and with which; or None."""
        if (self.dark is None) != (self.white is None):
            name = "white" if self.white is None else "dark"
            return "Dark and white reference go together.", name
        if self.offset is not None and self.gain is None:
            return "An offset needs a gain.", "gain"
        if self.dark is not None and self.gain is not None:
            return "Dark and white reference exclude a gain.", "gain"
        return None

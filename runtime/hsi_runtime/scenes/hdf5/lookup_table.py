"""Places the pixels of a swath on a grid on the ground, by the table in its file."""

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.hdf5.container import Container
from hsi_runtime.scenes.scene import Cells, Transform


class LookupTable:
    """A geometry lookup table (GLT): the pixel in each cell of a grid.

    The file counts lines and samples from one; 0 means that no pixel is there. The
    table is read part by part, each time from the file, so that it may be closed.

    Attributes:
        rows: Height of the grid.
        cols: Width of the grid.
        crs: Coordinate reference system of the grid as WKT, or None.
        transform: GDAL's six numbers of the grid.
    """

    def __init__(
        self,
        file: Container,
        *,
        names: tuple[str, str],
        size: tuple[int, int],
        crs: str | None,
        transform: Transform,
    ) -> None:
        """Find the table.

        Args:
            file: The file, open.
            names: Data sets of the lines and of the samples.
            size: Lines and samples of the swath.
            crs: Coordinate reference system of the grid as WKT, or None.
            transform: GDAL's six numbers of the grid.

        Raises:
            SceneError: The table is missing, or no table of whole numbers.
        """
        self._path, self._names, self._size = file.path, names, size
        self.crs, self.transform = crs, transform
        lines, samples = map(file.values, names)
        whole = {lines.dtype.kind, samples.dtype.kind} <= {"i", "u"}
        if lines.shape != samples.shape or len(lines.shape) != 2 or not whole:
            raise SceneError(
                f"{file.path}: {' and '.join(names)} are no lookup table. Is the file "
                "complete?"
            )
        self.rows, self.cols = lines.shape

    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> Cells:
        """Read the pixels of some cells.

        Args:
            rows: Half-open interval of the grid.
            cols: Half-open interval of the grid.

        Raises:
            SceneError: The table cannot be read, or names pixels that do not exist.
        """
        with Container(self._path) as file:
            parts = [file.values(name).read((rows, cols)) for name in self._names]
        empty = (parts[0] == 0) & (parts[1] == 0)
        indices = []
        for part, length, name in zip(parts, self._size, self._names, strict=True):
            index: NDArray[np.intp] = part.astype(np.intp) - 1
            if ((index < 0) | (index >= length))[~empty].any():
                raise SceneError(
                    f"{self._path}: {name} names pixels outside 1 to {length}, which "
                    "the swath does not have. Is the file damaged?"
                )
            index[empty] = -1
            indices.append(index)
        return Cells(*indices)

"""Lines that a program hands over, one by one."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.array_scene import ArrayScene, plain_array
from hsi_runtime.scenes.array_scene import declared as declared_by
from hsi_runtime.scenes.scene import Cube, SceneInfo


class IteratedLines:
    """A line source that takes the next line when it is looked at.

    Args:
        lines: Lines of one shape and type, ``(band, col)``.
        declared: What `ArrayScene` takes: wavelengths, nodata, scale, offset.

    Raises:
        SceneError: There is no line, or it has another shape or type.
    """

    durable, dropped, end_byte = False, 0, 0
    lines_per_second: float | None = None
    header_fields: Mapping[str, str] = {}

    def __init__(self, lines: Iterable[ArrayLike], **declared: Any) -> None:
        self._coming = iter(lines)
        self.path = Path("lines")
        first = next(self._coming, None)
        if first is None:
            raise SceneError("There are no lines to follow; give at least one.")
        line = plain_array(first, self.path)
        if line.ndim != 2:
            raise SceneError(f"A line has shape {line.shape}; expected (band, col).")
        by_line = declared_by(first)
        if declared.get("nodata") is None:
            declared["nodata"] = by_line.nodata
        if declared.get("wavelengths_nm") is None:
            declared["wavelengths_nm"] = by_line.centres
        if declared.get("scale") is None and not declared.get("offset"):
            declared |= {"scale": by_line.scale, "offset": by_line.offset}
        scene = ArrayScene(line[:, None], path=self.path, **declared)
        self._info = replace(scene.info, block=(1, line.shape[1]))
        self._lines: dict[int, NDArray[Any]] = {0: line.copy()}
        self.complete, self.ended = 1, False

    @property
    def info(self) -> SceneInfo:
        return replace(self._info, rows=self.complete)

    def begin(self, row: int) -> None:
        pass

    def look(self) -> None:
        if self.ended:
            return
        coming = next(self._coming, None)
        if coming is None:
            self.ended = True
            return
        line = plain_array(coming, self.path)
        shape, dtype = (self._info.bands, self._info.cols), self._info.dtype
        if line.shape != shape or line.dtype != dtype:
            raise SceneError(
                f"Line {self.complete} has shape {line.shape} and type {line.dtype}; "
                f"those before have {shape} and {dtype}."
            )
        # A grabber may use its buffer again.
        self._lines[self.complete] = line.copy()
        self.complete += 1

    def finish(self) -> None:
        self.ended = True

    def rows_before(self, byte: int) -> int:
        return self.complete

    def arrived(self, line: int) -> float:
        return time.monotonic()

    def check_lines(self) -> None:
        pass

    def read(
        self,
        rows: tuple[int, int],
        cols: tuple[int, int],
        bands: NDArray[np.intp],
        out: Cube | None = None,
    ) -> Cube:
        for row in [row for row in self._lines if row < rows[0]]:
            del self._lines[row]  # no later block needs it
        block = [self._lines[row][bands, slice(*cols)] for row in range(*rows)]
        cube: Cube = np.stack(block, axis=1)
        if out is None:
            return cube
        np.copyto(out, cube)
        return out

    def close(self) -> None:
        pass

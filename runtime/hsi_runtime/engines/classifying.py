"""Classifies the squares of a strip on an engine, several at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.engines.backend import Backend
from hsi_runtime.errors import ResourceError
from hsi_runtime.matching.units import Conversion
from hsi_runtime.model.model_file import PROBABILITIES, ModelDocument
from hsi_runtime.walk.strips import Strip
from hsi_runtime.walk.threads import map_ahead
from hsi_runtime.walk.windows import even_parts, largest_part

Interval = tuple[int, int]


class Square(NamedTuple):
    """The classified pixels of a square.

    Attributes:
        row: Scene row of its first row.
        col: Scene column of its first column.
        outputs: Outputs of the model by name, shape ``(class, row, col)``, or None if
            no pixel has data.
        valid: Pixels with data, shape ``(row, col)``.
    """

    row: int
    col: int
    outputs: dict[str, NDArray[np.float32]] | None
    valid: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A model on an engine, and how the values of one scene become its input.

    Attributes:
        document: Model document.
        backend: Engine that holds the model.
        units: Conversion from the scene's stored values to the model's.
        tile: Side of the largest squares that are classified at once, px.
        at_once: Squares that are classified at the same time.
        outputs: Names of the model's outputs to compute.
    """

    document: ModelDocument
    backend: Backend
    units: Conversion
    tile: int
    at_once: int
    outputs: Sequence[str]

    def squares(self, strip: Strip) -> Iterator[Square]:
        """Classify a strip square by square, in the order of its rows.

        Whole squares, with their validity, units and fill, are computed in threads of
        the engine: the calling thread only takes the results.
        """
        places = product(
            even_parts(strip.rows, self.tile), even_parts(strip.cols, self.tile)
        )

        def classify(place: tuple[Interval, Interval]) -> Square:
            return self._square(strip, *place)

        for _, square in map_ahead(classify, places, self.at_once):
            yield square

    def _square(self, strip: Strip, rows: Interval, cols: Interval) -> Square:
        window = self._window(strip.rows, rows), self._window(strip.cols, cols)
        cube, known = strip.cut(*window)
        halo = self.document.halo
        own = tuple(
            slice(part[0] - whole[0], part[1] - whole[0])
            for part, whole in zip((rows, cols), window, strict=True)
        )
        valid = known[halo : known.shape[0] - halo, halo : known.shape[1] - halo][own]
        if not valid.any():
            return Square(rows[0], cols[0], None, valid)
        values = self.units.apply(cube)
        del cube  # the engine needs the memory
        if not known.all():
            fill = np.array(self.document.values.fill, dtype=np.float32)
            values = np.where(known, values, fill[:, None, None])
        batch = predict_in_parts(self.backend, values[None], halo, self.outputs)
        outputs = {name: answer[0] for name, answer in batch.items()}
        self.document.check_answer(values.shape[1:], outputs)
        outputs = {name: answer[:, *own] for name, answer in outputs.items()}
        return Square(rows[0], cols[0], outputs, valid)

    def _window(self, interval: Interval, part: Interval) -> Interval:
        """Return the rows or columns to compute for a part of a strip."""
        if not getattr(self.backend, "fixed_windows", False):
            return part
        size = largest_part(interval, self.tile)
        first = min(part[0], interval[1] - size)
        return first, first + size


def predict_in_parts(
    backend: Backend,
    cube: NDArray[np.float32],
    halo: int,
    outputs: Sequence[str] = (PROBABILITIES,),
) -> dict[str, NDArray[np.float32]]:
    """Classify a window; where memory runs out, its halves, down to single pixels.

    Dense networks give the same answer for any window, so only time is lost.
    """
    try:
        return backend.predict(cube, outputs)
    except ResourceError:
        axis = 2 if cube.shape[2] >= cube.shape[3] else 3
        pixels = cube.shape[axis] - 2 * halo
        if pixels < 2:
            raise
    half = pixels // 2
    first = np.take(cube, range(half + 2 * halo), axis=axis)
    last = np.take(cube, range(half, cube.shape[axis]), axis=axis)
    parts = [predict_in_parts(backend, part, halo, outputs) for part in (first, last)]
    return {
        name: np.concatenate([part[name] for part in parts], axis=axis)
        for name in outputs
    }

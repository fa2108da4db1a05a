"""Classifies the squares of a strip on an engine, several at once."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.engines.backend import Backend
from hsi_runtime.errors import ResourceError
from hsi_runtime.matching.novelty import Novelty
from hsi_runtime.matching.units import Conversion
from hsi_runtime.model.model_file import PROBABILITIES, ModelDocument
from hsi_runtime.model.training import NOVELTY
from hsi_runtime.walk.strips import Strip
from hsi_runtime.walk.threads import map_ahead
from hsi_runtime.walk.windows import even_parts, largest_part

Interval = tuple[int, int]
Spectra = NDArray[np.float32]
MOST_COMPARED = 512  # squares of a scene; of fewer, about as many pixels
LEAST_LINES = 4


class Square(NamedTuple):
    """The classified pixels of a square.

    Attributes:
        row: Scene row of its first row.
        col: Scene column of its first column.
        outputs: Outputs of the model by name, shape ``(class, row, col)``, or None if
            no pixel has data.
        valid: Pixels with data, shape ``(row, col)``.
        compared: Some of its spectra ``(pixel, band)``, model's stored units, and their
            novelty ``(pixel,)`` where the document can tell it; None if not asked for.
    """

    row: int
    col: int
    outputs: dict[str, NDArray[np.float32]] | None
    valid: NDArray[np.bool_]
    compared: tuple[Spectra, NDArray[np.float32] | None] | None = None


class Compared(NamedTuple):
    """Which spectra of a scene are compared with those of training.

    Attributes:
        every: Of so many squares, one is looked at.
        lines: Rows, and columns, of the grid of its pixels that are compared.
    """

    every: int
    lines: int

    @classmethod
    def of(cls, squares: int) -> Self:
        """Take enough spectra of a scene of so many squares, in next to no time."""
        return cls(
            every=-(-squares // MOST_COMPARED),
            lines=max(LEAST_LINES, math.ceil(math.sqrt(MOST_COMPARED / squares))),
        )


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A model on an engine, and how the values of one scene become its input.

    Attributes:
        document: Model document.
        backend: Engine that holds the model.
        units: Conversion from the scene's stored values to the model's.
        tile: Side of the largest squares that are classified at once, px.
        at_once: Squares that are classified at the same time.
        outputs: Names of the outputs to compute: of the model, or `NOVELTY`.
        novelty: What tells how far spectra are from those of training, if known.
        compared: Which spectra are compared with training; None for none.
    """

    document: ModelDocument
    backend: Backend
    units: Conversion
    tile: int
    at_once: int
    outputs: Sequence[str]
    novelty: Novelty | None = None
    compared: Compared | None = None

    def squares(self, strip: Strip) -> Iterator[Square]:
        """Classify a strip square by square, in the order of its rows.

        Whole squares, with their validity, units and fill, are computed in threads of
        the engine: the calling thread only takes the results.
        """
        places = product(
            even_parts(strip.rows, self.tile), even_parts(strip.cols, self.tile)
        )

        def classify(numbered: tuple[int, tuple[Interval, Interval]]) -> Square:
            number, place = numbered
            compared = self.compared
            if compared is None or (strip.number + number) % compared.every:
                return self._square(strip, *place)
            return self._square(strip, *place, compared.lines)

        for _, square in map_ahead(classify, enumerate(places), self.at_once):
            yield square

    def _square(
        self, strip: Strip, rows: Interval, cols: Interval, lines: int = 0
    ) -> Square:
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
        asked = [name for name in self.outputs if name != NOVELTY]
        batch = predict_in_parts(self.backend, values[None], halo, asked)
        outputs = {name: answer[0] for name, answer in batch.items()}
        self.document.check_answer(values.shape[1:], outputs)
        if NOVELTY in self.outputs and self.novelty is not None:
            outputs[NOVELTY] = self.novelty.map(values, halo)[None]
        outputs = {name: answer[:, *own] for name, answer in outputs.items()}
        compared = self._compared(values, valid, own, lines) if lines else None
        return Square(rows[0], cols[0], outputs, valid, compared)

    def _compared(
        self,
        values: Spectra,
        valid: NDArray[np.bool_],
        own: tuple[slice, ...],
        lines: int,
    ) -> tuple[Spectra, NDArray[np.float32] | None]:
        """Take spectra all over a square, and their novelty.

        Neighbours would all be of one field, and tell nothing of the scene.

        Args:
            values: The window, model's stored units, shape ``(band, row, col)``.
            valid: Pixels of the square with data, shape ``(row, col)``.
            own: Rows and columns of the square among the window's outputs.
            lines: Rows, and columns, to take pixels from.
        """
        grid = np.ix_(*(spread(size, lines) for size in valid.shape))
        places = np.nonzero(valid[grid])
        rows, cols = (
            line.ravel()[place] + part.start + self.document.halo
            for line, place, part in zip(grid, places, own, strict=True)
        )
        spectra = values[:, rows, cols].T
        if self.novelty is None:
            return spectra, None
        reach = self.novelty.side // 2
        total = np.zeros_like(spectra)
        with np.errstate(over="ignore", invalid="ignore"):
            for down, right in product(range(-reach, reach + 1), repeat=2):
                total += values[:, rows + down, cols + right].T
        return spectra, self.novelty.of_spectra(total / self.novelty.side**2)

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


def spread(size: int, count: int) -> NDArray[np.intp]:
    """Return so many of the numbers below a size, evenly spread; all of fewer."""
    count = min(size, count)
    return (2 * np.arange(count) + 1) * size // (2 * count)

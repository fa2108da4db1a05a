"""Times an engine on the model's stored sample, repeated: no scene is needed."""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.engines.backend import Backend
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.walk.threads import map_ahead
from hsi_runtime.walk.windows import mirror

TICK_S = 1e-6  # a round of a tiny model may be shorter than a clock can tell


def window_of(document: ModelDocument, side: int) -> NDArray[np.float32]:
    """Return a window for a square of ``side`` pixels, ``(1, band, row, col)``.

    Networks take as long for any values.
    """
    sample = document.self_test.cube.unpack().astype(np.float32)
    index = mirror(0, side + 2 * document.halo, sample.shape[1])
    return np.ascontiguousarray(sample[:, index][:, :, index])[None]


def pixels_per_second(
    backend: Backend,
    cube: NDArray[np.float32],
    side: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Measure a round: as many windows as the engine computes at once.

    Args:
        backend: The engine.
        cube: A window.
        side: Side of its square, px.
        clock: What gives the seconds.
    """
    at_once = backend.windows_at_once
    before = clock()
    for _ in map_ahead(backend.predict, [cube] * at_once, at_once):
        pass
    return at_once * side * side / max(clock() - before, TICK_S)

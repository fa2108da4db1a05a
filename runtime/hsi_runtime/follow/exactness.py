"""Finds out whether an engine's answer depends on the window around a pixel."""

from collections.abc import Sequence

import numpy as np

from hsi_runtime.engines.backend import Backend
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.walk.windows import mirror


def is_exact(
    document: ModelDocument, backend: Backend, shapes: Sequence[tuple[int, int]]
) -> bool:
    """Return True if windows of some shapes get the very same answer, bit by bit.

    Dense networks give every pixel one answer, but an engine may add up its products in
    an order that depends on the window.

    Args:
        document: Model document; its sample, repeated, is classified.
        backend: Engine that holds the model.
        shapes: Rows and columns of the outputs; each is compared with a window that
            holds them all.
    """
    halo = document.halo
    rows, cols = (max(sizes) for sizes in zip(*shapes, strict=True))
    sample = document.self_test.cube.unpack().astype(np.float32)
    down = mirror(0, rows + 2 * halo, sample.shape[1])
    across = mirror(0, cols + 2 * halo, sample.shape[2])
    # Neighbours that repeat would hide a difference: each row has a brightness.
    cube = sample[:, down][:, :, across]
    cube *= np.linspace(0.9, 1.1, cube.shape[1] * cube.shape[2], dtype=np.float32)[
        None
    ].reshape(1, *cube.shape[1:])

    def answers(height: int, width: int) -> list[bytes]:
        window = cube[:, : height + 2 * halo, : width + 2 * halo]
        values = np.ascontiguousarray(window)[None]
        outputs = backend.predict(values, document.outputs)
        least = tuple(min(sizes) for sizes in zip(*shapes, strict=True))
        return [
            outputs[name][..., : least[0], : least[1]].tobytes()
            for name in document.outputs
        ]

    whole = answers(rows, cols)
    return all(answers(*shape) == whole for shape in shapes)

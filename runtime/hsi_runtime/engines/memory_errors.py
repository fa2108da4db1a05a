"""Tells a lack of memory, and failures of a GPU, from other failures of an engine."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from hsi_runtime.errors import ResourceError

# As in "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; ...
# expr=cudaMalloc(...)": what was called when it failed is no reason.
OF_GPU = re.compile(r"\bCU[A-Z_]+ failure \d+: ([^;\n]+)")


def failure_of_gpu(error: Exception) -> str | None:
    """Return onnxruntime's words for why CUDA failed, or None where it did not."""
    found = OF_GPU.search(str(error))
    return None if found is None else found[1].strip()


def is_exhaustion(error: Exception) -> bool:
    """Tell whether an engine complains that it got no memory."""
    said = (failure_of_gpu(error) or str(error)).lower()
    return "alloc" in said or "out of memory" in said


@contextmanager
def explained(cube: NDArray[Any]) -> Iterator[None]:
    """Turn an engine's failure to allocate into a sentence; let others pass.

    Args:
        cube: What it computes, shape ``(batch, band, row, col)``.

    Raises:
        ResourceError: Memory ran out.
    """
    try:
        yield
    except Exception as error:  # engines' errors share no base
        if not is_exhaustion(error):
            raise
        raise ResourceError(
            f"Memory ran out on a window of {cube.shape[2]} x {cube.shape[3]} pixels; "
            "choose a smaller --tile."
        ) from error

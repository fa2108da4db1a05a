"""Recognises lack of memory, and failures of a GPU, among the errors of an engine."""

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
    match = OF_GPU.search(str(error))
    return None if match is None else match[1].strip()


def is_out_of_memory(error: Exception) -> bool:
    """Return True if an engine's error says that it got no memory."""
    message = (failure_of_gpu(error) or str(error)).lower()
    return "alloc" in message or "out of memory" in message


@contextmanager
def running_out_explained(cube: NDArray[Any]) -> Iterator[None]:
    """Turn an engine's failure to allocate into a `ResourceError`; let others pass.

    Args:
        cube: Windows that the engine computes, shape ``(batch, band, row, col)``.

    Raises:
        ResourceError: Memory ran out.
    """
    try:
        yield
    except Exception as error:  # engines' errors share no base
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            f"Memory ran out on a window of {cube.shape[2]} x {cube.shape[3]} pixels; "
            "choose a smaller --tile."
        ) from error

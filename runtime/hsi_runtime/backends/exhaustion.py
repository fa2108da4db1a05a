"""Tells a lack of memory from other failures of an engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from hsi_runtime.errors import ResourceError


def is_exhaustion(error: Exception) -> bool:
    """Tell whether an engine complains that it got no memory."""
    said = str(error).lower()
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

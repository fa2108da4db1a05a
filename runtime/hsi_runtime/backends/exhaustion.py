"""Tells a lack of memory from other failures of an engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from hsi_runtime.errors import ResourceError


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
        if "alloc" not in str(error).lower():
            raise
        raise ResourceError(
            f"Memory ran out on a window of {cube.shape[2]} x {cube.shape[3]} pixels; "
            "choose a smaller --tile."
        ) from error

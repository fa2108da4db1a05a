"""Reads the options that are more than one word or number, as callbacks for click.

What a value may be is checked by `hsi_runtime.request.Options`, for Python, too.
"""

import math
import os
import re
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:  # it needs numpy, which --help does not
    from hsi_runtime.walk.windows import Window

# Slurm, Kubernetes, AWS Batch and PBS.
ARRAY_INDEXES = (
    *("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "AWS_BATCH_JOB_ARRAY_INDEX"),
    "PBS_ARRAY_INDEX",
)
UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def window(
    context: click.Context, option: click.Parameter, value: str | None
) -> "Window | None":
    """Parse ``COL,ROW,WIDTH,HEIGHT`` in pixels."""
    if value is None:
        return None
    try:
        col, row, width, height = (int(v) for v in value.split(","))
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is not COL,ROW,WIDTH,HEIGHT, four whole numbers."
        ) from error
    from hsi_runtime.walk.windows import Window

    return Window(row, col, height, width)


def bounds(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[float, float, float, float] | None:
    """Parse ``W,S,E,N`` in coordinates."""
    if value is None:
        return None
    try:
        west, south, east, north = (float(v) for v in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not W,S,E,N, four numbers.") from error
    return west, south, east, north


def memory_bytes(
    context: click.Context, option: click.Parameter, value: str | None
) -> int | None:
    """Parse a size such as ``512M`` or ``2G``; units are powers of 1024."""
    if value is None:
        return None
    size = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:I?B)?", value.strip().upper())
    number = 0.0 if size is None else float(size[1]) * UNITS[size[2]]
    if not 0 < number < math.inf:
        raise click.BadParameter(f"{value!r} is not a size such as 512M or 2G.")
    return int(number)


def reject(
    context: click.Context, option: click.Parameter, value: str | None
) -> float | None:
    """Parse a probability; ``auto`` is None, and nothing given 0."""
    if value is None:
        return 0.0
    if value == "auto":
        return None
    try:
        return float(value)
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is neither a probability nor auto."
        ) from error


def shard(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """Parse ``I/N``: part I, from 0, of N; ``auto/N`` takes I from the job array."""
    if value is None:
        return None
    text = value
    if value.startswith("auto/"):
        text = _array_index() + value.removeprefix("auto")
    part = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
    if part is None or not int(part[1]) < int(part[2]):
        raise click.BadParameter(f"{text!r} is not I/N with I from 0 to N-1.")
    return int(part[1]), int(part[2])


def _array_index() -> str:
    """Return this job's place in its array, as its scheduler gives it."""
    for name in ARRAY_INDEXES:
        if index := os.environ.get(name):
            return index
    raise click.BadParameter(
        f"auto needs a job array: none of ${', $'.join(ARRAY_INDEXES)} is set."
    )

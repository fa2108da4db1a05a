"""Shares the memory that a run may use between reading and the engine."""

import os
import re
import resource
import sys
from pathlib import Path

from hsi_runtime.errors import ResourceError
from hsi_runtime.model_file import ModelDocument
from hsi_runtime.scene import SceneInfo
from hsi_runtime.strips import BUFFERS
from hsi_runtime.windows import DEFAULT_TILE, STRIP_BYTES

# Python, numpy, GDAL with its cache, the engine and its code, before any pixel.
BASE_BYTES = 220 * 1024**2
STRIP_SHARE = 0.3
# Engines take their memory in growing steps and keep more than the graph needs.
ENGINE_MARGIN = 1.6


def share(
    document: ModelDocument, tile: int | None, max_memory_bytes: int | None
) -> tuple[int, int]:
    """Choose the side of the squares and the budget of a strip.

    Args:
        document: Of the model; says what a pixel costs its engine.
        tile: Side the user asked for, or None.
        max_memory_bytes: Limit of the whole process, or None.

    Returns:
        Side of the squares, px, and bytes of a strip.

    Raises:
        ResourceError: The limit is too small.
    """
    if max_memory_bytes is None:
        return tile or DEFAULT_TILE, STRIP_BYTES
    free = max_memory_bytes - BASE_BYTES
    strip_bytes = min(int(free * STRIP_SHARE / BUFFERS), STRIP_BYTES)
    engine = free * (1 - STRIP_SHARE) / ENGINE_MARGIN
    side = int((max(engine, 0) / document.working_bytes) ** 0.5) - 2 * document.halo
    if side < 1 or (tile is not None and side < tile):
        smallest = tile or 1
        pixels = (smallest + 2 * document.halo) ** 2
        engine = pixels * document.working_bytes * ENGINE_MARGIN
        needed = BASE_BYTES + engine / (1 - STRIP_SHARE)
        raise ResourceError(
            f"--max-memory allows {max_memory_bytes / 1e6:.0f} MB; this model needs "
            f"about {needed / 1e6:.0f} MB for squares of {smallest} pixels."
        )
    return tile or min(side, DEFAULT_TILE), strip_bytes


def check_blocks(info: SceneInfo, max_memory_bytes: int | None) -> None:
    """Refuse a file whose blocks are too large to decode one of them.

    Raises:
        ResourceError: A block exceeds the limit of the process, or the machine.
    """
    if info.driver == "ENVI":  # mapped, not decoded
        return
    bands = info.bands if info.interleave == "bip" else 1
    block = info.block[0] * info.block[1] * bands * info.dtype.itemsize
    limit = max_memory_bytes or machine_bytes()
    if block + BASE_BYTES > limit:
        rows, cols = info.block
        raise ResourceError(
            f"{info.path.name} is stored in blocks of {cols} x {rows} pixels, "
            f"{block / 1e6:,.0f} MB each; {limit / 1e6:,.0f} MB are allowed. Rewrite "
            "it in tiles: gdal_translate -co TILED=YES."
        )


def machine_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_bytes() -> int:
    """Largest memory this process ever held.

    Linux counts the memory of the program that started this one into ``getrusage``, so
    its own high-water mark is read where there is one.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

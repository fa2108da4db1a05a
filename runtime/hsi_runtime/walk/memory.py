"""Shares the memory that a run may use between reading and the engine."""

from typing import NamedTuple

from hsi_runtime import machine
from hsi_runtime.errors import ResourceError
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.scenes.scene import SceneInfo
from hsi_runtime.walk.strips import BUFFERS
from hsi_runtime.walk.windows import DEFAULT_TILE, SMALL_TILE, STRIP_BYTES

# Python, numpy, GDAL with its cache, the engine and its code, before any pixel.
BASE_BYTES = 220 * 1024**2
STRIP_SHARE = 0.3
# Engines take their memory in growing steps and keep more than the graph needs.
ENGINE_MARGIN = 1.6
MACHINE_SHARE = 0.25  # of the machine's memory, for engines without a limit
# Below this many multiplications for each byte that it holds, a network waits for
# memory: small squares, which stay in the cache, are faster although they have more
# context. Above, context costs more (`.docs/pages/findings.md`).
MACS_PER_BYTE = 100
# Working memory of a square that is still small in this sense: S2VNet of 200 bands is
# 1.05 to 1.11 times as fast in squares of 64 as of 48, lda slower (5 rounds, one core).
CACHED_BYTES = 8_000_000
TILE_STEP = 16
# Graphs that are compiled for windows of one size, each with memory of its own.
FIXED_BYTES = 256 * 1024**2
FEWEST_SIZES, MOST_SIZES = 2, 8  # scenes of a list are classified two at a time


class Pieces(NamedTuple):
    """What reading a scene by whole blocks takes.

    Attributes:
        whole: Bytes of the smallest piece of whole blocks.
        decoding: Bytes of a block that holds all bands and is decoded outside a piece.
    """

    whole: int
    decoding: int


NO_BLOCKS = Pieces(0, 0)


def tile_on_cpu(macs_per_pixel: float, working_bytes: float) -> int:
    """Choose the side of the squares that a model is fastest with on a CPU, px.

    Args:
        macs_per_pixel: Multiplications per pixel, from the model's document.
        working_bytes: Working memory per pixel, from the model's document.
    """
    if macs_per_pixel >= MACS_PER_BYTE * working_bytes:
        return DEFAULT_TILE
    cached = int((CACHED_BYTES / working_bytes) ** 0.5) // TILE_STEP * TILE_STEP
    return min(max(cached, SMALL_TILE), DEFAULT_TILE)


def windows_at_once(
    document: ModelDocument,
    tile: int | None,
    max_memory_bytes: int | None,
    threads: int,
) -> int:
    """Choose how many windows a CPU computes at once, each on threads of its own.

    One for each thread, as far as memory allows: threads that share a window wait for
    each other.

    Args:
        document: Model document; says what a pixel costs its engine.
        tile: Side of the squares that the user asked for, or None.
        max_memory_bytes: Limit of the whole process, or None for a share of the
            machine's.
        threads: Threads that compute all windows together.
    """
    if max_memory_bytes is None:
        engine = machine.machine_bytes() * MACHINE_SHARE
        least = tile_on_cpu(document.macs_per_pixel, document.working_bytes)
    else:
        engine, least = _engine_bytes(max_memory_bytes), SMALL_TILE
    one = ((tile or least) + 2 * document.halo) ** 2 * document.working_bytes
    return max(1, min(threads, int(engine / (one * ENGINE_MARGIN))))


def sizes_kept(
    document: ModelDocument,
    tile: int | None,
    max_memory_bytes: int | None,
    windows_at_once: int,
) -> int:
    """Choose for how many sizes of windows an engine keeps a graph with its memory.

    Args:
        document: Model document; says what a pixel costs its engine.
        tile: Side of the squares that the user asked for, or None.
        max_memory_bytes: Limit of the whole process, which has room for one; or None.
        windows_at_once: Windows that the engine computes at the same time.
    """
    if max_memory_bytes is not None:
        return 1
    side = tile or tile_on_cpu(document.macs_per_pixel, document.working_bytes)
    one = (side + 2 * document.halo) ** 2 * document.working_bytes * ENGINE_MARGIN
    most = int(FIXED_BYTES / (one * windows_at_once))
    return min(max(most, FEWEST_SIZES), MOST_SIZES)


def check_limit(
    document: ModelDocument,
    tile: int | None,
    max_memory_bytes: int | None,
    windows_at_once: int = 1,
) -> None:
    """Refuse a limit that does not suffice for the smallest squares.

    Args:
        document: Model document; says what a pixel costs its engine.
        tile: Side of the squares that the user asked for, or None.
        max_memory_bytes: Limit of the whole process, or None.
        windows_at_once: Windows that the engine computes at the same time.

    Raises:
        ResourceError: The limit is too small.
    """
    if max_memory_bytes is None:
        return
    side = _largest_side(document, max_memory_bytes, windows_at_once)
    smallest = tile or 1
    if side >= smallest:
        return
    pixels = (smallest + 2 * document.halo) ** 2
    engine = pixels * document.working_bytes * ENGINE_MARGIN
    needed = BASE_BYTES + engine / (1 - STRIP_SHARE)
    raise ResourceError(
        f"--max-memory allows {max_memory_bytes / 1e6:.0f} MB; this model needs "
        f"about {needed / 1e6:.0f} MB for squares of {smallest} pixels."
    )


def tile_and_strip(
    document: ModelDocument,
    tile: int | None,
    max_memory_bytes: int | None,
    default_tile: int = DEFAULT_TILE,
    windows_at_once: int = 1,
    pieces: Pieces = NO_BLOCKS,
) -> tuple[int, int]:
    """Choose the side of the squares and the budget of a piece.

    Args:
        document: Model document; says what a pixel costs its engine.
        tile: Side of the squares that the user asked for, or None.
        max_memory_bytes: Limit of the whole process, or None.
        default_tile: Side where memory allows it and the user did not choose.
        windows_at_once: Windows that the engine computes at the same time.
        pieces: What pieces of whole blocks take.

    Returns:
        Side of the squares, px, and bytes of a piece.

    Raises:
        ResourceError: The limit is too small.
    """
    if max_memory_bytes is None:
        least = (BUFFERS + 1) * STRIP_BYTES + pieces.decoding
        share = max(machine.machine_bytes() * MACHINE_SHARE, least)
        return tile or default_tile, _piece_budget(share, pieces)
    check_limit(document, tile, max_memory_bytes, windows_at_once)
    side = _largest_side(document, max_memory_bytes, windows_at_once)
    chosen = tile or min(side, default_tile)
    free = max_memory_bytes - BASE_BYTES
    share = free * STRIP_SHARE
    if chosen >= default_tile:  # the engine leaves more than that
        engine = windows_at_once * (chosen + 2 * document.halo) ** 2
        share = max(share, free - engine * document.working_bytes * ENGINE_MARGIN)
    return chosen, _piece_budget(share, pieces)


def _piece_budget(share: float, pieces: Pieces) -> int:
    """Return the budget of one piece where reading may take ``share`` bytes."""
    # One more than the buffers, for the rows that wait for the strip below.
    one = int(share - pieces.decoding) // (BUFFERS + 1)
    return max(min(one, max(STRIP_BYTES, pieces.whole)), 1)


def needed_bytes(
    document: ModelDocument, tile: int, strip_bytes: int, windows_at_once: int
) -> int:
    """Estimate the memory of a run on a CPU: the process, strips and the engine.

    Args:
        document: Model document; says what a pixel costs its engine.
        tile: Side of the squares, px.
        strip_bytes: Bytes of a strip.
        windows_at_once: Windows that the engine computes at the same time.
    """
    window = (tile + 2 * document.halo) ** 2 * document.working_bytes * ENGINE_MARGIN
    return int(BASE_BYTES + BUFFERS * strip_bytes + windows_at_once * window)


def _largest_side(
    document: ModelDocument, max_memory_bytes: int, windows_at_once: int
) -> int:
    """Return the side of the largest squares that fit, px; below 1 if none does."""
    engine = _engine_bytes(max_memory_bytes) / ENGINE_MARGIN / windows_at_once
    return int((max(engine, 0) / document.working_bytes) ** 0.5) - 2 * document.halo


def _engine_bytes(max_memory_bytes: int) -> float:
    return (max_memory_bytes - BASE_BYTES) * (1 - STRIP_SHARE)


def block_bytes(info: SceneInfo) -> int:
    """Return the size of a block of the file as values in memory; 0 if it is mapped."""
    if info.mapped:
        return 0
    bands = info.bands if info.interleave == "bip" else 1
    return info.block[0] * info.block[1] * bands * info.dtype.itemsize


def check_blocks(info: SceneInfo, max_memory_bytes: int | None) -> None:
    """Refuse a file whose blocks are too large to decode one of them.

    Raises:
        ResourceError: A block exceeds the limit of the process, or the machine.
    """
    if info.mapped:
        return
    block, remedy = block_bytes(info), "in tiles: gdal_translate -co TILED=YES"
    if info.driver == "HDF5":
        block, remedy = info.decoding_bytes, "in smaller chunks: h5repack -l"
    limit = max_memory_bytes or machine.machine_bytes()
    if BASE_BYTES < limit < block + BASE_BYTES:  # below, no file would do
        rows, cols = info.block
        raise ResourceError(
            f"{info.path.name} is stored in blocks of {cols} x {rows} pixels, "
            f"{block / 1e6:,.0f} MB each; {limit / 1e6:,.0f} MB are allowed. Rewrite "
            f"it {remedy}."
        )

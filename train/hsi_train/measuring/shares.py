"""Compares shares of materials within pixels, and areas summed from them, with truth.

Neighbouring pixels err together, so the intervals of areas are over square blocks of
pixels, not over pixels (the ratio estimator of cluster samples: Cochran, Sampling
Techniques, 1977, section 9A).
"""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.opening import open_raster
from hsi_train.data import labels

BLOCK = 20  # pixels
Z = 1.96  # of 95 %

Floats = NDArray[np.float64]


class Blocks(NamedTuple):
    """Sums over blocks of pixels.

    Attributes:
        pixels: Pixels of each block, shape ``(block,)``.
        estimated: Estimated shares, summed, shape ``(block, class)``.
        true: True shares, summed, shape ``(block, class)``.
        squares: Squared differences, summed over pixels and classes, ``(block,)``.
    """

    pixels: Floats
    estimated: Floats
    true: Floats
    squares: Floats


def sum_blocks(estimated: Floats, true: Floats, valid: NDArray[np.bool_]) -> Blocks:
    """Sum over the blocks that lie side by side in some rows of a scene.

    Args:
        estimated: Shape ``(class, row, col)``; at most `BLOCK` rows.
        true: Of the same shape.
        valid: Pixels that count, shape ``(row, col)``.
    """
    starts = np.arange(0, valid.shape[1], BLOCK)

    def summed(values: Floats) -> Floats:
        kept = np.where(valid, values, 0.0).sum(axis=-2)  # (..., col)
        sums: Floats = np.add.reduceat(kept, starts, axis=-1)
        return sums

    return Blocks(
        pixels=summed(np.ones(valid.shape)),
        estimated=summed(estimated).T,
        true=summed(true).T,
        squares=summed(np.square(estimated - true).sum(axis=0)),
    )


def join(parts: list[Blocks]) -> Blocks:
    """Join the blocks of several parts; those without a pixel are left out."""
    whole = Blocks(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    return Blocks(*(array[whole.pixels > 0] for array in whole))


def errors(blocks: Blocks) -> dict[str, Any]:
    """Sum up how far the shares are from the truth.

    Returns:
        ``rmse`` of the shares over pixels and classes; ``true_areas`` and ``areas``,
        shares of the scene by class; ``area_errors``, for each class the error with
        the ends of its 95 % interval over blocks; ``largest_area_error``; and
        ``block_rmse``, the root mean square error of the areas of single blocks.
    """
    total = blocks.pixels.sum()
    count = blocks.true.shape[1]
    difference = blocks.estimated - blocks.true
    error = difference.sum(axis=0) / total
    residual = difference - error * blocks.pixels[:, None]
    n = len(blocks.pixels)
    local = np.square(difference).sum(axis=1) / blocks.pixels
    variance = np.square(residual).sum(axis=0) * n / max(n - 1, 1)
    half = Z * np.sqrt(variance) / total
    return {
        "pixels": int(total),
        "blocks": n,
        "rmse": float(np.sqrt(blocks.squares.sum() / (total * count))),
        "true_areas": (blocks.true.sum(axis=0) / total).tolist(),
        "areas": (blocks.estimated.sum(axis=0) / total).tolist(),
        "area_errors": np.stack([error, error - half, error + half], axis=1).tolist(),
        "largest_area_error": float(np.abs(error).max()),
        "block_rmse": float(np.sqrt(local.sum() / (total * count))),
    }


def compare(estimated: Path, truth: Path) -> dict[str, Any]:
    """Compare a raster of abundances with true ones on the same grid.

    Args:
        estimated: As hsi-run writes it; NaN and nodata do not count.
        truth: One band for each material, in the same order and of the same names.

    Returns:
        See `errors`; with ``names``, and ``sum_error``, the largest difference of a
        pixel's sum from one.

    Raises:
        SceneError: The rasters do not lie on one grid, name other materials, or share
            no pixel.
    """
    infos = []
    for path in (estimated, truth):
        with contextlib.closing(open_raster(path)) as scene:
            infos.append(scene.info)
    labels.check_grid(str(truth), infos[1], infos[0])
    parts, sums = [], 0.0
    with rasterio.open(estimated) as ours, rasterio.open(truth) as theirs:
        if ours.descriptions != theirs.descriptions:
            raise SceneError(
                f"{estimated} holds {_listed(ours)}, {truth} {_listed(theirs)}. Give "
                "two rasters of the same materials in the same order."
            )
        names = list(ours.descriptions)
        for top in range(0, ours.height, BLOCK):
            height = min(BLOCK, ours.height - top)
            window = Window(0, top, ours.width, height)
            (mine, known), (true, sure) = _read(ours, window), _read(theirs, window)
            valid = known & sure
            parts.append(sum_blocks(mine, true, valid))
            away = np.abs(mine.sum(axis=0) - 1)[valid]
            sums = max(sums, float(away.max(initial=0.0)))
    blocks = join(parts)
    if not len(blocks.pixels):
        raise SceneError(f"{estimated} and {truth} share no pixel.")
    return {"names": names, "sum_error": sums, **errors(blocks)}


def table(result: dict[str, Any]) -> str:
    """Show the result of `compare` as text, a line for each material."""
    lines = [
        f"shares within pixels: root mean square error {result['rmse']:.4f}, sums "
        f"within {result['sum_error']:.4f} of 1",
        f"areas of blocks of {BLOCK} x {BLOCK} pixels: root mean square error "
        f"{100 * result['block_rmse']:.2f} % of the block",
        "area, %  true   error (95 % over blocks)",
    ]
    for name, true, interval in zip(
        result["names"], result["true_areas"], result["area_errors"], strict=True
    ):
        value, low, high = (100 * v for v in interval)
        lines.append(
            f"{100 * true:13.2f}  {value:+6.2f} ({low:+.2f}..{high:+.2f}) {name}"
        )
    return "\n".join(lines)


def _read(file: Any, window: Window) -> tuple[Floats, NDArray[np.bool_]]:
    """Read shares ``(class, row, col)``, and which pixels ``(row, col)`` have some."""
    stored = file.read(window=window, masked=True)
    scale = np.array(file.scales)[:, None, None]
    offset = np.array(file.offsets)[:, None, None]
    values: Floats = np.ma.filled(stored * scale + offset, np.nan).astype(np.float64)
    valid: NDArray[np.bool_] = np.all(np.isfinite(values), axis=0)
    return np.where(valid, values, 0.0), valid


def _listed(file: Any) -> str:
    return ", ".join(name or "a band without name" for name in file.descriptions)

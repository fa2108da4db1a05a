"""The part of a scene that a user asks for, by pixels or by coordinates."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from rasterio.transform import Affine

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.scene import SceneInfo
from hsi_runtime.walk.windows import Window, tiles

Bounds = tuple[float, float, float, float]
TABLE_ROWS = 256  # of a lookup table that are read at once
EDGE_PX = 1e-6  # bounds on a pixel's edge, but for rounding, do not touch its neighbour


def region_of(
    info: SceneInfo, window: Window | None = None, bounds: Bounds | None = None
) -> Window:
    """Return the pixels to classify.

    Args:
        info: The scene.
        window: In pixels; must lie inside the scene.
        bounds: West, south, east, north in the scene's CRS; every pixel that they
            touch, as far as the scene reaches.

    Raises:
        SceneError: The part lies outside the scene, or the scene has no georeference.
    """
    if bounds is not None:
        window = _from_bounds(info, bounds)
    if window is None:
        return Window(0, 0, info.rows, info.cols)
    inside = 0 <= window.row < window.row_end <= info.rows
    if not (inside and 0 <= window.col < window.col_end <= info.cols):
        raise SceneError(
            f"Columns {window.col} to {window.col_end} and rows {window.row} to "
            f"{window.row_end} were asked for; {info.path.name} has columns 0 to "
            f"{info.cols} and rows 0 to {info.rows}."
        )
    return window


def swath_of(info: SceneInfo, part: Window) -> Window:
    """Return the pixels of a scene that stand in a part of the grid of its maps.

    Args:
        info: The scene.
        part: In pixels of ``info.ground``.

    Returns:
        The part itself, for a scene that lies on that grid; else the lines and samples
        between the outermost that the lookup table names.

    Raises:
        SceneError: No pixel stands there.
    """
    table = info.placement
    if table is None:
        return part
    if part == Window(0, 0, table.rows, table.cols):
        return Window(0, 0, info.rows, info.cols)
    ends = []
    for rows in tiles((part.row, part.row_end), TABLE_ROWS):
        cells = table.read(rows, (part.col, part.col_end))
        inside = cells.rows >= 0
        if inside.any():
            row, col = cells.rows[inside], cells.cols[inside]
            ends.append((row.min(), row.max() + 1, col.min(), col.max() + 1))
    if not ends:
        raise SceneError(
            f"No pixel of {info.path.name} lies in the part that was asked for; choose "
            "one nearer to the middle of the scene."
        )
    low, high = np.min(ends, axis=0), np.max(ends, axis=0)
    top, left = int(low[0]), int(low[2])
    return Window(top, left, int(high[1]) - top, int(high[3]) - left)


def _from_bounds(info: SceneInfo, bounds: Bounds) -> Window:
    west, south, east, north = bounds
    if info.transform is None:
        raise SceneError(
            f"{info.path.name} has no georeference for --bbox; use --window."
        )
    to_map = Affine.from_gdal(*info.transform)
    ends = [to_map @ (col, row) for col in (0, info.cols) for row in (0, info.rows)]
    extent = [of(end[axis] for end in ends) for of in (min, max) for axis in (0, 1)]
    outside = SceneError(
        f"--bbox {_listed(bounds)} does not meet the scene {info.path.name}, which "
        f"reaches over {_listed(extent)}; give W,S,E,N in the scene's own coordinates."
    )
    if not (west < east and south < north):
        raise outside
    to_pixels = ~to_map
    corners = [(west, south), (west, north), (east, south), (east, north)]
    places = [to_pixels @ corner for corner in corners]
    if not all(math.isfinite(v) for place in places for v in place):
        raise outside
    cols, rows = ([p[axis] for p in places] for axis in (0, 1))
    left, right = _touched(cols, info.cols)
    top, bottom = _touched(rows, info.rows)
    if not (left < right and top < bottom):
        raise outside
    return Window(top, left, bottom - top, right - left)


def _listed(bounds: Sequence[float]) -> str:
    """Write coordinates as a user would, in metres or degrees."""
    return ",".join(f"{value:.12g}" for value in bounds)


def _touched(places: list[float], size: int) -> tuple[int, int]:
    """Return the pixels between the outermost places, as far as the scene reaches."""
    first = max(math.floor(min(places) + EDGE_PX), 0)
    return first, min(math.ceil(max(places) - EDGE_PX), size)


def grid_of(info: SceneInfo, region: Window) -> SceneInfo:
    """Describe the raster that covers a region: size and georeference."""
    transform = info.transform
    if transform is not None:
        moved = Affine.from_gdal(*transform) @ Affine.translation(
            region.col, region.row
        )
        transform = moved.to_gdal()
    control, rpcs = info.control, info.rpcs
    if control is not None:
        moved_points = tuple(
            (row - region.row, col - region.col, *place)
            for row, col, *place in control.points
        )
        control = control._replace(points=moved_points)  # type: ignore[arg-type]
    if rpcs is not None:
        rpcs = dict(rpcs)
        for key, first in (("LINE_OFF", region.row), ("SAMP_OFF", region.col)):
            if first and key in rpcs:
                rpcs[key] = repr(float(rpcs[key]) - first)
    return replace(
        info,
        rows=region.rows,
        cols=region.cols,
        transform=transform,
        control=control,
        rpcs=rpcs,
    )

"""Finds the ground that several labelled scenes show, such as that of flight lines.

Pixels of two scenes are compared by where their centres lie on the map, so that a
split can keep them apart, and count them, as it does within one scene.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine
from scipy import ndimage

from hsi_runtime.scenes.scene import SceneInfo
from hsi_train.data.labelled_scene import UNLABELLED, LabelledScene
from hsi_train.data.projection import project

Mask = NDArray[np.bool_]
Points = tuple[NDArray[Any], NDArray[Any]]  # columns or x, rows or y
SAME_STEP = 1e-3  # pixels by which two grids may drift apart along a scene


class Meeting(NamedTuple):
    """Pixels of one scene on, or near, the ground of another.

    Attributes:
        scene: Number of the scene whose pixels they are.
        other: Number of the scene that they lie in.
        pixels: Flat, in the labelled part of ``scene``.
        rows: Of ``other``'s labelled part; up to ``reach`` outside of it.
        cols: As ``rows``.
        reach: Distance that counts as near, in pixels of ``other``.
    """

    scene: int
    other: int
    pixels: NDArray[np.intp]
    rows: NDArray[np.intp]
    cols: NDArray[np.intp]
    reach: int


class GridOffset(NamedTuple):
    """Position of a labelled part in a grid that overlapping scenes share.

    Attributes:
        grid: Number of the scene whose grid it is.
        row: First row of the part, counted from that scene's part.
        col: First column.
    """

    grid: int
    row: int
    col: int


def meetings(
    scenes: Sequence[LabelledScene], reach: int, *, labelled_only: bool = True
) -> list[Meeting]:
    """Find the pixels near the ground of another scene.

    Args:
        scenes: Those without a georeference meet nobody.
        reach: In pixels of the scene whose pixels they are.
        labelled_only: Leave out pixels without a label, which no split divides.
    """
    result = []
    for number, scene in enumerate(scenes):
        for index, other in enumerate(scenes):
            if index == number or not _comparable(scene.info, other.info):
                continue
            far = math.ceil(reach * max(1.0, _side(scene.info) / _side(other.info)))
            far += not _on_one_grid(scene, other)  # a centre may round away
            if not _may_meet(scene, other, far):
                continue
            counted = scene.classes != UNLABELLED if labelled_only else scene.valid
            pixels = np.flatnonzero(counted)
            rows, cols = np.unravel_index(pixels, scene.classes.shape)
            x, y = _within(other, scene, (cols + 0.5, rows + 0.5))
            height, width = other.classes.shape
            close = (x >= -far) & (x < width + far) & (y >= -far) & (y < height + far)
            if close.any():
                row, col = (np.floor(v[close]).astype(np.intp) for v in (y, x))
                result.append(
                    Meeting(
                        scene=number,
                        other=index,
                        pixels=pixels[close],
                        rows=row,
                        cols=col,
                        reach=far,
                    )
                )
    return result


def near(masks: Sequence[Mask], reach: int, met: Sequence[Meeting]) -> list[Mask]:
    """Find what lies at most ``reach`` pixels, in both axes, from a chosen pixel.

    Args:
        masks: The chosen pixels of every scene, shape ``(row, col)``.
        reach: In pixels.
        met: By `meetings` for this reach: what is near in another scene counts, too.
    """
    out = [_grown(mask, reach) for mask in masks]
    for meeting in met:
        far = meeting.reach
        there = _grown(np.pad(masks[meeting.other], far), far)
        out[meeting.scene].flat[meeting.pixels] |= there[
            meeting.rows + far, meeting.cols + far
        ]
    return out


def grid_offsets(scenes: Sequence[LabelledScene]) -> list[GridOffset]:
    """Give scenes that overlap on equal pixels one grid, every other one its own."""
    offsets: list[GridOffset] = []
    for number, scene in enumerate(scenes):
        offset = GridOffset(number, 0, 0)
        for other, there in zip(scenes, offsets, strict=False):
            if not _equal_steps(scene, other) or not _may_meet(scene, other, 0):
                continue
            x, y = _within(other, scene, (np.zeros(1), np.zeros(1)))
            row, col = round(float(y[0])), round(float(x[0]))
            offset = GridOffset(there.grid, there.row + row, there.col + col)
            break
        offsets.append(offset)
    return offsets


def _grown(mask: Mask, reach: int) -> Mask:
    out: Mask = ndimage.maximum_filter(mask, 2 * reach + 1, mode="constant", cval=0)
    return out


def _comparable(one: SceneInfo, other: SceneInfo) -> bool:
    """Return True if both lie on a map, and its system is known for both or neither."""
    placed = one.transform is not None and other.transform is not None
    return placed and (one.crs is None) == (other.crs is None)


def _equal_steps(one: LabelledScene, other: LabelledScene) -> bool:
    if not _comparable(one.info, other.info) or not _one_system(one.info, other.info):
        return False
    step = ~_grid(other.info) @ _grid(one.info)
    drift = max(abs(step.a - 1), abs(step.b), abs(step.d), abs(step.e - 1))
    return bool(drift * max(one.classes.shape) < SAME_STEP)


def _on_one_grid(one: LabelledScene, other: LabelledScene) -> bool:
    """Return True if the pixel grids of both coincide where they are extended."""
    if not _equal_steps(one, other):
        return False
    x, y = _within(other, one, (np.zeros(1), np.zeros(1)))
    return bool(max(abs(v[0] - round(v[0])) for v in (x, y)) < 10 * SAME_STEP)


def _one_system(one: SceneInfo, other: SceneInfo) -> bool:
    if one.crs is None or other.crs is None or one.crs == other.crs:
        return one.crs == other.crs
    return bool(CRS.from_wkt(one.crs) == CRS.from_wkt(other.crs))


def _may_meet(scene: LabelledScene, other: LabelledScene, reach: int) -> bool:
    """Compare the boxes round both parts; a little room for bent edges."""
    rows, cols = scene.classes.shape
    edge = np.linspace(0, 1, 9)
    x = np.concatenate([edge * cols, edge * cols, 0 * edge, 0 * edge + cols])
    y = np.concatenate([0 * edge, 0 * edge + rows, edge * rows, edge * rows])
    col, row = _within(other, scene, (x, y))
    height, width = other.classes.shape
    apart = max(row.min() - height, -row.max(), col.min() - width, -col.max())
    return bool(apart <= reach + 2)


def _within(other: LabelledScene, scene: LabelledScene, points: Points) -> Points:
    """Move columns and rows of a scene's part into the part of another."""
    x, y = _moved(_grid(scene.info), (points[0] + scene.col, points[1] + scene.row))
    if not _one_system(scene.info, other.info):
        here, there = (CRS.from_wkt(str(s.info.crs)) for s in (scene, other))
        x, y = project(here, there, x, y)
    # Zero times an infinite coordinate is no number; it lies nowhere, too.
    with np.errstate(invalid="ignore"):
        moved = np.nan_to_num(_moved(~_grid(other.info), (x, y)), nan=np.inf)
    return moved[0] - other.col, moved[1] - other.row


def _moved(step: Affine, points: Points) -> Points:
    x, y = points
    return step.a * x + step.b * y + step.c, step.d * x + step.e * y + step.f


def _grid(info: SceneInfo) -> Affine:
    assert info.transform is not None
    return Affine.from_gdal(*info.transform)


def _side(info: SceneInfo) -> float:
    """Longer side of a pixel, in units of the map, or in metres where known."""
    step = _grid(info)
    return info.resolution_m or max(
        math.hypot(step.a, step.d), math.hypot(step.b, step.e)
    )

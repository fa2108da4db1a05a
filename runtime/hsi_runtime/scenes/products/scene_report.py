"""Reports what a scene is, without a model: ``hsi-run SCENE --info``."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.scene import SceneInfo, Transform


def report(path: Path) -> dict[str, Any]:
    """Report what a scene is; its pixels are not read.

    Raises:
        SceneError: It cannot be read.
    """
    with contextlib.closing(open_scene(path)) as scene:
        info = scene.info
    return {
        "scene": str(path),
        **summary(info),
        "dtype": info.dtype.name,
        "bytes": info.bands * info.rows * info.cols * info.dtype.itemsize,
        "wavelengths_nm": _range(info.wavelengths_nm),
        "widths_nm": _range(info.fwhm_nm),
        "nodata": _range(np.unique(info.nodata)),
        "scale": _range(info.scale),
        "offset": _range(info.offset),
        "block": list(info.block),
        "files": [str(file) for file in info.all_files],
        "notes": list(info.notes),
    }


def summary(info: SceneInfo) -> dict[str, Any]:
    """Report what a scene is, where it lies, and what of it can be used."""
    return {
        "product": info.product and info.product._asdict(),
        "driver": info.driver,
        "rows": info.ground.rows,
        "cols": info.ground.cols,
        "bands": info.bands,
        "good_bands": int(info.good.sum()),
        "bad_bands": [int(band) + 1 for band in np.flatnonzero(~info.good)],
        "georeference": georeference(info),
        "quality": [layer._asdict() for layer in info.quality],
    }


def readable(content: dict[str, Any]) -> dict[str, Any]:
    """Shorten for people what a report says of place and quality, if it does."""
    if "georeference" not in content:
        return content
    placed = content["georeference"]
    parts = [placed["kind"], placed["crs"] or "no coordinate system"]
    if "bounds" in placed:
        west, south, east, north = (f"{value:.10g}" for value in placed["bounds"])
        parts.append(f"W {west} S {south} E {east} N {north}")
    if placed.get("resolution_m") is not None:
        parts.append(f"{placed['resolution_m']:g} m")
    layers = [layer["name"] for layer in content["quality"]]
    return content | {"georeference": ", ".join(parts), "quality": layers}


def georeference(info: SceneInfo) -> dict[str, Any]:
    """Report where a scene lies.

    Returns:
        ``kind``: ``grid``, ``lookup table``, ``control points``, ``rational
        polynomials`` or ``none``; ``crs``; and for a grid or a table ``transform``,
        ``bounds`` (west, south, east, north) and ``resolution_m``.
    """
    kind, info = "lookup table" if info.placement else "none", info.ground
    crs = info.crs
    if kind == "none" and info.transform is not None:
        kind = "grid"
    elif info.control is not None:
        kind, crs = "control points", info.control.crs
    elif info.rpcs is not None:
        kind = "rational polynomials"
    name = CRS.from_wkt(crs).to_string() if crs else None
    placed: dict[str, Any] = {"kind": kind, "crs": name}
    if info.transform is not None:
        placed |= {
            "transform": [float(number) for number in info.transform],
            "bounds": _bounds(info.transform, info.rows, info.cols),
            "resolution_m": info.resolution_m,
        }
    return placed


def _bounds(transform: Transform, rows: int, cols: int) -> list[float]:
    x0, dx_col, dx_row, y0, dy_col, dy_row = transform
    corners = [(0, 0), (0, cols), (rows, 0), (rows, cols)]
    xs = [x0 + col * dx_col + row * dx_row for row, col in corners]
    ys = [y0 + col * dy_col + row * dy_row for row, col in corners]
    return [float(x) for x in (min(xs), min(ys), max(xs), max(ys))]


def _range(values: NDArray[np.float64] | None) -> float | list[float] | None:
    """Return the only value of an array, or the least and greatest; None if none."""
    if values is None or np.isnan(values).all():
        return None
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return low if low == high else [low, high]

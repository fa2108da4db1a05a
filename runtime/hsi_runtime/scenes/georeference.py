"""Where a scene lies on the ground: CRS, geotransform, control points, pixel size."""

import math
from collections.abc import Mapping
from typing import Any

from rasterio.crs import CRS
from rasterio.errors import CRSError

from hsi_runtime.scenes.scene import ControlPoints, Transform

NO_TRANSFORM = (0, 1, 0, 0, 0, 1)  # how GDAL says that there is none
WGS84_NAMES = {"wgs-84", "wgs84", "wgs 84"}


def resolution_m(crs: Any, transform: tuple[float, ...]) -> float | None:
    """Side of a pixel in metres; None where coordinates are geographic or unknown."""
    if not crs or not crs.is_projected or transform == NO_TRANSFORM:
        return None
    _, dx_col, dx_row, _, dy_col, dy_row = transform
    area = abs(dx_col * dy_row - dx_row * dy_col)
    return math.sqrt(area) * float(crs.linear_units_factor[1])


def control_points(dataset: Any) -> ControlPoints | None:
    """Read the ground control points of an open TIFF."""
    points, crs = dataset.gcps
    if not points:
        return None
    return ControlPoints(
        crs.to_wkt() if crs else None,
        tuple((p.row, p.col, p.x, p.y, p.z or 0.0) for p in points),
    )


def from_envi(
    fields: Mapping[str, str],
) -> tuple[CRS | None, Transform | None, list[str]]:
    """Read the place of an ENVI scene from the fields of its header.

    Returns:
        CRS, geotransform (each None where absent or unreadable), notes for the user.
    """
    notes: list[str] = []
    map_info = [f.strip() for f in fields.get("map info", "").split(",")]
    crs = _crs(fields.get("coordinate system string", ""), map_info, notes)
    return crs, _transform(map_info, notes), notes


def _transform(map_info: list[str], notes: list[str]) -> Transform | None:
    """Read ``map info`` (ENVI's rotation turns the grid counter-clockwise)."""
    if len(map_info) < 7:
        return None
    try:
        ref_col, ref_row, east, north, width, height = map(float, map_info[1:7])
    except ValueError:
        notes.append("map info has values that are no numbers; georeference dropped.")
        return None
    options = dict(f.split("=", 1) for f in map_info[7:] if "=" in f)
    try:
        rotation = float(options.get("rotation", "0"))
    except ValueError:
        notes.append("map info has an unreadable rotation; georeference dropped.")
        return None
    angle = math.radians(rotation)
    dx_col, dx_row = width * math.cos(angle), height * math.sin(angle)
    dy_col, dy_row = width * math.sin(angle), -height * math.cos(angle)
    if abs(rotation) == 180:  # GDAL writes this for a grid that is south up
        dx_col, dx_row, dy_col, dy_row = width, 0.0, 0.0, height
    col, row = ref_col - 1, ref_row - 1  # ENVI counts pixels from one
    return (
        east - col * dx_col - row * dx_row,
        dx_col,
        dx_row,
        north - col * dy_col - row * dy_row,
        dy_col,
        dy_row,
    )


def _crs(wkt: str, map_info: list[str], notes: list[str]) -> CRS | None:
    try:
        if wkt:
            return CRS.from_wkt(wkt)
        name = map_info[0].lower()
        datum = {f.lower() for f in map_info[7:]}
        if name == "utm" and datum & WGS84_NAMES:
            south = 100 if "south" in datum else 0
            return CRS.from_epsg(32600 + south + int(map_info[7]))
        if name.startswith("geographic") and datum & WGS84_NAMES:
            return CRS.from_epsg(4326)
    except (CRSError, ValueError, IndexError) as error:
        notes.append(f"The header's coordinate system cannot be read ({error}).")
        return None
    if name and name != "arbitrary":
        notes.append(f"map info {map_info[0]!r} is not understood; no CRS is set.")
    return None

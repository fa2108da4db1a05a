"""Where a scene lies on the ground: CRS, geotransform, control points, pixel size."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rasterio.crs import CRS
from rasterio.errors import CRSError

from hsi_runtime.errors import SceneError
from hsi_runtime.files import read_whole
from hsi_runtime.scenes.scene import ControlPoints, Transform
from hsi_runtime.scenes.side_car import Statements, crs_of

NO_TRANSFORM = (0, 1, 0, 0, 0, 1)  # how GDAL says that there is none
WORLD_BYTES = 4096
# Datums of map info, their letters and digits only.
DATUMS = {
    **dict.fromkeys(("wgs84", "wgs1984", "worldgeodeticsystem1984"), "wgs84"),
    **dict.fromkeys(
        ("etrs89", "etrs1989", "europeanterrestrialreferencesystem1989"), "etrs89"
    ),
    **dict.fromkeys(("nad83", "northamerica1983", "northamericandatum1983"), "nad83"),
    **dict.fromkeys(("nad27", "northamerica1927", "northamericandatum1927"), "nad27"),
}
# EPSG codes of UTM zone 0, north, and of degrees.
UTM_CODES = {"wgs84": 32600, "etrs89": 25800, "nad83": 26900, "nad27": 26700}
GEOGRAPHIC_CODES = {"wgs84": 4326, "etrs89": 4258, "nad83": 4269, "nad27": 4267}


def resolution_m(crs: Any, transform: tuple[float, ...]) -> float | None:
    """Side of a pixel in metres; None where coordinates are geographic or unknown."""
    if not crs or not crs.is_projected or transform == NO_TRANSFORM:
        return None
    if not is_grid(transform):
        return None
    _, dx_col, dx_row, _, dy_col, dy_row = transform
    area = abs(dx_col * dy_row - dx_row * dy_col)
    return math.sqrt(area) * float(crs.linear_units_factor[1])


def is_grid(transform: tuple[float, ...]) -> bool:
    """Return True if a geotransform gives every pixel an area and a place."""
    _, dx_col, dx_row, _, dy_col, dy_row = transform
    area = abs(dx_col * dy_row - dx_row * dy_col)
    return all(map(math.isfinite, (*transform, area))) and area > 0


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Where a scene lies on the ground.

    Attributes:
        crs: Coordinate reference system, or None.
        transform: Geotransform, or None.
        control: Ground control points, or None.
        notes: Sentences for the user.
        files: Files beside the scene that say so.
    """

    crs: CRS | None = None
    transform: Transform | None = None
    control: ControlPoints | None = None
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def resolution_m(self) -> float | None:
        """Side of a pixel in metres, or None where unknown."""
        if self.crs is None or self.transform is None:
            return None
        return resolution_m(self.crs, self.transform)

    @property
    def wkt(self) -> str | None:
        """Coordinate reference system as WKT, or None."""
        return self.crs.to_wkt() if self.crs else None


def from_tiff(dataset: Any) -> Ground:
    """Read the place of an open TIFF."""
    points, crs = dataset.gcps
    control = None
    if points:
        control = ControlPoints(
            crs.to_wkt() if crs else None,
            tuple((p.row, p.col, p.x, p.y, p.z or 0.0) for p in points),
        )
    placed = not dataset.transform.is_identity
    return Ground(
        crs=dataset.crs,
        transform=dataset.transform.to_gdal() if placed else None,
        control=control,
    )


def from_envi(fields: Mapping[str, str]) -> Ground:
    """Read the place of an ENVI scene from the fields of its header."""
    notes: list[str] = []
    map_info = [f.strip() for f in fields.get("map info", "").split(",")]
    crs = _crs(fields.get("coordinate system string", ""), map_info, notes)
    transform = _transform(map_info, notes)
    control = None
    if transform is None:
        control = _geo_points(fields.get("geo points", ""), notes)
    unread = [key for key in ("rpc info", "pseudo map info") if fields.get(key)]
    if unread and transform is None:
        notes.append(f"The header's {' and '.join(unread)} are not read.")
    return Ground(crs=crs, transform=transform, control=control, notes=tuple(notes))


def complete(ground: Ground, beside: Statements) -> Ground:
    """Take from a file beside a scene what it does not say itself of its place."""
    crs, transform, control = ground.crs, ground.transform, ground.control
    if crs is None and beside.crs is not None:
        crs = beside.crs
        beside.taken.append("coordinate system")
    elif beside.crs is not None and beside.crs != crs:
        beside.overruled.append("coordinate system")
    if transform is not None:
        if beside.transform is not None and beside.transform != transform:
            beside.overruled.append("geotransform")
    elif control is None and beside.transform is not None:
        transform = beside.transform
        beside.taken.append("geotransform")
    elif control is None and beside.control is not None:
        control = beside.control
        beside.taken.append("ground control points")
    return replace(ground, crs=crs, transform=transform, control=control)


def with_world_file(ground: Ground, path: Path) -> Ground:
    """Take the place of a scene that has none from a world file, such as scene.tfw.

    It holds six numbers, which place the centre of the first pixel.
    """
    if ground.transform is not None or ground.control is not None:
        return ground
    notes = list(ground.notes)
    transform, files = _world_file(path, notes)
    return replace(ground, transform=transform, notes=tuple(notes), files=tuple(files))


def _world_file(path: Path, notes: list[str]) -> tuple[Transform | None, list[Path]]:
    suffix = path.suffix[1:].lower()
    ends = [f"{suffix[0]}{suffix[-1]}w", f"{suffix}w"] if suffix else []
    names = [f"{path.stem}.{end}" for end in (*ends, "wld")]
    names += [f"{path.stem}.{end.upper()}" for end in (*ends, "wld")]
    beside = [world for world in map(path.with_name, names) if world.exists()]
    for world in beside:
        try:
            text = read_whole(world, WORLD_BYTES).decode("ascii").replace(",", ".")
            dx_col, dy_col, dx_row, dy_row, x, y = map(float, text.split())
        except (SceneError, ValueError):
            notes.append(f"{world.name} does not hold six numbers; it is not used.")
            continue
        transform = (
            x - (dx_col + dx_row) / 2,
            dx_col,
            dx_row,
            y - (dy_col + dy_row) / 2,
            dy_col,
            dy_row,
        )
        if not all(map(math.isfinite, transform)) or dx_col * dy_row == dx_row * dy_col:
            notes.append(f"{world.name} places all pixels on a line; it is not used.")
            continue
        notes.append(f"{path.name}: its place is taken from {world.name}.")
        return transform, [world]
    return None, []


def _geo_points(text: str, notes: list[str]) -> ControlPoints | None:
    """Read ``geo points``: column and row from 1, latitude and longitude of each."""
    if not text:
        return None
    try:
        values = [float(v) for v in text.split(",") if v.strip()]
    except ValueError:
        values = []
    if not values or len(values) % 4 or not all(map(math.isfinite, values)):
        notes.append("geo points are not four numbers each; they are dropped.")
        return None
    points = [values[at : at + 4] for at in range(0, len(values), 4)]
    return ControlPoints(
        CRS.from_epsg(4326).to_wkt(),
        tuple((row - 1, col - 1, lon, lat, 0.0) for col, row, lat, lon in points),
    )


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
    numbers = (ref_col, ref_row, east, north, width, height, rotation)
    if not all(map(math.isfinite, numbers)) or width == 0 or height == 0:
        notes.append("map info places no pixels; georeference dropped.")
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
    name = map_info[0].lower()
    if wkt:
        crs = crs_of(wkt)
        if crs is None:
            notes.append("The header's coordinate system string cannot be read.")
        return crs
    try:
        datum = next((d for d in map(_datum, map_info[7:]) if d), None)
        options = {f.lower().replace(" ", "") for f in map_info[7:]}
        feet = "units=feet" in options
        if name == "utm" and datum and not feet:
            zone, south = int(map_info[7]), "south" in options
            if 1 <= zone <= 60 and (not south or datum == "wgs84"):
                base = 32700 if south else UTM_CODES[datum]
                return CRS.from_epsg(base + zone)
        if name.startswith("geographic") and datum:
            return CRS.from_epsg(GEOGRAPHIC_CODES[datum])
    except (CRSError, ValueError, IndexError) as error:
        notes.append(f"The header's coordinate system cannot be read ({error}).")
        return None
    if name and name != "arbitrary":
        notes.append(
            f"map info {', '.join([map_info[0], *map_info[7:]])!r} is not understood; "
            "no CRS is set."
        )
    return None


def _datum(text: str) -> str | None:
    """Return our name of a datum, or None where a field of map info is none."""
    return DATUMS.get("".join(c for c in text.lower() if c.isalnum()))

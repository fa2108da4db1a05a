"""Turns a finished class map into polygons, one layer of a GeoPackage.

Needs the extra ``vector``. Polygons follow the pixels' edges; neighbouring pixels of a
class, sharing an edge, make one polygon. A second table, ``layer_styles``, is where
QGIS keeps the styles of a GeoPackage: names and colours appear by themselves.
"""

import contextlib
import os
import sqlite3
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import rasterio
import rasterio.features
import rasterio.windows
import shapely

from hsi_runtime.errors import OutputError, ResourceError
from hsi_runtime.machine import held_bytes, machine_bytes
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.model.plain_text import plain
from hsi_runtime.output.layers import UNCLASSIFIED
from hsi_runtime.output.qgis_style import polygon_style
from hsi_runtime.scenes.georeference import resolution_m
from hsi_runtime.scenes.geotiff import open_tiff
from hsi_runtime.walk.memory import BASE_BYTES

LAYER, STYLES = "classes", "layer_styles"
SUFFIX = ".gpkg"
MAX_PIXELS = 200_000_000  # the whole map is in memory here
# Measured: values, mask and what GDAL keeps of them; polygons in GDAL's memory, as WKB
# and as rows, by the points at which their edges turn.
PIXEL_BYTES, CORNER_BYTES = 6, 640
LONGEST_NAME = 255  # of a class; it is repeated for each of its polygons
STRIP_ROWS = 256


def check(output: Path, pixels: int, max_memory_bytes: int | None = None) -> None:
    """Refuse what cannot be written, before the map is computed.

    Args:
        output: The GeoPackage.
        pixels: Number of pixels of the class map.
        max_memory_bytes: Limit of the process; None for the machine's.

    Raises:
        OutputError: The name does not end in .gpkg, or the map is too large.
        ResourceError: The map alone needs more memory than is allowed.
    """
    if output.suffix.lower() != SUFFIX:
        raise OutputError(
            f"--vector {output}: polygons are written as a GeoPackage; give a name "
            f"that ends in {SUFFIX}."
        )
    if pixels > MAX_PIXELS:
        raise OutputError(
            f"The class map has {pixels:,} pixels; --vector takes at most "
            f"{MAX_PIXELS:,}. Use --window for a part."
        )
    limit = max_memory_bytes or machine_bytes()
    needed = BASE_BYTES + pixels * PIXEL_BYTES
    if needed > limit:
        raise ResourceError(
            f"--vector needs {needed / 1e6:.0f} MB or more for a map of {pixels:,} "
            f"pixels; {limit / 1e6:.0f} MB are allowed. Give more memory, or use "
            "--window for a part."
        )


def write_polygons(
    class_map: Path,
    output: Path,
    document: ModelDocument,
    min_area_m2: float,
    max_memory_bytes: int | None = None,
) -> None:
    """Write the polygons of all classes, with code, name and area.

    Args:
        class_map: A finished class map.
        output: The GeoPackage, which is replaced.
        document: Names of the classes.
        min_area_m2: Smallest polygon to keep; in pixels where the map has no metres.
        max_memory_bytes: Limit of the process; None for the machine's.

    Raises:
        ResourceError: The polygons need more memory than is left, or the disk is full.
    """
    with rasterio.Env(GDAL_CACHEMAX=64), open_tiff(class_map) as raster:
        _check_memory(raster, max_memory_bytes or machine_bytes())
        side_m = resolution_m(raster.crs, raster.transform.to_gdal())
        # From the square of the map's unit to metres, or to pixels.
        unit = (side_m or 1.0) ** 2 / abs(raster.transform.determinant)
        crs = raster.crs.to_wkt() if raster.crs else None
        polygons, codes, areas = _polygons(raster, unit, min_area_m2)
    names = {c.code: plain(c.name, LONGEST_NAME) for c in document.classes}
    columns = [
        np.array(codes, dtype=np.int32),
        np.array([names[code] for code in codes], dtype=object),
        np.array(areas, dtype=np.float64),
    ]
    output.unlink(missing_ok=True)
    try:
        with warnings.catch_warnings(), _only_a_path(output) as path:
            warnings.filterwarnings("ignore", "'crs' was not provided")
            pyogrio.raw.write(
                path,
                np.array(polygons, dtype=object),
                columns,
                ["code", "name", "area"],
                geometry_type="Polygon",
                crs=crs,
                driver="GPKG",
                layer=LAYER,
            )
            _add_style(path, polygon_style(document))
        _verify(output, len(polygons))
    # All of pyogrio's errors are of the first kind; of one that comes while a file is
    # closed, Python only knows that there was one.
    except (RuntimeError, SystemError, OSError, sqlite3.Error) as error:
        output.unlink(missing_ok=True)
        raise ResourceError(
            f"The polygons cannot be written ({error}); is the disk full? Make room "
            "and repeat the command: it resumes."
        ) from error


@contextlib.contextmanager
def _only_a_path(path: Path) -> Iterator[Path]:
    """Name a file so that pyogrio takes nothing in its path for a URL or an archive."""
    if not set(str(path)) & set("!?;:"):
        yield path
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{folder}") / path.name
    finally:
        os.close(folder)


def _polygons(
    raster: Any, unit: float, min_area_m2: float
) -> tuple[list[bytes], list[int], list[float]]:
    """Return the polygons of all classes as WKB, their codes, and their areas.

    Args:
        raster: Open class map.
        unit: What the areas are multiplied with.
        min_area_m2: Smallest area to keep, after that.
    """
    values = raster.read(1)
    known = (values != UNCLASSIFIED) & (values != raster.nodata)
    polygons, codes, areas = [], [], []
    for shape, code in rasterio.features.shapes(values, known, 4, raster.transform):
        polygon = shapely.geometry.shape(shape)
        area = polygon.area * unit
        if area >= min_area_m2:
            polygons.append(shapely.to_wkb(polygon))
            codes.append(int(code))
            areas.append(area)
    return polygons, codes, areas


def _check_memory(raster: Any, limit: int) -> None:
    """Refuse a map whose polygons need more memory than is left.

    Raises:
        ResourceError: They do; the map itself is kept in the journal.
    """
    corners = _count_corners(raster)
    needed = raster.width * raster.height * PIXEL_BYTES + corners * CORNER_BYTES
    left = max(limit - held_bytes(), 0)
    if needed > left:
        raise ResourceError(
            f"--vector needs about {needed / 1e6:.0f} MB more for the polygons of this "
            f"map, and {left / 1e6:.0f} MB of {limit / 1e6:.0f} MB are left. Repeat "
            "the command with more memory, or without --vector: it resumes."
        )


def _count_corners(raster: Any) -> int:
    """Count the points at which the edge of a polygon turns, strip by strip."""
    corners = 0
    above = np.zeros((1, raster.width), dtype=raster.dtypes[0])
    for top in range(0, raster.height, STRIP_ROWS):
        rows = min(STRIP_ROWS, raster.height - top)
        window = rasterio.windows.Window(0, top, raster.width, rows)
        strip = np.concatenate([above, raster.read(1, window=window)])
        nw, ne, sw, se = strip[:-1, :-1], strip[:-1, 1:], strip[1:, :-1], strip[1:, 1:]
        straight = ((nw == ne) & (sw == se)) | ((nw == sw) & (ne == se))
        corners += straight.size - int(straight.sum())
        above = strip[-1:]
    return corners


def _verify(output: Path, polygons: int) -> None:
    """Count what was written: GDAL goes without a spatial index where a disk is full.

    Raises:
        OSError: Something is missing.
        sqlite3.Error: The file cannot be read.
    """
    expected = {LAYER: polygons, f"rtree_{LAYER}_geom_rowid": polygons, STYLES: 1}
    with contextlib.closing(sqlite3.connect(output)) as table:
        for name, rows in expected.items():
            (found,) = table.execute(f"SELECT count(*) FROM {name}").fetchone()
            if found != rows:
                raise OSError(f"{name} has {found} rows in place of {rows}")


def _add_style(output: Path, style: str) -> None:
    """Add a style for the polygons; QGIS asks for all of these columns."""
    row = {
        "f_table_catalog": "",
        "f_table_schema": "",
        "f_table_name": LAYER,
        "f_geometry_column": "geom",
        "styleName": LAYER,
        "styleQML": style,
        "styleSLD": "",
        "useAsDefault": True,
        "description": "",
        "owner": "",
        "update_time": "",
    }
    columns = [
        np.array([value], dtype=bool if isinstance(value, bool) else object)
        for value in row.values()
    ]
    pyogrio.raw.write(
        output,
        None,
        columns,
        list(row),
        geometry_type=None,
        driver="GPKG",
        layer=STYLES,
    )

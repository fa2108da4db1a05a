"""Turns a finished class map into polygons, one layer of a GeoPackage.

Needs the extra ``vector``. Polygons follow the pixels' edges; neighbouring pixels of a
class, sharing an edge, make one polygon. A second table, ``layer_styles``, is where
QGIS keeps the styles of a GeoPackage: names and colours appear by themselves.
"""

import warnings
from pathlib import Path

import numpy as np
import pyogrio
import rasterio
import rasterio.features
import shapely

from hsi_runtime.errors import OutputError
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.output.layers import UNCLASSIFIED
from hsi_runtime.output.qgis_style import polygon_style
from hsi_runtime.scenes.georeference import resolution_m
from hsi_runtime.scenes.geotiff import open_tiff

LAYER = "classes"
SUFFIX = ".gpkg"
MAX_PIXELS = 200_000_000  # the whole map is in memory here


def check(output: Path, pixels: int) -> None:
    """Refuse what cannot be written, before the map is computed.

    Args:
        output: The GeoPackage.
        pixels: Number of pixels of the class map.

    Raises:
        OutputError: The name does not end in .gpkg, or the map is too large.
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


def write_polygons(
    class_map: Path, output: Path, document: ModelDocument, min_area_m2: float
) -> None:
    """Write the polygons of all classes, with code, name and area.

    Args:
        class_map: A finished class map.
        output: The GeoPackage.
        document: Names of the classes.
        min_area_m2: Smallest polygon to keep; in pixels where the map has no metres.

    Raises:
        OutputError: The file cannot be written.
    """
    with rasterio.Env(GDAL_CACHEMAX=64), open_tiff(class_map) as raster:
        codes = raster.read(1)
        known = (codes != UNCLASSIFIED) & (codes != raster.nodata)
        side_m = resolution_m(raster.crs, raster.transform.to_gdal())
        # From the square of the map's unit to metres, or to pixels.
        unit = (side_m or 1.0) ** 2 / abs(raster.transform.determinant)
        crs = raster.crs.to_wkt() if raster.crs else None
        shapes = rasterio.features.shapes(codes, known, 4, raster.transform)
        polygons = [(shapely.geometry.shape(s), int(code)) for s, code in shapes]
    kept = [(p, code) for p, code in polygons if p.area * unit >= min_area_m2]
    names = {c.code: c.name for c in document.classes}
    columns = [
        np.array([code for _, code in kept], dtype=np.int32),
        np.array([names[code] for _, code in kept], dtype=object),
        np.array([polygon.area * unit for polygon, _ in kept], dtype=np.float64),
    ]
    output.unlink(missing_ok=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided")
            pyogrio.raw.write(
                output,
                np.array([shapely.to_wkb(p) for p, _ in kept], dtype=object),
                columns,
                ["code", "name", "area"],
                geometry_type="Polygon",
                crs=crs,
                driver="GPKG",
                layer=LAYER,
            )
            _add_style(output, polygon_style(document))
    except (pyogrio.errors.DataSourceError, OSError) as error:
        raise OutputError(f"{output} cannot be written: {error}") from error


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
        layer="layer_styles",
    )

"""Writes a STAC item that describes the outputs of a run."""

import datetime
import json
import logging
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.warp import transform_bounds

from hsi_runtime.errors import OutputError
from hsi_runtime.files import read_whole
from hsi_runtime.model.model_file import ClassEntry, ModelDocument
from hsi_runtime.model.plain_text import plain
from hsi_runtime.output.journal_folder import ITEM
from hsi_runtime.scenes.georeference import is_grid
from hsi_runtime.scenes.scene import SceneInfo

log = logging.getLogger(__name__)

VERSION = "1.1.0"
MOST_ITEM_BYTES = 64_000_000  # 65,534 classes with long names take less
EXTENSIONS = [
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
]
NOT_IN_NAMES = re.compile("[^0-9A-Za-z_-]+")  # of classes, by the extension's schema
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
TYPES = {"preview": "image/png", "vector": "application/geopackage+sqlite3"}
ROLES = {"preview": ["overview"], "classes": ["data", "classification"]}


def write_item(
    folder: Path,
    paths: dict[str, Path],
    requested: list[str],
    grid: SceneInfo,
    document: ModelDocument,
    tags: dict[str, str],
) -> Path:
    """Write the item into a folder, and return its path there.

    The time is that of the run, or ``SOURCE_DATE_EPOCH``.

    Args:
        folder: Where to write it.
        paths: Path of each output.
        requested: Kinds that were written.
        grid: Size and georeference of the class map.
        document: The model's document.
        tags: Provenance, as in the class map.
    """
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": EXTENSIONS,
        "id": paths["classes"].stem,
        **_footprint(grid),
        "properties": {
            "datetime": timestamp(),
            "proj:wkt2": grid.crs,
            "proj:shape": [grid.rows, grid.cols],
            "processing:software": {"hsi-edge": tags["TIFFTAG_SOFTWARE"].split()[-1]},
            **{_property(k): v for k, v in tags.items() if k.startswith("HSI_")},
        },
        "assets": {
            name: {
                "href": f"./{paths[name].name}",
                "type": TYPES.get(name, COG),
                "roles": ROLES.get(name, ["data"]),
            }
            for name in requested
            if name != "stac"
        },
        "links": [],
    }
    described = classification_classes(document.classes)
    item["assets"]["classes"]["classification:classes"] = described
    made = folder / ITEM
    made.write_text(
        json.dumps(item, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    return made


def timestamp() -> str:
    """Return the present time, or ``SOURCE_DATE_EPOCH``, as STAC writes it.

    Raises:
        OutputError: ``SOURCE_DATE_EPOCH`` is no time.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.datetime.now(datetime.UTC)
    if epoch:
        try:
            now = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise OutputError(
                f"SOURCE_DATE_EPOCH is {epoch!r}; expected seconds since 1970, or none."
            ) from error
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def classification_classes(classes: Sequence[ClassEntry]) -> list[dict[str, Any]]:
    """Describe classes as the Classification extension wants them."""
    return [
        {
            "value": c.code,
            "name": NOT_IN_NAMES.sub("-", c.name).strip("-") or str(c.code),
            "title": plain(c.name),
            "color_hint": c.color[1:].upper(),
        }
        for c in classes
    ]


class _Item(msgspec.Struct):
    """A STAC item, as far as it says where a map comes from."""

    properties: dict[str, Any]


def tags_of_item(path: Path) -> dict[str, Any]:
    """Read the provenance back that `write_item` wrote.

    Raises:
        OutputError: The file cannot be read, or is too large.
        ValueError: It is no STAC item.
    """
    content = read_whole(path, MOST_ITEM_BYTES, OutputError)
    properties = msgspec.json.decode(content, type=_Item).properties
    return {
        key.replace(":", "_", 1).upper(): value for key, value in properties.items()
    }


def _property(tag: str) -> str:
    """Turn ``HSI_MODEL_SHA256`` into ``hsi:model_sha256``."""
    return tag.lower().replace("_", ":", 1)


def _footprint(grid: SceneInfo) -> dict[str, Any]:
    """Return geometry and bounding box in degrees, if the map has a place on Earth.

    A map that crosses 180 degrees gets a polygon on either side of it (RFC 7946, 3.1.9)
    and a box whose west is larger than its east (5.2).
    """
    if grid.transform is None or grid.crs is None or not is_grid(grid.transform):
        return {"geometry": None}
    to_map = Affine.from_gdal(*grid.transform)
    corners = [(0, 0), (grid.cols, 0), (grid.cols, grid.rows), (0, grid.rows)]
    x, y = zip(*(to_map @ corner for corner in corners), strict=True)
    crs = CRS.from_wkt(grid.crs)
    if not (crs.is_projected or crs.is_geographic):  # a local one
        return {"geometry": None}
    try:
        with rasterio.Env():  # without it, GDAL's errors go to stderr by themselves
            box = transform_bounds(crs, "EPSG:4326", min(x), min(y), max(x), max(y))
    except (RasterioError, CPLE_BaseError):  # of another planet, or beyond a projection
        box = (math.nan,) * 4
    if not all(map(math.isfinite, box)):
        log.warning(
            "The corners of the map have no longitude and latitude; the STAC item has "
            "no geometry."
        )
        return {"geometry": None}
    west, south, east, north = box
    south, north = max(south, -90.0), min(north, 90.0)
    if west <= east and east - west >= 360:
        west, east = -180.0, 180.0
    elif west < -180 or east > 180:  # as a geographic CRS may count on
        west, east = _longitude(west), -_longitude(-east)
    parts = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    rings = [
        [[w, south], [e, south], [e, north], [w, north], [w, south]] for w, e in parts
    ]
    geometry: dict[str, Any] = {"type": "Polygon", "coordinates": rings}
    if len(rings) > 1:
        geometry = {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}
    return {"bbox": [west, south, east, north], "geometry": geometry}


def _longitude(degrees: float) -> float:
    """Return a longitude from -180 to below 180 degrees."""
    return (degrees + 180) % 360 - 180

"""Reads the features of a vector file whose kind its first bytes show.

GDAL's own guess would take a file of any name for what its content asks for: a virtual
layer that reads other files, or a service that is contacted. Here the content decides,
only four kinds are read, each by its own driver, and nothing but the file itself and,
for a Shapefile, the files of its name beside it.
"""

import json
import re
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyogrio
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.files import local_file, open_binary

GEOPACKAGE, SHAPEFILE, FLATGEOBUF = "GPKG", "ESRI Shapefile", "FlatGeobuf"
GEOJSON = "GeoJSON"
MAGICS = {
    b"SQLite format 3\0": GEOPACKAGE,
    b"\0\0\x27\x0a": SHAPEFILE,
    b"fgb\x03fgb": FLATGEOBUF,
}
GEOJSON_TYPES = [
    *("FeatureCollection", "Feature", "GeometryCollection", "Point", "MultiPoint"),
    *("LineString", "MultiLineString", "Polygon", "MultiPolygon"),
]
GEOJSON_KEYS = [
    *("type", "crs", "features", "geometry", "geometries", "properties"),
    "coordinates",
]
# A name of a coordinate system, never an address to fetch one from.
CRS_NAME = r"(urn:ogc:def:crs:|https?://www\.opengis\.net/def/crs/|EPSG:|OGC:)[\w:./]+"
RTREE = r'CREATE VIRTUAL TABLE ("(?:[^"]|"")*"|\w+) USING rtree\([\w\s,"]*\)'
# Belt and braces: the drivers above have no need of the network.
GDAL_OPTIONS = {"CPL_VSIL_CURL_ALLOWED_FILENAME": "/none"}


class Features(NamedTuple):
    """The one layer of a vector file.

    Attributes:
        crs: Coordinate reference system as text, or None.
        geometry: Well-known binary of each feature, or None, shape ``(feature,)``.
        columns: Values of each field, shape ``(feature,)``.
    """

    crs: str | None
    geometry: NDArray[np.object_]
    columns: dict[str, NDArray[Any]]


def kind_of(path: Path) -> str | None:
    """Return the GDAL driver for a file by its first bytes; None for other kinds."""
    with open_binary(path) as file:
        head = file.read(64)
    for magic, driver in MAGICS.items():
        if head.startswith(magic):
            return driver
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return GEOJSON if text.startswith(b"{") else None


def read_features(path: str, tables: bool = False) -> Features:
    """Read the features of a GeoPackage, GeoJSON, Shapefile or FlatGeobuf.

    Args:
        path: Path of the file.
        tables: Read a table without geometry where there is no other layer.

    Raises:
        SceneError: The file is of another kind, is damaged, refers to other files, or
            has not exactly one layer of the requested kind.
    """
    file = local_file(path).absolute()
    driver = kind_of(file)
    if driver is None:
        raise SceneError(
            f"{path} is not a readable vector file: it is no GeoPackage, GeoJSON, "
            "Shapefile (.shp) or FlatGeobuf. Save the layer as a GeoPackage."
        )
    if driver == GEOPACKAGE:
        _check_geopackage(path, file)
    source = _plain_geojson(path, file) if driver == GEOJSON else str(file)
    try:
        with _gdal_options():
            layer = _layer(path, source, tables)
            opened = pyogrio.read_info(source, layer=layer)["driver"]
            if opened != driver:
                raise SceneError(
                    f"{path} is not a readable vector file: it is damaged, or made to "
                    f"look like {driver} and like {opened}. Save the layer again."
                )
            meta, _, geometry, columns = pyogrio.raw.read(source, layer=layer)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise SceneError(f"{path} is not a readable vector file: {error}") from None
    fields = [str(name) for name in meta["fields"]]
    return Features(
        crs=meta["crs"],
        geometry=geometry,
        columns=dict(zip(fields, columns, strict=True)),
    )


@contextmanager
def _gdal_options() -> Iterator[None]:
    before = {key: pyogrio.get_gdal_config_option(key) for key in GDAL_OPTIONS}
    pyogrio.set_gdal_config_options(GDAL_OPTIONS)
    try:
        # GDAL warns of harmless things, such as an unusual suffix.
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
            yield
    finally:
        pyogrio.set_gdal_config_options(before)


def _layer(path: str, source: str | bytes, tables: bool) -> str | None:
    """Name the one layer with geometry; tables beside it, such as styles, are none.

    Where there is none and ``tables`` are read, too, name the one table. None for
    bytes, whose layer has another name each time they are opened.
    """
    present = [(str(name), kind) for name, kind in pyogrio.list_layers(source)]
    layers = [name for name, kind in present if kind is not None]
    if tables and not layers and len(present) == 1:
        layers = [name for name, _ in present]
    if len(layers) != 1:
        raise SceneError(
            f"{path} has {len(layers)} layers with geometry"
            f"{': ' if layers else ''}{', '.join(layers)}; expected one. Save "
            "the layer with the labels as a file of its own."
        )
    return None if isinstance(source, bytes) else layers[0]


def _check_geopackage(path: str, file: Path) -> None:
    """Refuse a database that is no GeoPackage, or whose tables lie in other files."""
    try:
        uri = f"{file.as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            tables = database.execute(
                "SELECT name, rootpage, sql FROM sqlite_master WHERE type = 'table'"
            ).fetchall()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise SceneError(f"{path} is not a readable vector file: {error}.") from None
    if "gpkg_contents" not in {name for name, *_ in tables}:
        raise SceneError(
            f"{path} is not a readable vector file: it is an SQLite database, but no "
            "GeoPackage. Save the layer as a GeoPackage."
        )
    for name, page, sql in tables:
        virtual = not page or "virtual" in str(sql).lower()
        if virtual and not re.fullmatch(RTREE, str(sql).strip(), re.IGNORECASE):
            raise SceneError(
                f"{path}: table {name!r} is virtual, which may read other files. Save "
                "the layer with the labels as a new GeoPackage."
            )


def _plain_geojson(path: str, file: Path) -> bytes:
    """Read GeoJSON and write it anew, with nothing in it that another driver takes.

    GDAL looks for words in the first bytes, such as those of a virtual layer: no ``<``
    and no key beyond those of GeoJSON is left, and the type comes first.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        with open_binary(file) as stream:
            text = stream.read().decode("utf-8-sig")
        content = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise SceneError(f"{path} is not a readable vector file: {error}.") from None
    if not isinstance(content, dict) or content.get("type") not in GEOJSON_TYPES:
        raise SceneError(
            f"{path} is not a readable vector file: its type is not that of GeoJSON, "
            "such as FeatureCollection. Save the layer as a GeoPackage."
        )
    crs = content.get("crs")
    if crs is not None:
        named = isinstance(crs, dict) and isinstance(crs.get("properties"), dict)
        name = crs["properties"].get("name") if named else None
        if not isinstance(name, str) or not re.fullmatch(CRS_NAME, name):
            raise SceneError(
                f"{path}: its crs is no name such as urn:ogc:def:crs:EPSG::25833. Save "
                "the layer as a GeoPackage."
            )
        content["crs"] = {"type": "name", "properties": {"name": name}}
    plain = {key: content[key] for key in GEOJSON_KEYS if key in content}
    return json.dumps(plain).replace("<", "\\u003c").encode("ascii")

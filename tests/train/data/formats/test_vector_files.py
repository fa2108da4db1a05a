"""Vector labels follow no reference, whatever their name says; see `vector_files`."""

import http.server
import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely

from hsi_runtime.errors import SceneError
from hsi_train.data.formats.vector_files import read_features
from hsi_train.data.labels import open_labels

SUFFIXES = ("geojson", "json", "gpkg", "shp", "fgb")
SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}
FEATURE = {"type": "Feature", "properties": {"kind": "oak"}, "geometry": SQUARE}
COLLECTION = {"type": "FeatureCollection", "features": [FEATURE]}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A readable vector file in another folder."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path = folder / "secret.geojson"
    path.write_text(json.dumps(COLLECTION))
    return path


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """The address of a server on this machine, and what was asked of it."""
    requested: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}", requested
        http_server.shutdown()
        thread.join()


def virtual_layer(source: str, name: str = "secret") -> str:
    return (
        f'<OGRVRTDataSource><OGRVRTLayer name="{name}"><SrcDataSource>{source}'
        "</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>"
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_virtual_layers_are_refused_whatever_their_name(
    tmp_path: Path, secret: Path, suffix: str
) -> None:
    path = tmp_path / f"labels.{suffix}"
    path.write_text(virtual_layer(str(secret)))
    with pytest.raises(SceneError, match=r"is no GeoPackage, GeoJSON, Shapefile"):
        open_labels([str(path)], 1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_server_is_contacted(
    tmp_path: Path, server: tuple[str, list[str]], suffix: str
) -> None:
    address, requested = server
    contents = [
        virtual_layer(f"/vsicurl/{address}/a.geojson"),
        f"<OGRWFSDataSource><URL>{address}/wfs</URL></OGRWFSDataSource>",
        json.dumps(
            {
                "type": "gdal_streamed_alg",
                "command_line": f"gdal vector read /vsicurl/{address}/a.geojson",
            }
        ),
        json.dumps(
            COLLECTION | {"crs": {"type": "link", "properties": {"href": address}}}
        ),
        json.dumps(
            COLLECTION | {"crs": {"type": "name", "properties": {"name": address}}}
        ),
    ]
    for content in contents:
        path = tmp_path / f"labels.{suffix}"
        path.write_text(content)
        with pytest.raises(SceneError, match=r"labels\."):
            open_labels([str(path)], 1, "kind")
    assert requested == []


def test_words_of_other_formats_in_geojson_are_only_words(tmp_path: Path) -> None:
    """GDAL looks for the words of other formats in the first bytes of a file."""
    words = '<OGRVRTDataSource> esriGeometry "Topology" conformsTo gdal_streamed_alg'
    feature = FEATURE | {"properties": {"kind": words}}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"name": words, **COLLECTION, "features": [feature]}))
    features = read_features(str(path))
    assert features.columns["kind"].tolist() == [words]
    # Of two types GDAL may take the first, Python the last: only one is left.
    path.write_text(
        '{"type": "gdal_streamed_alg", "command_line": "x", '
        + json.dumps(COLLECTION)[1:]
    )
    assert read_features(str(path)).columns["kind"].tolist() == ["oak"]


@pytest.mark.parametrize(
    "table",
    [
        "CREATE VIRTUAL TABLE kinds USING VirtualOGR('{secret}')",
        "CREATE VIRTUAL TABLE kinds USING/**/VirtualShape('{secret}', 'UTF-8', 4326)",
    ],
)
def test_virtual_tables_are_refused(tmp_path: Path, secret: Path, table: str) -> None:
    path = geopackage(tmp_path / "a.gpkg")
    sql = table.format(secret=secret)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute(
            "INSERT INTO sqlite_master VALUES ('table', 'kinds', 'kinds', 0, ?)", (sql,)
        )
        database.commit()
    with pytest.raises(SceneError, match="table 'kinds' is virtual"):
        read_features(str(path))


def geopackage(path: Path, layer: str = "tree crowns") -> Path:
    pyogrio.raw.write(
        path,
        shapely.to_wkb(np.array([shapely.box(0, 0, 1, 1)], dtype=object)),
        [np.array(["oak"], dtype=object)],
        ["kind"],
        crs="EPSG:32633",
        geometry_type="Polygon",
        layer=layer,
        driver={".gpkg": "GPKG", ".fgb": "FlatGeobuf"}.get(path.suffix),
    )
    return path


@pytest.mark.parametrize("name", ["a.gpkg", "a.fgb", "a.shp", "a.geojson"])
def test_the_content_decides_whatever_the_name_says(tmp_path: Path, name: str) -> None:
    path = geopackage(tmp_path / name)
    features = read_features(str(path))
    assert features.columns["kind"].tolist() == ["oak"]
    if name != "a.shp":  # a Shapefile's parts find each other by their name
        other = shutil.copy(path, tmp_path / "renamed.shp")
        assert read_features(str(other)).columns["kind"].tolist() == ["oak"]


def test_a_database_that_is_no_geopackage(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE kinds (name TEXT)")
        database.commit()
    with pytest.raises(SceneError, match="SQLite database, but no GeoPackage"):
        read_features(str(path))


def test_options_of_gdal_are_put_back(tmp_path: Path) -> None:
    before = pyogrio.get_gdal_config_option("CPL_VSIL_CURL_ALLOWED_FILENAME")
    read_features(str(geopackage(tmp_path / "a.gpkg")))
    assert pyogrio.get_gdal_config_option("CPL_VSIL_CURL_ALLOWED_FILENAME") == before


@pytest.mark.parametrize("text", ['{"a":' * 20_000, "[" * 20_000, '{"type": NaN}', "{"])
def test_damaged_geojson(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(SceneError, match=r"a\.geojson is not a readable vector file"):
        read_features(str(path))

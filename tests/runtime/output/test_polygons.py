import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")

from affine import Affine  # noqa: E402

import hsi_runtime.output  # noqa: E402
from hsi_runtime.cli import main  # noqa: E402
from hsi_runtime.errors import OutputError, ResourceError  # noqa: E402
from hsi_runtime.model.model_file import ModelDocument, read_model  # noqa: E402
from hsi_runtime.output import polygons  # noqa: E402
from hsi_runtime.output.layers import Counts  # noqa: E402
from hsi_runtime.pipeline import run  # noqa: E402
from hsi_runtime.request import Request  # noqa: E402
from hsi_runtime.scenes.scene import SceneInfo  # noqa: E402

Write = Callable[..., Any]
CODES = (2, 3, 7)


@pytest.fixture
def mapped(
    tmp_path: Path,
    document: ModelDocument,
    write_all: Callable[..., Counts],
    info_of: Callable[..., SceneInfo],
) -> Callable[..., Counts]:
    """Write a map of blobs with rejected and missing pixels."""

    def write(**georeference: Any) -> Counts:
        random = np.random.default_rng(4)
        rough = random.random((3, 12, 15)).repeat(2, axis=1).repeat(2, axis=2)
        found = (rough / rough.sum(axis=0)).astype(np.float32)
        valid = random.random((24, 30)) > 0.05
        info = info_of(24, 30, **georeference)
        return write_all(
            tmp_path / "o.tif", document, found, valid, ("classes",), info, 0.4
        )

    return write


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    meta, _, geometries, fields = pyogrio.raw.read(path, layer="classes")
    names = [str(name) for name in meta["fields"]]
    rows = [
        {"geometry": shapely.from_wkb(g), **dict(zip(names, values, strict=True))}
        for g, *values in zip(geometries, *fields, strict=True)
    ]
    return meta, rows


@pytest.mark.parametrize(
    ("crs", "transform", "pixel"),
    [
        ("EPSG:32633", Affine(2, 0, 4e5, 0, -2, 58e5), 4.0),
        ("EPSG:32633", Affine(1.5, 0.7, 4e5, 0.7, -1.5, 58e5), 1.5**2 + 0.7**2),
        ("EPSG:32633", Affine(2, 0, 4e5, 0, 2, 58e5), 4.0),
        # International feet: 5 ft a side.
        ("EPSG:2222", Affine(5, 0, 7e5, 0, -5, 1e6), (5 * 0.3048) ** 2),
        # No metres: in pixels.
        ("EPSG:4326", Affine(1e-4, 0, 13.1, 0, -1e-4, 52.5), 1.0),
        (None, None, 1.0),
    ],
)
def test_areas_add_up_to_those_of_the_classes(
    crs: str | None,
    transform: Affine | None,
    pixel: float,
    mapped: Callable[..., Counts],
    document: ModelDocument,
    tmp_path: Path,
) -> None:
    counts = mapped(crs=crs, transform=transform)
    assert counts.unclassified > 0
    assert counts.nodata > 0
    polygons.write_polygons(tmp_path / "o.tif", tmp_path / "o.gpkg", document, 0)
    meta, rows = read(tmp_path / "o.gpkg")
    assert meta["geometry_type"] == "Polygon"
    if crs is not None:
        assert meta["crs"] == crs
    assert {row["code"] for row in rows} == set(CODES)  # neither nodata nor 0
    names = {c.code: c.name for c in document.classes}
    for row in rows:
        assert row["name"] == names[row["code"]]
        assert row["geometry"].is_valid
    for code, pixels in zip(CODES, counts.of_class, strict=True):
        areas = [row["area"] for row in rows if row["code"] == code]
        assert sum(areas) == pytest.approx(pixels * pixel, rel=1e-6)
    together = shapely.union_all([row["geometry"] for row in rows])
    parts = sum(row["geometry"].area for row in rows)
    assert together.area == pytest.approx(parts, rel=1e-6)  # none lies on another


def test_small_polygons_are_dropped(
    mapped: Callable[..., Counts], document: ModelDocument, tmp_path: Path
) -> None:
    mapped()
    polygons.write_polygons(tmp_path / "o.tif", tmp_path / "all.gpkg", document, 0)
    polygons.write_polygons(tmp_path / "o.tif", tmp_path / "o.gpkg", document, 16)
    _, every = read(tmp_path / "all.gpkg")
    _, large = read(tmp_path / "o.gpkg")
    assert 0 < len(large) < len(every)
    assert len(large) == sum(row["area"] >= 16 for row in every)
    polygons.write_polygons(tmp_path / "o.tif", tmp_path / "no.gpkg", document, 1e9)
    assert read(tmp_path / "no.gpkg")[1] == []


@pytest.mark.parametrize("name", ["v.gpkg", "v.GPKG", "a.b.gpkg"])
def test_names_of_geopackages_are_taken(name: str) -> None:
    polygons.check(Path(name), polygons.MAX_PIXELS)


@pytest.mark.parametrize("name", ["v.geojson", "v.shp", "v", "v.gpkg.zip", "."])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(OutputError, match=r"written as a GeoPackage; .* in \.gpkg"):
        polygons.check(Path(name), 1)


@pytest.mark.parametrize("name", ["a!b", "zip+file!x", "a;b", "a?b", "http:x", "a:b"])
def test_folder_is_only_a_folder(
    name: str,
    tmp_path: Path,
    cube: NDArray[Any],
    write_model: Write,
    write_scene_tiff: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    model = read_model(write_model(Path("m.onnx")))
    scene = write_scene_tiff(Path("s.tif"), cube)
    run(Request(scene, Path(name) / "o.tif", vector=Path(name) / "v.gpkg"), model)
    made = {p.name for p in (tmp_path / name).iterdir()}
    assert made == {"o.tif", "o.tif.aux.xml", "o.qml", "v.gpkg"}
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "s.tif", name}


def test_map_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polygons, "MAX_PIXELS", 700)
    with pytest.raises(OutputError, match=r"720 pixels; --vector takes at most 700"):
        polygons.check(Path("v.gpkg"), 720)


def test_map_that_memory_cannot_hold_is_refused_before_it_is_computed() -> None:
    polygons.check(Path("v.gpkg"), 10_000_000, 500_000_000)
    with pytest.raises(ResourceError, match=r"needs 831 MB or more .* 500 MB are allo"):
        polygons.check(Path("v.gpkg"), 100_000_000, 500_000_000)


@pytest.mark.parametrize("change", ["name", "size", "pyogrio", "shapely"])
def test_what_stands_against_polygons_is_told_before_the_engine_starts(
    change: str, place: Any, invoke: Any, digests: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {
        "name": (5, "--vector v.shp: polygons are written as a GeoPackage"),
        "size": (5, "The class map has 6 pixels; --vector takes at most 5."),
        "pyogrio": (4, "the package pyogrio; install it with: pip install 'hsi-edge[v"),
        "shapely": (4, "the package shapely; install it with: pip install 'hsi-edge[v"),
    }[change]
    if change == "size":
        monkeypatch.setattr(polygons, "MAX_PIXELS", 5)
    elif change != "name":
        monkeypatch.setitem(sys.modules, change, None)
        monkeypatch.delattr(hsi_runtime.output, "polygons")
        monkeypatch.delitem(sys.modules, "hsi_runtime.output.polygons")
    monkeypatch.setattr(
        "hsi_runtime.engines.opening.open_backend", lambda *_: pytest.fail("a start")
    )
    vector = "v.shp" if change == "name" else "v.gpkg"
    given = ("scene.tif", "--vector", vector, "--window", "1,1,3,2")
    before = digests(place.folder)
    for more in ((), ("--dry-run",)):
        code, out, err = invoke(main, *given, *more)
        assert (code, out) == (expected[0], "")
        assert expected[1] in err
    assert digests(place.folder) == before


def test_polygons_of_a_run(
    tmp_path: Path, cube: NDArray[Any], write_model: Write, write_scene_tiff: Write
) -> None:
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    model = read_model(write_model(tmp_path / "m.onnx"))
    (tmp_path / "out").mkdir()
    request = Request(scene, tmp_path / "o.tif", vector=tmp_path / "out" / "v.gpkg")
    result = run(request, model)
    assert result["outputs"]["vector"] == str(tmp_path / "out" / "v.gpkg")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["v.gpkg"]
    _, rows = read(tmp_path / "out" / "v.gpkg")
    for entry in result["classes"]:
        areas = [row["area"] for row in rows if row["code"] == entry["code"]]
        assert sum(areas) == pytest.approx(entry["area_m2"])

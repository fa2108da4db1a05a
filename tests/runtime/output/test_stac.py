import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from affine import Affine
from numpy.typing import NDArray

from hsi_runtime.errors import OutputError
from hsi_runtime.model.model_file import ModelDocument, ModelFile, read_model
from hsi_runtime.output import stac
from hsi_runtime.output.names import paths_of
from hsi_runtime.output.stac import classification_classes
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request
from hsi_runtime.scenes.scene import SceneInfo

Write = Callable[..., Path]
TAGS = {
    "TIFFTAG_SOFTWARE": "hsi-edge 1.2.3",
    "HSI_SCENE": "s.tif",
    "HSI_MODEL_SHA256": "ab" * 32,
}
LOCAL = (
    'LOCAL_CS["a field",LOCAL_DATUM["corner post",32767],UNIT["metre",1],'
    'AXIS["X",EAST],AXIS["Y",NORTH]]'
)


def item_of(folder: Path, grid: SceneInfo, document: ModelDocument) -> dict[str, Any]:
    paths = paths_of(folder / "a b_classes.tif")
    made = stac.write_item(folder, paths, ["classes", "stac"], grid, document, TAGS)
    found: dict[str, Any] = json.loads(made.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    ("crs", "transform", "place"),
    [
        # UTM 33 north: 12 to 18 degrees east.
        ("EPSG:32633", Affine(2, 0, 4e5, 0, -2, 58e5), (12, 52, 18, 53)),
        ("EPSG:32633", Affine(1.5, 0.7, 4e5, 0.7, -1.5, 58e5), (12, 52, 18, 53)),
        ("EPSG:32633", Affine(2, 0, 4e5, 0, 2, 58e5), (12, 52, 18, 53)),
        ("EPSG:32733", Affine(2, 0, 5e5, 0, -2, 9e6), (12, -10, 18, -8)),
        ("EPSG:4326", Affine(1e-4, 0, 13.1, 0, -1e-4, 52.5), (13, 52, 14, 53)),
    ],
)
def test_geometry_lies_where_the_crs_is(
    crs: str,
    transform: Affine,
    place: tuple[float, float, float, float],
    tmp_path: Path,
    document: ModelDocument,
    info_of: Callable[..., SceneInfo],
) -> None:
    item = item_of(tmp_path, info_of(40, 30, crs, transform), document)
    west, south, east, north = item["bbox"]
    assert place[0] <= west < east <= place[2]
    assert place[1] <= south < north <= place[3]
    assert item["geometry"]["type"] == "Polygon"
    (ring,) = item["geometry"]["coordinates"]
    assert ring[0] == ring[-1]
    assert {x for x, _ in ring} == {west, east}
    assert {y for _, y in ring} == {south, north}
    # Counter-clockwise, as GeoJSON wants an outer ring.
    pairs = pairwise(ring)
    assert sum(a[0] * b[1] - b[0] * a[1] for a, b in pairs) > 0
    assert item["properties"]["proj:shape"] == [40, 30]


@pytest.mark.parametrize(
    ("crs", "transform"),
    [(None, None), (None, Affine(2, 0, 4e5, 0, -2, 58e5)), ("EPSG:32633", None)],
)
def test_scene_without_a_place_has_no_geometry(
    crs: str | None,
    transform: Affine | None,
    tmp_path: Path,
    document: ModelDocument,
    info_of: Callable[..., SceneInfo],
) -> None:
    item = item_of(tmp_path, info_of(4, 3, crs, transform), document)
    assert item["geometry"] is None
    assert "bbox" not in item


def test_local_coordinates_have_no_place_on_earth(
    tmp_path: Path, document: ModelDocument, info_of: Callable[..., SceneInfo]
) -> None:
    item = item_of(tmp_path, info_of(4, 3, LOCAL), document)
    assert item["geometry"] is None
    assert "bbox" not in item


def test_time_is_that_of_the_build(
    tmp_path: Path,
    document: ModelDocument,
    info_of: Callable[..., SceneInfo],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    for zone in ("UTC", "Pacific/Kiritimati"):
        monkeypatch.setenv("TZ", zone)
        item = item_of(tmp_path, info_of(4, 3), document)
        assert item["properties"]["datetime"] == "2023-11-14T22:13:20Z"
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    item = item_of(tmp_path, info_of(4, 3), document)
    assert item["properties"]["datetime"].startswith("20")
    assert item["properties"]["datetime"].endswith("Z")


@pytest.mark.parametrize("epoch", ["yesterday", "1e9", "9" * 30])
def test_a_time_that_is_none_is_told_before_any_work(
    epoch: str,
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    with pytest.raises(OutputError, match=rf"SOURCE_DATE_EPOCH is '{epoch}'"):
        run(Request(scene, tmp_path / "o.tif", stac=True), model)
    assert {p.name for p in tmp_path.iterdir()} <= {"s.tif", "model.onnx"}


def test_provenance_and_classes(
    tmp_path: Path, document: ModelDocument, info_of: Callable[..., SceneInfo]
) -> None:
    item = item_of(tmp_path, info_of(4, 3), document)
    assert item["properties"]["hsi:model_sha256"] == "ab" * 32
    assert item["properties"]["hsi:scene"] == "s.tif"
    assert item["properties"]["processing:software"] == {"hsi-edge": "1.2.3"}
    found = item["assets"]["classes"]["classification:classes"]
    assert [(c["value"], c["title"], c["color_hint"]) for c in found] == [
        (2, "grass", "00AA00"),
        (3, "wet soil", "804000"),
        (7, "Öl", "0000FF"),
    ]
    assert item["stac_version"] == "1.1.0"
    assert item["type"] == "Feature"
    assert item["links"] == []


@pytest.fixture(scope="module")
def model(write_model: Write, tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    return read_model(write_model(tmp_path_factory.mktemp("model") / "model.onnx"))


def test_assets_are_the_files_of_the_run(
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
    digests: Callable[[Path], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("pyogrio")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        run(
            Request(
                scene, folder / "o.tif", confidence=True, probabilities=True,
                preview=True, stac=True, vector=folder / "o.gpkg",
            ),
            model,
        )  # fmt: skip
        item = json.loads((folder / "o.stac.json").read_text())
        hrefs = {k: v["href"] for k, v in item["assets"].items()}
        assert set(hrefs) == {
            "classes", "confidence", "probabilities", "preview", "vector"
        }  # fmt: skip
        for href in hrefs.values():
            assert (folder / href).is_file()
    first, second = digests(tmp_path / "a"), digests(tmp_path / "b")
    # A GeoPackage says when it was changed; all else repeats to the byte.
    assert {k: v for k, v in first.items() if k != "o.gpkg"} == {
        k: v for k, v in second.items() if k != "o.gpkg"
    }


def test_class_names_keep_to_the_letters_of_the_schema(document: ModelDocument) -> None:
    described = classification_classes(document.classes)
    assert [c["title"] for c in described] == ["grass", "wet soil", "Öl"]
    assert [c["name"] for c in described] == ["grass", "wet-soil", "l"]


def test_map_across_180_degrees_is_a_polygon_on_either_side(
    tmp_path: Path, document: ModelDocument, info_of: Callable[..., SceneInfo]
) -> None:
    grids = [
        # UTM 60 and UTM 1, as far as the other one; degrees that count on.
        ("EPSG:32660", Affine(100, 0, 6.8e5, 0, -100, 58e5)),
        ("EPSG:32601", Affine(100, 0, 2.8e5, 0, -100, 58e5)),
        ("EPSG:4326", Affine(0.01, 0, 179.8, 0, -0.01, 52)),
        ("EPSG:4326", Affine(0.01, 0, -180.2, 0, -0.01, 52)),
    ]
    for crs, transform in grids:
        item = item_of(tmp_path, info_of(40, 400, crs, transform), document)
        west, south, east, north = item["bbox"]
        assert 170 < west <= 180
        assert -180 <= east < -170
        assert 50 < south < north < 53
        assert item["geometry"]["type"] == "MultiPolygon"
        (left,), (right,) = item["geometry"]["coordinates"]
        assert (left[0][0], left[1][0]) == (west, 180)
        assert (right[0][0], right[1][0]) == (-180, east)
        for ring in (left, right):
            signed = sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring))
            assert ring[0] == ring[-1]
            assert signed > 0  # counter-clockwise


MOON = (
    'GEOGCS["Moon 2000",DATUM["D_Moon_2000",SPHEROID["Moon_2000_IAU_IAG",1737400,0]],'
    'PRIMEM["Reference_Meridian",0],UNIT["degree",0.0174532925199433]]'
)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (MOON, Affine(0.01, 0, 10, 0, -0.01, 10)),
        ("EPSG:32633", Affine(2, 0, 1e30, 0, -2, 58e5)),
        ("EPSG:32633", Affine(2, 0, 4e5, 0, -2, float("inf"))),
        ("EPSG:3035", Affine(2, 0, 1e9, 0, -2, 1e9)),
    ],
)
def test_map_without_longitude_and_latitude_has_no_geometry(
    crs: str,
    transform: Affine,
    tmp_path: Path,
    document: ModelDocument,
    info_of: Callable[..., SceneInfo],
) -> None:
    item = item_of(tmp_path, info_of(40, 30, crs, transform), document)
    assert item["geometry"] is None
    assert "bbox" not in item


@pytest.mark.parametrize("start", [-540.0, -360.0, -180.0, 0.0, 180.0, 360.0])
def test_degrees_that_count_on_are_brought_back(
    start: float,
    tmp_path: Path,
    document: ModelDocument,
    info_of: Callable[..., SceneInfo],
) -> None:
    for west in (0.0, 10.0, 170.0):
        transform = Affine(0.25, 0, start + west, 0, -0.25, 5)
        item = item_of(tmp_path, info_of(4, 40, "EPSG:4326", transform), document)
        assert all(-180 <= value <= 180 for value in item["bbox"])
        left, _, right, _ = item["bbox"]
        assert (right - left) % 360 == pytest.approx(10)

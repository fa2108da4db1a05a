import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from rasterio.warp import transform as reproject

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.scene import SceneInfo
from hsi_train.data.vectors import VectorLabels

MakeInfo = Callable[..., SceneInfo]

UTM33 = "EPSG:32633"
WEST, NORTH = 400_000.0, 5_800_000.0
ROWS, COLS = 6, 8


def write(
    path: Path,
    shapes: Sequence[Any],
    crs: str | None = UTM33,
    layer: str | None = None,
    **columns: Any,
) -> str:
    pyogrio.raw.write(
        path,
        shapely.to_wkb(np.array(shapes, dtype=object)),
        [np.asarray(v) for v in columns.values()],
        list(columns),
        crs=crs,
        geometry_type="Unknown",
        layer=layer,
        append=path.exists(),
    )
    return str(path)


def pixels(row: float, col: float, rows: float, cols: float) -> Any:
    """A rectangle in pixels of the scene, as a polygon in its coordinates."""
    return shapely.box(WEST + col, NORTH - row - rows, WEST + col + cols, NORTH - row)


@pytest.fixture
def info(make_info: MakeInfo) -> SceneInfo:
    from rasterio.crs import CRS

    return make_info(
        ROWS,
        COLS,
        3,
        crs=CRS.from_string(UTM33).to_wkt(),
        transform=(WEST, 1.0, 0.0, NORTH, 0.0, -1.0),
    )


def expected(**rectangles: tuple[int, slice, slice]) -> np.ndarray:
    out = np.zeros((ROWS, COLS), dtype=np.int64)
    for code, rows, cols in rectangles.values():
        out[rows, cols] = code
    return out


@pytest.mark.parametrize("name", ["crowns.gpkg", "crowns.geojson", "crowns.shp"])
def test_polygons_take_the_pixels_whose_centre_they_hold(
    tmp_path: Path, info: SceneInfo, name: str
) -> None:
    # The left edge runs just left of the centres of column 2, the right edge just left
    # of those of column 5: columns 2, 3, 4.
    polygon = pixels(0.4, 2.4, 2.2, 3.0)
    path = write(tmp_path / name, [polygon], genus=np.array(["Acer"], dtype=object))
    labels = VectorLabels(path, "genus")
    np.testing.assert_array_equal(
        labels.codes(0, info), expected(a=(1, slice(0, 3), slice(2, 5)))
    )
    assert labels.class_table().names == {1: "Acer"}
    assert labels.warnings() == []


def test_polygon_between_centres_labels_nothing(
    tmp_path: Path, info: SceneInfo
) -> None:
    path = write(tmp_path / "a.gpkg", [pixels(1.6, 1.6, 0.8, 0.8)], code=[3])
    assert not VectorLabels(path, None).codes(0, info).any()


def test_points_label_the_pixel_they_are_in(tmp_path: Path, info: SceneInfo) -> None:
    points = [
        shapely.Point(WEST + 0.1, NORTH - 0.1),
        shapely.Point(WEST + 7.9, NORTH - 5.9),
        shapely.MultiPoint([(WEST + 3.5, NORTH - 2.5), (WEST + 4.5, NORTH - 2.5)]),
    ]
    path = write(tmp_path / "a.gpkg", points, code=[1, 2, 5])
    found = VectorLabels(path, "code").codes(0, info)
    assert found[0, 0] == 1
    assert found[5, 7] == 2
    assert found[2, 3] == found[2, 4] == 5
    assert np.count_nonzero(found) == 4


def test_holes_and_multipolygons(tmp_path: Path, info: SceneInfo) -> None:
    ring = pixels(0, 0, 5, 5).difference(pixels(1, 1, 3, 3))
    both = shapely.MultiPolygon([ring, pixels(0, 6, 1, 2)])
    path = write(tmp_path / "a.gpkg", [both], code=[4])
    want = expected(
        a=(4, slice(0, 5), slice(0, 5)),
        b=(0, slice(1, 4), slice(1, 4)),
        c=(4, slice(0, 1), slice(6, 8)),
    )
    np.testing.assert_array_equal(VectorLabels(path, "code").codes(0, info), want)


def test_other_coordinate_system_is_projected(tmp_path: Path, info: SceneInfo) -> None:
    here = pixels(1, 2, 3, 4)
    x, y = shapely.get_coordinates(here).T
    lon, lat = reproject(UTM33, "EPSG:4326", x, y)
    path = write(
        tmp_path / "a.geojson", [shapely.Polygon(zip(lon, lat, strict=True))],
        crs="EPSG:4326", code=[7],
    )  # fmt: skip
    np.testing.assert_array_equal(
        VectorLabels(path, "code").codes(0, info),
        expected(a=(7, slice(1, 4), slice(2, 6))),
    )


def test_rotated_grid(tmp_path: Path, make_info: MakeInfo, info: SceneInfo) -> None:
    turned = make_info(
        ROWS, COLS, 3, crs=info.crs, transform=(WEST, 0.0, 1.0, NORTH, -1.0, 0.0)
    )
    # Columns run south, rows run east.
    path = write(tmp_path / "a.gpkg", [pixels(1, 2, 3, 2)], code=[1])
    np.testing.assert_array_equal(
        VectorLabels(path, "code").codes(0, turned),
        expected(a=(1, slice(2, 4), slice(1, 4))),
    )


def test_features_outside_every_scene_are_reported(
    tmp_path: Path, info: SceneInfo, make_info: MakeInfo
) -> None:
    other = make_info(
        ROWS, COLS, 3, crs=info.crs, transform=(WEST + 100, 1.0, 0.0, NORTH, 0.0, -1.0)
    )
    shapes = [pixels(0, 0, 2, 2), pixels(0, 101, 2, 2), pixels(500, 0, 2, 2)]
    labels = VectorLabels(write(tmp_path / "a.gpkg", shapes, code=[1, 2, 3]), "code")
    assert set(np.unique(labels.codes(0, info))) == {0, 1}
    assert "2 of 3 features" in labels.warnings()[0]
    assert set(np.unique(labels.codes(1, other))) == {0, 2}
    (said,) = labels.warnings()
    assert "1 of 3 features" in said
    assert "outside every scene" in said


@pytest.mark.parametrize("order", [(1, 2), (2, 1), (1, 2, 1), (2, 1, 1), (2, 2, 1, 2)])
def test_pixels_of_two_classes_are_dropped_and_counted(
    tmp_path: Path, info: SceneInfo, order: tuple[int, ...]
) -> None:
    place = {1: pixels(0, 0, 4, 4), 2: pixels(2, 2, 4, 4)}
    path = write(tmp_path / "a.gpkg", [place[c] for c in order], code=list(order))
    labels = VectorLabels(path, "code")
    want = expected(
        a=(1, slice(0, 4), slice(0, 4)),
        b=(2, slice(2, 6), slice(2, 6)),
        both=(0, slice(2, 4), slice(2, 4)),
    )
    np.testing.assert_array_equal(labels.codes(0, info), want)
    assert labels.warnings() == ["4 pixels are claimed by two classes and not used."]


def test_class_zero_claims_nothing(tmp_path: Path, info: SceneInfo) -> None:
    shapes = [pixels(0, 0, 4, 4), pixels(0, 0, 6, 8)]
    labels = VectorLabels(write(tmp_path / "a.gpkg", shapes, code=[5, 0]), "code")
    np.testing.assert_array_equal(
        labels.codes(0, info), expected(a=(5, slice(0, 4), slice(0, 4)))
    )
    assert labels.warnings() == ["1 features have no class and are not used."]


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        (np.array([11, 3], dtype=np.int32), (11, 3)),
        (np.array([11, 3], dtype=np.int64), (11, 3)),
        (np.array([11.0, np.nan]), (11, 0)),
        (np.array(["oak", "ash"], dtype=object), (2, 1)),
        (np.array([" oak ", None], dtype=object), (1, 0)),
        (np.array(["10 m", "9 m"], dtype=object), (1, 2)),
    ],
)
def test_fields_of_each_type(
    tmp_path: Path, info: SceneInfo, values: Any, codes: tuple[int, int]
) -> None:
    shapes = [pixels(0, 0, 2, 2), pixels(3, 3, 2, 2)]
    labels = VectorLabels(write(tmp_path / "a.gpkg", shapes, kind=values), "kind")
    found = labels.codes(0, info)
    assert (found[0, 0], found[3, 3]) == codes
    for code, value in zip(codes, values, strict=True):
        if values.dtype == object and code:
            assert labels.class_table().names[code] == value.strip()
    empty = sum(code == 0 for code in codes)
    assert len(labels.warnings()) == (1 if empty else 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([1.5, 2.0]), "kind holds decimal numbers"),
        (np.array([-1, 2]), "kind runs from -1 to 2.* to 65534"),
        (np.array([1e30, 2]), "kind runs from 2 to .* to 65534"),
        (np.array([70_000, 2]), "kind runs from 2 to 70000.* to 65534"),
    ],
)
def test_values_that_are_no_class(tmp_path: Path, values: Any, message: str) -> None:
    shapes = [pixels(0, 0, 2, 2), pixels(3, 3, 2, 2)]
    path = write(tmp_path / "a.gpkg", shapes, kind=values)
    with pytest.raises(SceneError, match=message):
        VectorLabels(path, "kind")


def test_the_only_field_needs_no_name(tmp_path: Path, info: SceneInfo) -> None:
    path = write(tmp_path / "a.gpkg", [pixels(0, 0, 2, 2)], kind=[9])
    assert VectorLabels(path, None).codes(0, info).max() == 9


@pytest.mark.parametrize("field", [None, "species"])
def test_missing_field_lists_those_there_are(tmp_path: Path, field: str | None) -> None:
    path = write(tmp_path / "a.gpkg", [pixels(0, 0, 2, 2)], taxon=[1], genus=[2])
    with pytest.raises(SceneError, match=r"--label-field.*Fields: taxon, genus"):
        VectorLabels(path, field)


@pytest.mark.filterwarnings("ignore:'crs' was not provided:UserWarning")
def test_no_coordinate_system_is_no_guess(
    tmp_path: Path, info: SceneInfo, make_info: MakeInfo
) -> None:
    path = write(tmp_path / "bare.shp", [pixels(0, 0, 2, 2)], crs=None, code=[1])
    with pytest.raises(SceneError, match=r"bare\.shp has no\s+coordinate"):
        VectorLabels(path, "code").codes(0, info)
    path = write(tmp_path / "a.gpkg", [pixels(0, 0, 2, 2)], code=[1])
    bare = make_info(ROWS, COLS, 3, transform=info.transform)
    with pytest.raises(SceneError, match=r"memory\.tif has no\s+coordinate"):
        VectorLabels(path, "code").codes(0, bare)
    plain = make_info(ROWS, COLS, 3)
    with pytest.raises(SceneError, match=r"memory\.tif has no georeference"):
        VectorLabels(path, "code").codes(0, plain)


@pytest.mark.parametrize(
    "shape",
    [
        shapely.LineString([(WEST, NORTH), (WEST + 3, NORTH - 3)]),
        shapely.MultiLineString([[(WEST, NORTH), (WEST + 3, NORTH - 3)]]),
    ],
)
def test_lines_are_refused(tmp_path: Path, shape: Any) -> None:
    path = write(tmp_path / "a.gpkg", [pixels(0, 0, 2, 2), shape], code=[1, 2])
    with pytest.raises(SceneError, match="holds lines; labels are polygons or points"):
        VectorLabels(path, "code")


def test_file_without_features(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gpkg", [], code=np.array([], dtype=np.int32))
    with pytest.raises(SceneError, match="has no feature"):
        VectorLabels(path, "code")


def test_features_without_geometry_count_as_outside(
    tmp_path: Path, info: SceneInfo
) -> None:
    shapes = [pixels(0, 0, 2, 2), None, shapely.Polygon()]
    labels = VectorLabels(write(tmp_path / "a.gpkg", shapes, code=[1, 2, 3]), "code")
    assert set(np.unique(labels.codes(0, info))) == {0, 1}
    assert "2 of 3 features" in labels.warnings()[0]


def test_table_without_geometry_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.geojson"
    path.write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(SceneError, match=r"table\.geojson"):
        VectorLabels(str(path), None)
    table = tmp_path / "table.gpkg"
    pyogrio.raw.write(
        table, None, [np.array([1])], ["code"],
        layer="codes", geometry_type=None, crs=None,
    )  # fmt: skip
    with pytest.raises(SceneError, match=r"table\.gpkg has 0 layers with geometry"):
        VectorLabels(str(table), None)
    plain = tmp_path / "classes.json"
    plain.write_text('{"1": "roof"}')
    with pytest.raises(SceneError, match=r"classes\.json"):
        VectorLabels(str(plain), None)


def test_two_forms_of_unicode_are_one_class(tmp_path: Path, info: SceneInfo) -> None:
    texts = np.array(["\u00d6l", "O\u0308l", "soil"], dtype=object)
    boxes = [pixels(0, 2 * k, 2, 2) for k in range(3)]
    path = write(tmp_path / "a.gpkg", boxes, cover=texts)
    labels = VectorLabels(path, "cover")
    assert labels.class_table().names == {1: "soil", 2: "\u00d6l"}
    assert labels.codes(0, info)[0, ::2].tolist() == [2, 2, 1, 0]
    named = VectorLabels(path, "cover", {4: "\u00d6l", 5: "soil"})
    assert named.codes(0, info)[0, ::2].tolist() == [4, 4, 5, 0]


def test_class_file_gives_texts_their_codes(tmp_path: Path, info: SceneInfo) -> None:
    texts = np.array(["tree", "roof", "soil", "water"], dtype=object)
    boxes = [pixels(0, 2 * k, 2, 2) for k in range(4)]
    path = write(tmp_path / "a.gpkg", boxes, cover=texts)
    labels = VectorLabels(path, "cover", {1: "roof", 4: "tree", 6: "water"})
    codes = labels.codes(0, info)
    assert codes[0, ::2].tolist() == [4, 1, 7, 6]
    assert labels.class_table().names == {1: "roof", 4: "tree", 6: "water", 7: "soil"}
    assert labels.warnings() == [
        "Classes that the class file does not name get codes of their own: soil (7)."
    ]
    for code in (-1, 70_000):
        with pytest.raises(SceneError, match=rf"{code:d}.*go from 0 \(unlabelled\)"):
            VectorLabels(path, "cover", {code: "roof"})


@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a.shp"])
def test_damaged_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"this is no vector file")
    with pytest.raises(SceneError, match=rf"{name} is not a readable vector file"):
        VectorLabels(str(tmp_path / name), "code")


def test_tables_beside_the_one_layer_with_geometry_do_not_matter(
    tmp_path: Path, info: SceneInfo
) -> None:
    path = tmp_path / "a.gpkg"
    write(path, [pixels(0, 0, 2, 2)], layer="crowns", code=[6])
    pyogrio.raw.write(  # as QGIS adds its styles
        path, None, [np.array(["style"], dtype=object)], ["styleQML"],
        layer="layer_styles", append=True, geometry_type=None, crs=None,
    )  # fmt: skip
    assert VectorLabels(str(path), "code").codes(0, info).max() == 6


def test_several_layers_with_geometry_are_no_guess(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    write(path, [pixels(0, 0, 2, 2)], layer="crowns", code=[6])
    write(path, [pixels(0, 0, 2, 2)], layer="plots", code=[6])
    with pytest.raises(SceneError, match=r"2 layers.*crowns, plots"):
        VectorLabels(str(path), "code")


def test_features_far_from_the_zone_of_the_scene(
    tmp_path: Path, info: SceneInfo
) -> None:
    shapes = [shapely.box(-170, -89, -160, -85), shapely.box(100, 89, 101, 90)]
    path = write(tmp_path / "a.geojson", shapes, crs="EPSG:4326", code=[1, 2])
    labels = VectorLabels(path, "code")
    assert not labels.codes(0, info).any()
    assert "2 of 2 features" in labels.warnings()[0]


def test_polygons_without_a_pixel_centre_are_named_and_counted(
    tmp_path: Path, info: SceneInfo
) -> None:
    small = [pixels(1.6, 1.6, 0.8, 0.8), pixels(3.6, 3.6, 0.8, 0.8)]
    hidden = [pixels(0.4, 0.4, 0.3, 0.3), pixels(0.4, 0.4, 0.3, 0.3)]
    shapes = [*small, pixels(0, 0, 1, 1), *hidden]
    kinds = np.array(["ash", "ash", "oak", "oak", "oak"], dtype=object)
    labels = VectorLabels(write(tmp_path / "a.gpkg", shapes, kind=kinds), "kind")
    assert set(np.unique(labels.codes(0, info))) == {0, 2}
    (message,) = labels.warnings()
    assert "2 features" in message
    assert "hold no pixel centre and label nothing: ash (2)" in message


def test_numbers_in_text_keep_their_value(tmp_path: Path, info: SceneInfo) -> None:
    shapes = [pixels(0, 0, 2, 2), pixels(3, 3, 2, 2), pixels(0, 5, 1, 1)]
    kinds = np.array(["10", " 2 ", None], dtype=object)
    path = write(tmp_path / "a.gpkg", shapes, kind=kinds)
    labels = VectorLabels(path, "kind", {10: "oak"})
    codes = labels.codes(0, info)
    assert (codes[0, 0], codes[3, 3], codes[0, 5]) == (10, 2, 0)
    assert labels.class_table().names == {}
    # A class file that names such texts decides.
    labels = VectorLabels(path, "kind", {3: "10"})
    assert labels.codes(0, info)[0, 0] == 3


def test_collections_of_polygons_and_points(tmp_path: Path, info: SceneInfo) -> None:
    both = shapely.GeometryCollection([pixels(0, 0, 2, 2), pixels(4, 4, 1, 1)])
    nested = shapely.GeometryCollection([both, pixels(3, 6, 1, 1).centroid])
    path = write(tmp_path / "a.gpkg", [nested], code=[4])
    want = expected(
        a=(4, slice(0, 2), slice(0, 2)),
        b=(4, slice(4, 5), slice(4, 5)),
        c=(4, slice(3, 4), slice(6, 7)),
    )
    np.testing.assert_array_equal(VectorLabels(path, "code").codes(0, info), want)
    line = shapely.LineString([(WEST, NORTH), (WEST + 3, NORTH - 3)])
    mixed = shapely.GeometryCollection([nested, shapely.GeometryCollection([line])])
    path = write(tmp_path / "b.gpkg", [mixed], code=[4])
    with pytest.raises(SceneError, match="holds lines"):
        VectorLabels(path, "code")


def geojson(path: Path, shapes: Sequence[Any]) -> str:
    features = [
        {
            "type": "Feature",
            "properties": {"code": number},
            "geometry": shapely.geometry.mapping(shape),
        }
        for number, shape in enumerate(shapes, start=1)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return str(path)


def test_one_feature_beyond_the_projection_lies_outside(
    tmp_path: Path, info: SceneInfo
) -> None:
    x, y = shapely.get_coordinates(pixels(1, 2, 3, 4)).T
    lon, lat = reproject(UTM33, "EPSG:4326", x, y)
    here = shapely.Polygon(zip(lon, lat, strict=True))
    far = shapely.box(400_000, 5_800_000, 400_010, 5_800_010)
    labels = VectorLabels(geojson(tmp_path / "a.geojson", [here, far]), "code")
    np.testing.assert_array_equal(
        labels.codes(0, info), expected(a=(1, slice(1, 4), slice(2, 6)))
    )
    assert "1 of 2 features" in labels.warnings()[0]


def test_geojson_in_metres_is_called_so(tmp_path: Path, info: SceneInfo) -> None:
    path = geojson(tmp_path / "a.geojson", [pixels(1, 2, 3, 4), pixels(0, 0, 1, 1)])
    with pytest.raises(SceneError, match="coordinates are not degrees"):
        VectorLabels(path, "code").codes(0, info)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_coordinates_that_are_no_numbers_lie_outside(
    tmp_path: Path, info: SceneInfo, value: float
) -> None:
    wild = shapely.Polygon([(WEST, NORTH), (value, NORTH), (WEST, NORTH - 5)])
    path = write(tmp_path / "a.gpkg", [pixels(0, 0, 2, 2), wild], code=[1, 2])
    labels = VectorLabels(path, "code")
    assert set(np.unique(labels.codes(0, info))) == {0, 1}


def test_a_ring_of_no_number_lies_outside(tmp_path: Path, info: SceneInfo) -> None:
    ring = struct.pack("<BIII8d", 1, 3, 1, 4, 0, 0, np.nan, 1, 2, 2, 0, 0)
    path = write(tmp_path / "a.gpkg", [pixels(0, 0, 2, 2)], code=[1])
    pyogrio.raw.write(
        path,
        np.array([ring], dtype=object),
        [np.array([2])],
        ["code"],
        crs=UTM33,
        geometry_type="Unknown",
        append=True,
    )
    labels = VectorLabels(path, "code")
    assert set(np.unique(labels.codes(0, info))) == {0, 1}

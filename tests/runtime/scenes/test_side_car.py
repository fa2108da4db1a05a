"""What lies beside a scene: GDAL's side-car and world files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pytest
import rasterio
from envi_files import write as write_envi
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.scene import SceneInfo, valid_pixels
from hsi_runtime.scenes.side_car import MOST_BYTES, side_car_of

WriteTiff = Callable[..., Path]
UTM = CRS.from_epsg(32633)
PLACE = (400_000.0, 2.0, 0.0, 5_800_000.0, 0.0, -2.0)
STATISTICS = "".join(
    f'<MDI key="STATISTICS_{key}">1.5</MDI>' for key in ("MAXIMUM", "MEAN", "STDDEV")
)


@pytest.fixture
def tiff(tmp_path: Path, write_scene_tiff: WriteTiff) -> Path:
    """Write a scene that says nothing; one pixel of its second band is 7."""
    cube = np.ones((4, 5, 6), np.uint16)
    cube[1, 2, 3] = 7
    path = tmp_path / "s.tif"
    return write_scene_tiff(path, cube, None, None, crs=None, transform=None)


def info_of(path: Path) -> SceneInfo:
    scene = open_scene(path)
    scene.close()
    return scene.info


def beside(path: Path, inside: str) -> Path:
    side_car = path.with_name(path.name + ".aux.xml")
    side_car.write_text(f"<PAMDataset>{inside}</PAMDataset>", encoding="utf-8")
    return side_car


def bands(inside: str, count: int = 4) -> str:
    return "".join(
        f'<PAMRasterBand band="{band}">{inside}</PAMRasterBand>'
        for band in range(1, count + 1)
    )


def test_what_gdal_writes_beside_a_file_is_read(
    tiff: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    full = write_scene_tiff(tiff.with_name("full.tif"), cube, nodata=7, scale=0.5)
    expected = info_of(full)
    # A PNG holds none of it, so that all goes into the side-car.
    rasterio.shutil.copy(full, tiff.with_suffix(".png"), driver="PNG")
    written = tiff.with_name("s.png.aux.xml")
    assert "<Scale>" in written.read_text()
    written.rename(tiff.with_name("s.tif.aux.xml"))
    info = info_of(tiff)
    for name in ("nodata", "scale", "offset", "wavelengths_nm"):
        np.testing.assert_array_equal(getattr(info, name), getattr(expected, name))
    assert (info.crs, info.transform) == (expected.crs, expected.transform)


@pytest.mark.parametrize("kind", ["GTiff", "ENVI"])
def test_everything_that_a_scene_does_not_say(
    kind: str, tiff: Path, tmp_path: Path
) -> None:
    count = 4 if kind == "GTiff" else 3
    path = tiff if kind == "GTiff" else write_envi(tmp_path)
    tags = '<MDI key="wavelength">{}</MDI><MDI key="wavelength_units">nm</MDI>'
    inside = "".join(
        f'<PAMRasterBand band="{band}"><NoDataValue>7</NoDataValue><Scale>0.5</Scale>'
        f"<Offset>1</Offset><Metadata>{tags.format(400 + band)}"
        f'<MDI key="bbl">{int(band != 2)}</MDI></Metadata></PAMRasterBand>'
        for band in range(1, count + 1)
    )
    place = ", ".join(map(repr, PLACE))
    side_car = beside(
        path,
        f'<SRS dataAxisToSRSAxisMapping="1,2">{escape(UTM.to_wkt())}</SRS>'
        f"<GeoTransform> {place}</GeoTransform>{inside}",
    )
    info = info_of(path)
    assert info.driver == kind
    assert info.nodata.tolist() == [7] * count
    assert info.scale is not None
    assert info.scale.tolist() == [0.5] * count
    assert info.offset is not None
    assert info.offset.tolist() == [1] * count
    assert info.crs is not None
    assert CRS.from_wkt(info.crs) == UTM
    assert info.transform == PLACE
    assert info.resolution_m == 2
    assert info.wavelengths_nm is not None
    assert info.wavelengths_nm.tolist() == [400 + b for b in range(1, count + 1)]
    assert info.good.tolist() == [band != 1 for band in range(count)]
    assert side_car in info.files
    (note,) = [note for note in info.notes if "taken from" in note]
    for name in ("nodata", "scale and offset", "coordinate system", "geotransform"):
        assert name in note


def test_nodata_beside_a_scene_is_no_class(tiff: Path) -> None:
    beside(tiff, bands("<NoDataValue>7.00000000000000E+00</NoDataValue>"))
    scene = open_scene(tiff)
    cube = scene.read((0, 5), (0, 6), np.arange(4))
    valid = valid_pixels(cube, scene.info.nodata)
    scene.close()
    assert np.argwhere(~valid).tolist() == [[2, 3]]


def test_control_points_beside_a_scene(tiff: Path) -> None:
    points = "".join(
        f'<GCP Id="{n}" Pixel="{col}" Line="{row}" X="13.{n}" Y="52.{n}" Z="3"/>'
        for n, (row, col) in enumerate(((0, 0), (0, 6), (5, 0)))
    )
    wkt = escape(CRS.from_epsg(4326).to_wkt(), {'"': "&quot;"})
    beside(tiff, f'<GCPList Projection="{wkt}">{points}</GCPList>')
    info = info_of(tiff)
    assert info.control is not None
    assert info.control.points[1] == (0, 6, 13.1, 52.1, 3)


def test_what_the_file_itself_says_comes_first(
    tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", cube, nodata=0)
    plain = info_of(path)
    inside = "<NoDataValue>7</NoDataValue><Scale>0.5</Scale><Offset>1</Offset>"
    beside(
        path,
        "<SRS>EPSG:4326</SRS><GeoTransform>0, 1, 0, 0, 0, 1</GeoTransform>"
        + bands(inside),
    )
    info = info_of(path)
    assert info.nodata.tolist() == plain.nodata.tolist()
    assert info.scale is not None
    assert plain.scale is not None
    assert info.scale.tolist() == plain.scale.tolist()
    assert (info.crs, info.transform) == (plain.crs, plain.transform)
    assert info.files == (path,)
    (note,) = info.notes
    assert note.startswith("s.tif and s.tif.aux.xml differ in ")
    for name in ("nodata", "scale and offset", "coordinate system", "geotransform"):
        assert name in note


def test_statistics_alone_are_harmless(tiff: Path) -> None:
    plain = info_of(tiff)
    beside(
        tiff,
        bands(
            "<Histograms><HistItem><HistCounts>1|2</HistCounts></HistItem></Histograms>"
            f"<Metadata>{STATISTICS}</Metadata>"
        )
        + '<Metadata domain="Esri"><MDI key="PyramidResamplingType">NEAREST</MDI>'
        "</Metadata>",
    )
    info = info_of(tiff)
    assert info.files == plain.files == (tiff,)
    assert info.notes == plain.notes
    np.testing.assert_array_equal(info.nodata, plain.nodata)


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    '<PAMDataset><PAMRasterBand band="1"><NoDataValue>&b;</NoDataValue>'
    "</PAMRasterBand></PAMDataset>"
)
FOREIGN = (
    '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>'
    "<PAMDataset><SRS>&f;</SRS></PAMDataset>"
)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (BOMB, "document type"),
        (FOREIGN, "document type"),
        ("<!DOCTYPE PAMDataset SYSTEM 'http://127.0.0.1/x.dtd'><PAMDataset/>", "docum"),
        ("<PAMDataset>&x;</PAMDataset>", "undefined entity"),
        ("<PAMDataset>", "no element found"),
        ("", "no element found"),
        ("<VRTDataset/>", "not PAMDataset"),
        ("<PAMDataset><PAMRasterBand/></PAMDataset>", "'band'"),
        ('<PAMDataset><PAMRasterBand band="0"/></PAMDataset>', "count from 1"),
        (f"<PAMDataset>{bands('<NoDataValue>x</NoDataValue>')}</PAMDataset>", "float"),
        ("<PAMDataset><GeoTransform>1, 2</GeoTransform></PAMDataset>", "six numbers"),
        ("<PAMDataset>" + "<a>" * 40 + "</a>" * 40 + "</PAMDataset>", "too many"),
        ("<PAMDataset>" + "<a/>" * 600_000 + "</PAMDataset>", "too many"),
        ("x" * (MOST_BYTES + 1), "bytes; at most"),
        ('<?xml version="1.0" encoding="foo"?><PAMDataset/>', "encoding"),
    ],
)
def test_side_car_that_cannot_be_read_is_refused(
    content: str, match: str, tiff: Path
) -> None:
    tiff.with_name("s.tif.aux.xml").write_text(content)
    with pytest.raises(SceneError, match=rf"s\.tif\.aux\.xml .*{match}"):
        open_scene(tiff)


def test_pipe_or_folder_is_no_side_car(tiff: Path) -> None:
    import os

    side_car = tiff.with_name("s.tif.aux.xml")
    os.mkfifo(side_car)
    with pytest.raises(SceneError, match="not a regular file"):
        open_scene(tiff)
    side_car.unlink()
    side_car.mkdir()
    with pytest.raises(SceneError, match="folder"):
        open_scene(tiff)


def test_other_coordinate_systems_are_said(tiff: Path) -> None:
    beside(tiff, "<SRS>/etc/passwd</SRS><GeodataXform/>")
    info = info_of(tiff)
    assert info.crs is None
    assert any("its coordinate system cannot be read" in note for note in info.notes)
    assert any("a transformation of ArcGIS" in note for note in info.notes)


ELEMENTS = st.sampled_from(
    [
        *("PAMDataset", "PAMRasterBand", "NoDataValue", "Scale", "Offset", "MDI"),
        *("Description", "Metadata", "SRS", "GeoTransform", "GCPList", "GCP"),
    ]
)
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["1", "-9999", "nan", "0, 1, 0, 0, 0, 1", "1e999", "EPSG:4326"]),
)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["band", "key", "domain", "Pixel", "Line", "X", "Y", "Projection"]),
    TEXTS,
    max_size=5,
)


@st.composite
def documents(draw: st.DrawFn, depth: int = 0) -> str:
    name = "PAMDataset" if depth == 0 else draw(ELEMENTS)
    given = "".join(
        f' {key}="{escape(value, {chr(34): "&quot;"})}"'
        for key, value in draw(ATTRIBUTES).items()
    )
    inner = draw(st.lists(documents(depth + 1), max_size=3)) if depth < 4 else []
    return f"<{name}{given}>{escape(draw(TEXTS))}{''.join(inner)}</{name}>"


def read_or_refuse(folder: Path, content: bytes) -> None:
    (folder / "f.tif.aux.xml").write_bytes(content)
    try:
        said = side_car_of(folder / "f.tif")
    except SceneError:
        return
    for values in (said.nodata, said.scale, said.offset):
        assert all(band >= 0 and isinstance(v, float) for band, v in values.items())
    said.places(3)
    said.good(3)


FUZZED = st.one_of(
    st.binary(max_size=300),
    documents().map(lambda text: text.encode("utf-8", "replace")),
    documents().map(lambda text: text.encode("utf-16", "replace")),
)


@settings(max_examples=150)
@given(FUZZED)
@example(b"<PAMDataset><PAMRasterBand band='1'><Scale>\xff</Scale></PAMRasterBand>")
def test_any_side_car_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    read_or_refuse(tmp_path_factory.getbasetemp(), content)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@settings(max_examples=200_000)
@given(FUZZED)
def test_many_side_cars_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    read_or_refuse(tmp_path_factory.getbasetemp(), content)


@pytest.mark.parametrize("name", ["s.tfw", "s.TFW", "s.tifw", "s.wld"])
def test_world_file_places_a_scene_that_has_no_place(name: str, tiff: Path) -> None:
    world = tiff.with_name(name)
    world.write_text("2,0\n0.5\n0.25\n-2\n400001\n5799999\n")
    info = info_of(tiff)
    assert info.transform is not None
    if name == "s.tfw":  # GDAL looks for this one
        with rasterio.open(tiff) as file:
            gdal = file.transform.to_gdal()
        np.testing.assert_allclose(np.array(info.transform), gdal)
    placed = rasterio.Affine.from_gdal(*info.transform) * (0.5, 0.5)
    np.testing.assert_allclose(placed, (400_001, 5_799_999))
    assert f"its place is taken from {name}" in info.notes[0]
    assert info.files == (tiff, world)


def test_world_file_of_an_envi_scene(tmp_path: Path) -> None:
    data = write_envi(tmp_path)
    (tmp_path / "scene.igw").write_text("2\n0\n0\n-2\n400001\n5799999\n")
    assert info_of(data).transform == PLACE


@pytest.mark.parametrize(
    "text", ["", "1 2 3", "a b c d e f", "0 0 0 0 1 1", "1 " * 9999]
)
def test_world_file_that_is_none_is_said(text: str, tiff: Path) -> None:
    tiff.with_name("s.tfw").write_text(text)
    info = info_of(tiff)
    assert info.transform is None
    assert "s.tfw" in info.notes[0]


def test_world_file_beside_a_scene_with_a_place_is_not_read(
    tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", cube)
    path.with_suffix(".tfw").write_text("9\n0\n0\n9\n0\n0\n")
    info = info_of(path)
    assert info.transform == PLACE
    assert info.notes == ()


@pytest.mark.parametrize(
    "text",
    [
        "<PAMRasterBand band='1'><NoDataValueAsInt64>7</NoDataValueAsInt64>"
        "</PAMRasterBand>",
        "<Metadata><MDI key='NODATA_VALUES'>7</MDI></Metadata>",
    ],
)
@pytest.mark.parametrize("end", [".aux.xml", ".AUX.XML"])
def test_nodata_in_any_of_gdal_s_spellings(text: str, end: str, tiff: Path) -> None:
    place = tiff.with_name(tiff.name + end)
    place.write_text(f"<PAMDataset>{text}</PAMDataset>")
    assert info_of(tiff).nodata[0] == 7
    assert place in info_of(tiff).files


def test_alpha_band_that_a_side_car_names(
    tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", cube, wavelengths=None)
    path.with_name("s.tif.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='4'><ColorInterp>Alpha</ColorInterp>"
        "</PAMRasterBand></PAMDataset>"
    )
    info = info_of(path)
    assert info.bands == 3
    assert "band 4 is alpha" in info.notes[0]


@pytest.mark.parametrize(
    ("ending", "message"),
    [(".aux.xml", "cannot be read: No such file"), (".msk", "mask in another file")],
)
def test_link_to_a_file_that_was_not_fetched_is_not_passed_over(
    ending: str, message: str, tiff: Path
) -> None:
    """As git-annex leaves them; the file may declare nodata."""
    Path(f"{tiff}{ending}").symlink_to("annex/objects/missing")
    with pytest.raises(SceneError, match=message):
        info_of(tiff)

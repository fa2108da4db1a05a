"""Every parser of ours, on hostile variants of good files: read, or refused in words.

A short run of each is part of the tests; ``make soak`` gives each ten minutes.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import fuzzing
import numpy as np
import pytest
from envi_files import header_text
from fuzzing import bounded, drafts, fuzz

from hsi_runtime import batch
from hsi_runtime.errors import ModelFileError, RecipeError, SceneError
from hsi_runtime.model import graph_check, model_file
from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.scenes.opening import open_scene

SECONDS = 600.0  # a parser, under ``make soak``

SIDE_CAR = b"""<PAMDataset>
  <SRS dataAxisToSRSAxisMapping="1,2">EPSG:32633</SRS>
  <GeoTransform> 4.0e+05, 2.0, 0.0, 5.8e+06, 0.0, -2.0</GeoTransform>
  <GCPList Projection="EPSG:4326"><GCP Id="1" Pixel="1" Line="2" X="3" Y="4"/></GCPList>
  <Metadata domain="ENVI"><MDI key="wavelength">{450, 550, 650}</MDI></Metadata>
  <PAMRasterBand band="1">
    <NoDataValue>-9.999E+03</NoDataValue><Scale>1e-4</Scale><Offset>0</Offset>
    <Description>red 650 nm</Description>
    <CategoryNames><Category>none</Category><Category>roof</Category></CategoryNames>
    <ColorTable><Entry c1="1" c2="2" c3="3" c4="255"/></ColorTable>
    <Metadata><MDI key="wavelength">450</MDI><MDI key="CLASS_NAMES">{"1": "a"}</MDI>
    </Metadata>
    <GDALRasterAttributeTable Row0Min="0" BinSize="1">
      <FieldDefn index="0"><Name>Value</Name><Type>0</Type><Usage>5</Usage></FieldDefn>
      <FieldDefn index="1"><Name>Class</Name><Type>2</Type><Usage>2</Usage></FieldDefn>
      <Row index="0"><F>1</F><F>roof</F></Row>
    </GDALRasterAttributeTable>
  </PAMRasterBand>
</PAMDataset>
"""
RECIPE = b"""method = "mf2cnet"
seed = 3
[data]
scenes = ["a.tif", "$HOME/b.tif"]
labels = ["l.tif"]
exclude = [7, "roof"]
[split]
mode = "per-class"
samples_per_class = 5
[fit]
epochs = 2
learning_rate = 1e-3
[options]
features = 4
"""
GEOJSON = json.dumps(
    {
        "type": "FeatureCollection",
        "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}},
        "features": [
            {
                "type": "Feature",
                "properties": {"class": 1, "name": "roof"},
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]],
                },
            }
        ],
    }
).encode()
NUMBERS = (b"9" * 5000, b"-1", b"1e400", b"nan", b"0x10", b"65535", b"1_0")


class Parser(NamedTuple):
    """A parser, with good files and the words of their format.

    Attributes:
        parse: Reads bytes; raises nothing but what a user is told.
        samples: Good files.
        words: Pieces that mean something.
    """

    parse: Callable[[bytes], None]
    samples: list[bytes]
    words: tuple[bytes, ...]


def envi_header(folder: Path) -> Parser:
    (folder / "s.img").write_bytes(bytes(120))

    def parse(content: bytes) -> None:
        from hsi_train.data.formats.raster_classes import from_envi_header

        (folder / "s.hdr").write_bytes(content)
        try:
            from_envi_header(folder / "s.hdr")
            scene = open_scene(folder / "s.img")
        except SceneError:
            return
        info = scene.info
        bands = np.arange(min(info.bands, 9))
        rows, cols = (0, min(info.rows, 9)), (0, min(info.cols, 9))
        assert scene.read(rows, cols, bands).shape == (len(bands), rows[1], cols[1])
        scene.close()

    text = header_text(
        wavelength="{450, 550, 650}",
        wavelength_units="Nanometers",
        fwhm="{9, 9, 9}",
        bbl="{1, 0, 1}",
        data_ignore_value=0,
        data_gain_values="{1, 2, 3}",
        major_frame_offsets="{0, 0}",
        map_info="{UTM, 1, 1, 4e5, 5.8e6, 2, 2, 33, North, WGS-84}",
        coordinate_system_string="{}",
        class_names="{none, roof}",
        class_lookup="{0,0,0, 1,2,3}",
        band_names="{a (450 nm), b, c}",
        geo_points="{1, 1, 50, 10, 4, 4, 50, 11}",
    )
    words = tuple(line.split(" =")[0].encode() for line in text.splitlines())
    marks = (b"{", b"}", b"=", b";", b"\n", b",", b" ", b"\r", b"\t", b"\xef\xbb\xbf")
    return Parser(parse, [text.encode()], (*words, *marks, *NUMBERS))


def side_car(folder: Path) -> Parser:
    import rasterio

    with rasterio.open(
        folder / "s.tif", "w", driver="GTiff", count=3, height=4, width=5,
        dtype="uint16", transform=rasterio.Affine(1, 0, 5, 0, -1, 5),
    ) as file:  # fmt: skip
        file.write(np.ones((3, 4, 5), np.uint16))

    def parse(content: bytes) -> None:
        (folder / "s.tif.aux.xml").write_bytes(content)
        try:
            open_scene(folder / "s.tif").close()
        except SceneError:
            return

    return Parser(parse, [SIDE_CAR], XML)


XML = (
    *(b"<PAMRasterBand band='1'>", b"</PAMRasterBand>", b"<Metadata domain='ENVI'>"),
    *(b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"&#0;", b"<![CDATA[", b"]]>", b"<"),
    *(b"<?xml version='1.0' encoding='utf-16'?>", b"<!--", b"-->", b"='", b">", b"1,"),
    *(b"PROJCS[", b'"', b"</Row>", b"<Row>", b"<F>1</F>", b"<MDI key='wavelength'>"),
    *NUMBERS,
)


def class_side_car(folder: Path) -> Parser:
    def parse(content: bytes) -> None:
        from hsi_train.data.formats.raster_classes import from_side_car

        (folder / "l.tif.aux.xml").write_bytes(content)
        table = from_side_car(folder / "l.tif")
        assert all(0 <= code <= 65534 for code in (*table.names, *table.colors))

    return Parser(parse, [SIDE_CAR], XML)


def classes(folder: Path) -> Parser:
    def parse(content: bytes) -> None:
        from hsi_train.data.classes import ClassTable

        (folder / "classes.json").write_bytes(content)
        try:
            table = ClassTable.from_json(str(folder / "classes.json"))
            entries, _ = table.describe(sorted(table.names))
        except SceneError:
            return
        assert len({entry.name for entry in entries}) == len(entries)

    samples = [
        b'{"1": "roof", "2": "grass"}',
        b'{"classes": [{"code": 1, "name": "roof", "color": "#aabbcc"}]}',
    ]
    words = (b'"code": ', b'"name": ', b'"', b"[", b"]", b"{", b"}", b",", b"\\u0000")
    return Parser(parse, samples, (*words, b"\\ud800", b'{"a":', *NUMBERS))


def list_file(folder: Path) -> Parser:
    def parse(content: bytes) -> None:
        (folder / "scenes.txt").write_bytes(content)
        try:
            scenes = batch.expand([folder / "scenes.txt"])
        except SceneError:
            return
        assert all(isinstance(scene, Path) for scene in scenes)

    samples = [b"a.tif\nb.tif\n# none\n", b"\xef\xbb\xbf/x/y.hdr\r\n"]
    return Parser(parse, samples, (b"\n", b"\r", b"\0", b"#", b"/", b"..", b"\x85"))


def recipe(folder: Path) -> Parser:
    def parse(content: bytes) -> None:
        from hsi_train import recipe

        (folder / "r.toml").write_bytes(content)
        try:
            read = recipe.parse(recipe.load(str(folder / "r.toml")))
        except RecipeError:
            return
        text = recipe.dump(read)
        (folder / "r.toml").write_text(text, encoding="utf-8")
        assert recipe.parse(recipe.load(str(folder / "r.toml"))) == read

    words = (b"[a]\n", b"[[a]]\n", b"a.", b"= ", b"[", b"{a=", b'"', b"'''", b'"""')
    dates = (b"2020-02-30", b"1979-05-27T07:32:00Z", b"\n", b"options.", b"\\u0000")
    return Parser(parse, [RECIPE], (*words, *dates, *NUMBERS))


def geojson(folder: Path) -> Parser:
    def parse(content: bytes) -> None:
        from hsi_train.data.vectors import VectorLabels

        (folder / "l.geojson").write_bytes(content)
        try:
            VectorLabels(str(folder / "l.geojson"), "class")
        except SceneError:
            return

    words = (b'"type": ', b'"Point"', b'"coordinates": ', b"[", b"]", b"{", b"}", b",")
    return Parser(parse, [GEOJSON], (*words, b"null", b"\\ud800", b'"<"', *NUMBERS))


def protobuf(model: bytes) -> Parser:
    def parse(content: bytes) -> None:
        try:
            text = model_file.metadata(content).get(model_file.METADATA_KEY)
        except ValueError:
            text = None
        if text is None:
            return
        # Whoever makes a hostile file signs it, too.
        try:
            document = model_file._decode(Path("m.onnx"), text)
            graph_check.check(ModelFile(Path("m.onnx"), document, content, ""))
        except ModelFileError:
            return

    words = (b"\x0a", b"\x12\x00", b"\x72", b"\x3a", b"\x08\x01", b"\xff" * 9, b"\x80")
    operators = (b"Conv", b"Loop", b"Identity", b"ConstantOfShape", b"Shape")
    return Parser(parse, [model], (*words, *operators))


def document(model: bytes) -> Parser:
    def parse(content: bytes) -> None:
        text = content.decode("utf-8", "replace")
        try:
            read = model_file._decode(Path("m.onnx"), text)
            for array in (read.self_test.cube, read.self_test.probabilities):
                array.unpack()
        except ModelFileError:
            return
        assert read.receptive_field % 2

    text = model_file.metadata(model)[model_file.METADATA_KEY]
    words = (b"[", b"]", b"{", b"}", b",", b'"', b"null", b"\\u0000", b'{"a":', b"1,")
    return Parser(parse, [text.encode()], (*words, *NUMBERS))


OF_FILES: dict[str, Callable[[Path], Parser]] = {
    "envi header": envi_header,
    "side-car": side_car,
    "side-car of classes": class_side_car,
    "classes.json": classes,
    "list file": list_file,
    "recipe": recipe,
    "geojson": geojson,
}
OF_MODELS: dict[str, Callable[[bytes], Parser]] = {
    "protobuf": protobuf,
    "model document": document,
}
# rasterio cannot log a message of GDAL that quotes bytes of the file.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. 'rasterio._env.log_error'"
)


@pytest.fixture(params=[*OF_FILES, *OF_MODELS])
def parser(request: pytest.FixtureRequest, tmp_path: Path) -> Parser:
    pytest.importorskip("torch")
    pytest.importorskip("pyogrio")
    name: str = request.param
    if name in OF_FILES:
        return OF_FILES[name](tmp_path)
    data = request.getfixturevalue("write_model")(tmp_path / "m.onnx").read_bytes()
    return OF_MODELS[name](data)


def test_good_files_are_read(parser: Parser) -> None:
    for sample in parser.samples:
        bounded(parser.parse, sample)


def test_hostile_files_are_read_or_refused(parser: Parser) -> None:
    fuzz(parser.parse, drafts(parser.samples, parser.words), examples=60)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_ten_minutes_of_hostile_files(parser: Parser) -> None:
    inputs = drafts(parser.samples, parser.words)
    print(fuzz(parser.parse, inputs, 2_000, SECONDS), "inputs")


def test_an_input_that_is_too_much_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="MB for 1 bytes"):
        bounded(lambda _: np.ones(100_000_000)[:0].tolist(), b"x")
    monkeypatch.setattr(fuzzing, "SECONDS", -1.0)
    with pytest.raises(AssertionError, match="s for 1 bytes"):
        bounded(lambda _: None, b"x")

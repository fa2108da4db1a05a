"""Names and colours beside label rasters, damaged and hostile ones too."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsi_runtime.scenes.scene import SceneInfo
from hsi_train.data.classes import MAX_CODE, ClassTable
from hsi_train.data.formats.raster_classes import from_side_car
from hsi_train.data.labels import read_codes

WriteTif = Callable[..., Path]
MakeInfo = Callable[..., SceneInfo]
CODES = np.array([[0, 1, 1, 2], [2, 2, 0, 14], [14, 0, 1, 1]], dtype=np.uint8)

RAT = """<PAMDataset><PAMRasterBand band="1"><GDALRasterAttributeTable {attributes}>
{fields}{rows}</GDALRasterAttributeTable></PAMRasterBand></PAMDataset>"""


def attribute_table(
    fields: list[tuple[str, int, int]], rows: list[list[Any]], attributes: str = ""
) -> str:
    """A side-car with a raster attribute table: names, types and uses of columns."""
    columns = "".join(
        f"<FieldDefn index='{k}'><Name>{name}</Name><Type>{kind}</Type>"
        f"<Usage>{usage}</Usage></FieldDefn>"
        for k, (name, kind, usage) in enumerate(fields)
    )
    body = "".join(
        f"<Row index='{k}'>{''.join(f'<F>{cell}</F>' for cell in row)}</Row>"
        for k, row in enumerate(rows)
    )
    return RAT.format(attributes=attributes, fields=columns, rows=body)


def side_car(folder: Path, text: str) -> ClassTable:
    (folder / "labels.tif.aux.xml").write_text(text, encoding="utf-8")
    return from_side_car(folder / "labels.tif")


def test_attribute_table_of_gdal(tmp_path: Path) -> None:
    fields = [("Value", 0, 5), ("Count", 0, 1), ("Class", 2, 2)]
    fields += [("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8)]
    rows = [[1, 900, "roof", 255, 0, 0], ["14.0", 3, " tree ", 0, 128, 1]]
    table = side_car(tmp_path, attribute_table(fields, rows))
    assert table == ClassTable({1: "roof", 14: "tree"}, {1: "#ff0000", 14: "#008001"})


@pytest.mark.parametrize(
    ("fields", "rows", "attributes"),
    [
        ([("VALUE", 0, 0), ("Name", 2, 0)], [[1, "roof"], [2, "tree"]], ""),
        ([("low", 0, 3), ("high", 0, 4), ("n", 2, 2)], [[1, 1, "roof"], [2, 2, "tree"],
                                                        [3, 9, "many"]], ""),
        ([("n", 2, 2)], [["roof"], ["tree"]], "Row0Min='1' BinSize='1'"),
    ],
    ids=["plain names", "ranges", "equal steps"],
)  # fmt: skip
def test_other_forms_of_attribute_tables(
    tmp_path: Path, fields: Any, rows: Any, attributes: str
) -> None:
    table = side_car(tmp_path, attribute_table(fields, rows, attributes))
    assert table.names == {1: "roof", 2: "tree"}


def test_colour_table_and_tag_of_the_side_car(tmp_path: Path) -> None:
    text = (
        "<PAMDataset><PAMRasterBand band='1'><Metadata><MDI key='CLASS_NAMES'>"
        '{"1": "roof"}</MDI></Metadata><ColorTable><Entry c1="0" c2="0" c3="0" c4="0"/>'
        '<Entry c1="255" c2="16" c3="0" c4="255"/></ColorTable>'
        "</PAMRasterBand></PAMDataset>"
    )
    table = side_car(tmp_path, text)
    assert table.names == {1: "roof"}
    assert table.colors[1] == "#ff1000"


def test_classes_of_an_envi_header(tmp_path: Path, make_info: MakeInfo) -> None:
    path = tmp_path / "labels.img"
    path.write_bytes(CODES.tobytes())
    header = [
        "ENVI", "samples = 4", "lines = 3", "bands = 1", "data type = 1",
        "interleave = bsq", "byte order = 0", "file type = ENVI Classification",
        "classes = 3", "class names = {Unclassified, roof,", "  tree}",
        "class lookup = {0, 0, 0, 255, 0, 0, 0, 128, 1}",
    ]  # fmt: skip
    path.with_suffix(".hdr").write_text("\n".join(header))
    codes, table = read_codes(str(path), make_info(3, 4, 2))
    np.testing.assert_array_equal(codes, CODES)
    assert table.names == {0: "Unclassified", 1: "roof", 2: "tree"}
    assert (table.colors[1], table.colors[2]) == ("#ff0000", "#008001")


def test_names_in_the_tiff_win(
    tmp_path: Path, write_tif: WriteTif, make_info: MakeInfo
) -> None:
    tags = [{"CLASS_NAMES": json.dumps({"1": "roof", "70000": "none"})}]
    path = write_tif(tmp_path / "labels.tif", CODES, tags=tags)
    rows = [[1, "other"], [2, "tree"]]
    text = attribute_table([("Value", 0, 5), ("n", 2, 2)], rows)
    (tmp_path / "labels.tif.aux.xml").write_text(text)
    _, table = read_codes(str(path), make_info(3, 4, 2))
    assert table.names == {1: "roof", 2: "tree"}


BOMB = "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 20))


@pytest.mark.parametrize(
    "text",
    [
        f"<!DOCTYPE x [<!ENTITY a0 'b'>{BOMB}]><PAMDataset>&a19;</PAMDataset>",
        "<!DOCTYPE x SYSTEM 'file:///etc/hostname'><PAMDataset/>",
        "<a>" * 20_000,
        "<a>" * 20_000 + "</a>" * 20_000,
        "",
        "\0",
        attribute_table([("Value", 0, 5), ("n", 2, 2)], [["nan", "x"], ["1e300", "y"]]),
    ],
    ids=["bomb", "external", "open", "deep", "empty", "nul", "numbers"],
)
def test_hostile_side_car_is_no_table(tmp_path: Path, text: str) -> None:
    assert side_car(tmp_path, text) == ClassTable()


NUMBERS = st.one_of(st.integers(-9, 70_000), st.floats(), st.text(max_size=5)).map(str)
TAGS = st.sampled_from(
    ["PAMDataset", "PAMRasterBand", "CategoryNames", "Category", "ColorTable", "Entry",
     "GDALRasterAttributeTable", "FieldDefn", "Name", "Type", "Usage", "Row", "F",
     "MDI", "Metadata"]
)  # fmt: skip
WORDS = st.one_of(NUMBERS, st.text(max_size=8).map(lambda s: s.replace("<", "")))
ELEMENTS = st.recursive(
    WORDS,
    lambda inner: st.tuples(TAGS, st.lists(inner, max_size=6)).map(
        lambda e: (
            f"<{e[0]} c1='1' c2='2' c3='300' key='CLASS_NAMES'>{''.join(e[1])}</{e[0]}>"
        )
    ),
    max_leaves=30,
)
TABLES = st.builds(
    attribute_table,
    st.lists(st.tuples(st.just("Value"), st.integers(0, 2), st.integers(0, 9))),
    st.lists(st.lists(NUMBERS.map(lambda s: s.replace("<", "").replace("&", "")))),
    st.sampled_from(["", "Row0Min='1' BinSize='0'", "Row0Min='1e9' BinSize='-3'"]),
)
BAND = ELEMENTS.map(
    lambda e: f"<PAMDataset><PAMRasterBand>{e}</PAMRasterBand></PAMDataset>"
)
SIDE_CARS = st.one_of(ELEMENTS, BAND, TABLES, st.text())


def check_any_side_car(folder: Path, text: str) -> None:
    path = folder / "labels.tif.aux.xml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    table = from_side_car(folder / "labels.tif")
    assert all(0 <= code <= MAX_CODE for code in (*table.names, *table.colors))
    assert all(isinstance(name, str) for name in table.names.values())
    assert all(len(color) == 7 for color in table.colors.values())


@given(SIDE_CARS)
@settings(max_examples=100)
def test_any_side_car(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    check_any_side_car(tmp_path_factory.getbasetemp(), text)


@pytest.mark.soak
@given(SIDE_CARS)
@settings(max_examples=20_000)
def test_many_side_cars(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    check_any_side_car(tmp_path_factory.getbasetemp(), text)

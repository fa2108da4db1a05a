from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from small_model import with_classes

from hsi_runtime.model.model_file import ClassEntry, ModelDocument, read_model
from hsi_runtime.output.qgis_style import polygon_style, write_qml
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request

NASTY = "<a> & \"b\" 'c' \u6c34 \U0001f33e"


def test_style_has_the_names_and_colours(
    document: ModelDocument, tmp_path: Path
) -> None:
    classes = [*document.classes, ClassEntry(code=300, name=NASTY, color="#0a0b0c")]
    path = tmp_path / "o.qml"
    write_qml(path, with_classes(document, classes))
    root = ElementTree.parse(path).getroot()
    assert root.tag == "qgis"
    renderer = root.find("pipe/rasterrenderer")
    assert renderer is not None
    assert renderer.attrib["type"] == "paletted"
    assert renderer.attrib["band"] == "1"
    found = [
        (entry.attrib["value"], entry.attrib["label"], entry.attrib["color"])
        for entry in renderer.iter("paletteEntry")
    ]
    assert found == [
        ("0", "unclassified", "#000000"),
        ("2", "grass", "#00aa00"),
        ("3", "wet soil", "#804000"),
        ("7", "Öl", "#0000ff"),
        ("300", NASTY, "#0a0b0c"),
    ]


def test_style_of_polygons_has_the_names_and_colours(document: ModelDocument) -> None:
    classes = [*document.classes, ClassEntry(code=300, name=NASTY, color="#0a0b0c")]
    text = polygon_style(with_classes(document, classes))
    renderer = ElementTree.fromstring(text).find("renderer-v2")
    assert renderer is not None
    assert renderer.attrib["attr"] == "code"
    symbols = {
        symbol.attrib["name"]: {
            p.attrib["k"]: p.attrib["v"] for p in symbol.iter("prop")
        }
        for symbol in renderer.iter("symbol")
    }
    found = [
        (c.attrib["value"], c.attrib["label"], symbols[c.attrib["symbol"]]["color"])
        for c in renderer.iter("category")
    ]
    assert found == [
        ("2", "grass", "0,170,0,255"),
        ("3", "wet soil", "128,64,0,255"),
        ("7", "Öl", "0,0,255,255"),
        ("300", NASTY, "10,11,12,255"),
    ]


@pytest.mark.parametrize("name", ["o.tif", "a.b_classes.tif"])
def test_style_lies_beside_the_map_under_its_name(
    name: str,
    tmp_path: Path,
    cube: NDArray[np.uint16],
    write_model: Callable[..., Path],
    write_scene_tiff: Callable[..., Path],
) -> None:
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    model = read_model(write_model(tmp_path / "m.onnx"))
    result = run(Request(scene, tmp_path / name), model)
    style = (tmp_path / name).with_suffix(".qml")
    assert result["outputs"]["qml"] == str(style)
    assert ElementTree.parse(style).getroot().tag == "qgis"

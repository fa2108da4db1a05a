"""Class names of others: every output holds them, none obeys them."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from affine import Affine
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image
from small_model import with_classes

from hsi_runtime import reports
from hsi_runtime.model.model_file import ModelDocument, ModelFile
from hsi_runtime.output import stac
from hsi_runtime.output.layers import Counts
from hsi_runtime.output.names import paths_of
from hsi_runtime.output.preview import write_preview
from hsi_runtime.output.qgis_style import polygon_style, write_qml
from hsi_runtime.scenes.geotiff import open_tiff
from hsi_runtime.scenes.scene import SceneInfo

polygons = pytest.importorskip("hsi_runtime.output.polygons")

HOSTILE = ("a\0b", "\x1b[2J\x07gone", "x\ufffey\u202ez\r\nw")
SHOWN = ("a\ufffdb", "\ufffd[2J\ufffdgone", "x\ufffdy\ufffdz\ufffd\ufffdw")


@pytest.fixture
def hostile(document: ModelDocument) -> ModelDocument:
    pairs = zip(document.classes, HOSTILE, strict=True)
    return replace(document, classes=[replace(c, name=n) for c, n in pairs])


def test_every_output_holds_names_with_control_characters(
    hostile: ModelDocument,
    tmp_path: Path,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
    info_of: Callable[..., SceneInfo],
) -> None:
    output = tmp_path / "o.tif"
    counts = write_all(output, hostile, probabilities_of(12, 12))
    with rasterio.open(output) as raster:
        tagged = json.loads(raster.tags(1)["CLASS_NAMES"])
    assert tuple(tagged[c] for c in ("2", "3", "7")) == SHOWN
    with rasterio.open(tmp_path / "o_probabilities.tif") as raster:
        assert raster.descriptions == SHOWN
    side_car = ElementTree.parse(f"{output}.aux.xml")
    assert set(SHOWN) <= {c.text for c in side_car.iter("Category")}
    write_qml(tmp_path / "o.qml", hostile)
    style = ElementTree.parse(tmp_path / "o.qml")
    assert [e.get("label") for e in style.iter("paletteEntry")][1:] == [*SHOWN]
    ElementTree.fromstring(polygon_style(hostile).partition("\n")[2])
    polygons.write_polygons(output, tmp_path / "v.gpkg", hostile, 0.0)
    with sqlite3.connect(tmp_path / "v.gpkg") as table:
        names = {name for (name,) in table.execute("SELECT DISTINCT name FROM classes")}
    table.close()
    assert names == set(SHOWN)
    write_preview(output, tmp_path / "o.png", hostile, counts)
    tags = {"TIFFTAG_SOFTWARE": "hsi-edge 1"}
    made = stac.write_item(
        tmp_path, paths_of(output), ["classes"], info_of(12, 12), hostile, tags
    )
    asset = json.loads(made.read_text())["assets"]["classes"]
    assert [c["title"] for c in asset["classification:classes"]] == [*SHOWN]


def test_description_and_summary_do_not_move_the_cursor(
    hostile: ModelDocument, tmp_path: Path
) -> None:
    model = ModelFile(tmp_path / "\x1bm.onnx", hostile, b"", "ab" * 32)
    lines = reports.as_lines(reports.describe_model(model))
    result: dict[str, Any] = {
        "classes": [{"name": n, "pixels": 1, "area_m2": None} for n in HOSTILE],
        "pixels": {"classified": 3, "unclassified": 0, "nodata": 0},
        "seconds": dict.fromkeys(("total", "read", "infer", "write"), 1.0),
        **{"resumed_windows": 0, "device": "cpu", "precision": "fp32"},
        **{"pixels_per_second": 1.0, "peak_memory_bytes": 1},
    }
    for text in (lines, reports.summary(result)):
        assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text if c != "\n")
    assert len(lines.split("\n")) == len(reports.describe_model(model))


@pytest.mark.parametrize(("length", "classes"), [(100_000, 3), (9, 5000)])
def test_legend_stays_a_legend(
    length: int,
    classes: int,
    document: ModelDocument,
    tmp_path: Path,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
) -> None:
    output = tmp_path / "o.tif"
    write_all(output, document, probabilities_of(9, 9), wanted=("classes",))
    entries = [
        replace(document.classes[0], code=n + 1, name=f"{n}" + "W" * length)
        for n in range(classes)
    ]
    many = with_classes(document, entries)
    write_preview(output, tmp_path / "o.png", many, Counts([1] * classes))
    with Image.open(tmp_path / "o.png") as picture:
        assert max(picture.size) < 10_000


def test_long_names_do_not_multiply_in_polygons(
    document: ModelDocument,
    tmp_path: Path,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
) -> None:
    output = tmp_path / "o.tif"
    write_all(output, document, probabilities_of(60, 60), wanted=("classes",))
    names = [replace(c, name=c.name + "W" * 100_000) for c in document.classes]
    polygons.write_polygons(
        output, tmp_path / "v.gpkg", replace(document, classes=names), 0.0
    )
    assert (tmp_path / "v.gpkg").stat().st_size < 5_000_000


@pytest.mark.parametrize(
    "transform",
    [
        Affine(0, 0, 1, 0, 0, 1),
        Affine(2, 2, 0, 2, 2, 0),
        Affine(float("nan"), 0, 0, 0, -2, 0),
        Affine(2, 0, float("inf"), 0, -2, 0),
    ],
)
def test_place_that_is_no_grid_is_left_out(
    transform: Affine,
    document: ModelDocument,
    tmp_path: Path,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
    info_of: Callable[..., SceneInfo],
) -> None:
    output, info = tmp_path / "o.tif", info_of(9, 9, transform=transform)
    counts = write_all(output, document, probabilities_of(9, 9), info=info)
    with open_tiff(output) as raster:
        assert raster.transform == Affine.identity()
    polygons.write_polygons(output, tmp_path / "v.gpkg", document, 0.0)
    write_preview(output, tmp_path / "o.png", document, counts)
    tags = {"TIFFTAG_SOFTWARE": "hsi-edge 1"}
    made = stac.write_item(
        tmp_path, paths_of(output), ["classes"], info, document, tags
    )
    assert json.loads(made.read_text())["geometry"] is None

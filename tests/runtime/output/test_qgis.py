"""QGIS shows what we write: its own Python loads the files, without a screen."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hsi_runtime.model.model_file import read_model
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request

PYTHON = "/usr/bin/python3"  # the one for which distributions build QGIS
LOOK = """
import json, os, sys
from qgis.core import (
    QgsApplication, QgsMapRendererSequentialJob, QgsMapSettings, QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

application = QgsApplication([], False)
application.initQgis()
class_map, confidence, polygons = sys.argv[1:]
raster, vector = QgsRasterLayer(class_map), QgsVectorLayer(polygons)
scores = QgsRasterLayer(confidence)


def pixels(layer):
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(raster.crs())
    settings.setExtent(raster.extent())
    settings.setOutputSize(QSize(raster.width(), raster.height()))
    settings.setBackgroundColor(QColor("#ff00ff"))
    settings.setFlag(QgsMapSettings.Antialiasing, False)
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    image = job.renderedImage()
    return [
        [image.pixelColor(x, y).name() for x in range(image.width())]
        for y in range(image.height())
    ]


renderer = raster.renderer()
print(json.dumps({
    "renderer": renderer.type(),
    "legend": [[c.value, c.label, c.color.name()] for c in renderer.classes()],
    "crs": raster.crs().authid(),
    "pixels": pixels(raster),
    "polygon_pixels": pixels(vector),
    "probability": scores.dataProvider().sample(raster.extent().center(), 1)[0],
    "polygons": [
        [int(c.value()), c.label(), c.symbol().color().name()]
        for c in vector.renderer().categories()
    ],
}), flush=True)
os._exit(0)  # layers that outlive the application make QGIS crash at the end
"""


def has_qgis() -> bool:
    if shutil.which(PYTHON) is None:
        return False
    tried = subprocess.run([PYTHON, "-c", "import qgis.core"], capture_output=True)
    return tried.returncode == 0


@pytest.mark.skipif(not has_qgis(), reason="needs QGIS for /usr/bin/python3")
def test_qgis_shows_names_colours_and_nodata(
    tmp_path: Path,
    cube: NDArray[np.uint16],
    write_model: Callable[..., Path],
    write_scene_tiff: Callable[..., Path],
) -> None:
    pytest.importorskip("pyogrio")
    edged = cube.copy()
    edged[:, :5, :7] = 0
    scene = write_scene_tiff(tmp_path / "s.tif", edged, nodata=0)
    model = read_model(write_model(tmp_path / "m.onnx"))
    polygons = tmp_path / "p.gpkg"
    request = Request(scene, tmp_path / "o.tif", confidence=True, vector=polygons)
    run(request, model)
    inputs = (request.output, tmp_path / "o_confidence.tif", polygons)
    done = subprocess.run(
        [PYTHON, "-c", LOOK, *inputs],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    entries = [[c.code, c.name, c.color] for c in model.document.classes]
    assert found["renderer"] == "paletted"
    assert found["legend"] == [[0, "unclassified", "#000000"], *entries]
    assert found["polygons"] == entries
    assert found["crs"] == "EPSG:32633"
    assert 0 < found["probability"] <= 1
    codes = open_codes(request.output)
    colors = {code: color for code, _, color in found["legend"]}
    colors[255] = "#ff00ff"  # the background is seen through nodata
    assert 255 in codes
    wanted = [[colors[code] for code in row] for row in codes.tolist()]
    assert found["pixels"] == wanted
    assert found["polygon_pixels"] == wanted  # nothing is rejected here


def open_codes(path: Path) -> NDArray[np.uint8]:
    import rasterio

    with rasterio.open(path) as raster:
        codes: NDArray[np.uint8] = raster.read(1)
    return codes

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint

from hsi_runtime.cli import main
from hsi_runtime.scenes.products.scene_report import readable, report


def test_plain_scene(
    tmp_path: Path, write_scene_tiff: Callable[..., Path], cube: NDArray[Any]
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", cube, nodata=0)
    with rasterio.open(path, "r+") as file:
        file.update_tags(3, bbl="0")
    said = report(path)
    assert said["product"] is None
    assert (said["rows"], said["cols"], said["bands"]) == (23, 31, 4)
    assert (said["good_bands"], said["bad_bands"]) == (3, [3])
    assert said["wavelengths_nm"] == [450, 850]
    assert said["widths_nm"] is None
    assert (said["nodata"], said["scale"], said["offset"]) == (0, 1e-4, 0)
    assert said["georeference"] == {
        "kind": "grid",
        "crs": "EPSG:32633",
        "transform": [400_000, 2, 0, 5_800_000, 0, -2],
        "bounds": [400_000, 5_799_954, 400_062, 5_800_000],
        "resolution_m": 2,
    }
    assert (said["dtype"], said["bytes"]) == ("uint16", 4 * 23 * 31 * 2)
    assert said["files"] == [str(path)]
    assert (said["quality"], said["notes"]) == ([], [])
    json.dumps(said, allow_nan=False)


def test_other_places(
    tmp_path: Path, write_scene_tiff: Callable[..., Path], cube: NDArray[Any]
) -> None:
    nowhere = write_scene_tiff(tmp_path / "a.tif", cube, crs=None, transform=None)
    assert report(nowhere)["georeference"] == {"kind": "none", "crs": None}
    assert report(nowhere)["nodata"] is None
    turned = Affine(3, 4, 10, 4, -3, 20)
    path = write_scene_tiff(tmp_path / "b.tif", cube, transform=turned)
    bounds = report(path)["georeference"]["bounds"]
    assert bounds == [10, 20 - 3 * 23, 10 + 3 * 31 + 4 * 23, 20 + 4 * 31]
    points = [GroundControlPoint(0, 0, 1, 2), GroundControlPoint(9, 9, 3, 4)]
    place = {"gcps": points, "crs": "EPSG:4326", "transform": None}
    path = write_scene_tiff(tmp_path / "c.tif", cube, **place)
    placed = report(path)["georeference"]
    assert placed == {"kind": "control points", "crs": "EPSG:4326"}


def test_product(delivered: Callable[..., Any]) -> None:
    pytest.importorskip("hsi_train.simulate")
    said = report(delivered("enmap").path)
    assert said["product"]["kind"] == "EnMAP L2A"
    assert (said["bands"], said["good_bands"]) == (224, 218)
    assert said["bad_bands"] == [131, 132, 133, 134, 135, 136]
    places = {layer["name"]: layer["place"] for layer in said["quality"]}
    assert places["cloud"] == f"{said['product']['name']}-QL_QUALITY_CLOUD.TIF"
    assert len(said["files"]) == 2


def test_people_see_the_names_of_quality_layers(delivered: Callable[..., Any]) -> None:
    pytest.importorskip("hsi_train.simulate")
    said = readable(report(delivered("desis", bands=20).path))
    assert said["quality"] == ["quality-2", "quality"]
    none = {"georeference": {"kind": "none", "crs": None}, "quality": []}
    assert readable(none)["georeference"] == "none, no coordinate system"
    assert readable({"scene": "s"}) == {"scene": "s"}


def test_command(place: Any, invoke: Any, digests: Any) -> None:
    place.model.unlink()
    before = digests(place.folder)
    code, out, err = invoke(main, "scene.tif", "--info")
    assert (code, err) == (0, "")
    assert "good_bands: 4\n" in out
    where = "grid, EPSG:32633, W 400000 S 5799954 E 400062 N 5800000, 2 m"
    assert f"georeference: {where}\n" in out
    code, out, _ = invoke(main, "scene.tif", "--info", "--json")
    assert (code, json.loads(out)["bands"]) == (0, 4)
    assert invoke(main, "--info").code == 2
    assert invoke(main, "none.tif", "--info").code == 3
    code, out, _ = invoke(main, "scene.tif", "none.tif", "--info", "--json")
    good, bad = json.loads(out)["scenes"]
    assert (code, good["bands"], bad["status"]) == (3, 4, "failed")
    code, out, _ = invoke(main, "scene.tif", "scene.tif", "--info")
    assert (code, out.count("good_bands")) == (0, 2)
    assert digests(place.folder) == before


def test_numbers_of_a_report_are_plain() -> None:
    from hsi_runtime.scenes.products.scene_report import _range

    assert _range(np.array([np.nan, 3, 1])) == [1, 3]
    assert _range(np.array([np.nan])) is None
    assert _range(None) is None

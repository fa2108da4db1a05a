import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from envi_files import everything
from products import Delivered

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.products import wyvern
from hsi_runtime.scenes.scene import Product, QualityLayer, SceneInfo

pytest.importorskip("hsi_train.simulate")
NAME = "wyvern_dragonette-003_20240630T101112_00000003_l2a"


@pytest.fixture
def made(delivered: Callable[..., Delivered]) -> Delivered:
    return delivered("wyvern")


@pytest.fixture
def folder(made: Delivered, copied: Callable[[Path], Path]) -> Path:
    return copied(made.path)


def info_of(path: Path) -> SceneInfo:
    scene = open_scene(path)
    scene.close()
    return scene.info


def test_scene_is_what_was_written(made: Delivered) -> None:
    scene = open_scene(made.path)
    info = scene.info
    assert info.wavelengths_nm is not None
    assert info.fwhm_nm is not None
    assert info.wavelengths_nm.tolist() == list(made.spec.wavelengths_nm)
    assert info.fwhm_nm.tolist() == list(made.spec.fwhm_nm)
    assert info.scale is None
    assert info.dtype == "float32"
    assert info.nodata.tolist() == [-9999] * 31
    assert info.product == Product("Wyvern", NAME, "2024-06-30T10:11:12Z")
    assert info.quality == (QualityLayer("data_mask", f"{NAME}_data_mask.tiff"),)
    np.testing.assert_array_equal(everything(scene), made.cube)
    scene.close()
    for member in made.path.iterdir():
        assert info_of(member).path == info.path


def test_renamed_cube_is_a_scene_by_itself(folder: Path) -> None:
    cube = (folder / f"{NAME}.tiff").rename(folder / "mine.tif")
    info = info_of(cube)
    assert info.wavelengths_nm is not None
    assert info.product is None
    assert info_of(folder).path == cube  # the only raster that is no mask
    cube.unlink()
    with pytest.raises(SceneError, match=r"its cube .*_l2a\.tiff, a GeoTIFF, is not"):
        open_scene(folder)


def test_place_on_a_server_is_a_name_here(folder: Path) -> None:
    path = folder / f"{NAME}.json"
    item = json.loads(path.read_text())
    for asset in item["assets"].values():
        asset["href"] = f"https://127.0.0.1:9/some/where/{asset['href'][2:]}"
    path.write_text(json.dumps(item))
    assert info_of(path).bands == 31


@pytest.mark.parametrize(
    "change",
    [
        {"type": "Catalog"},
        {"stac_version": 3},
        {"assets": []},
        {"properties": {"platform": "sentinel-2a"}},
    ],
)
def test_other_items_are_left_alone(folder: Path, change: dict[str, Any]) -> None:
    path = folder / f"{NAME}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert info_of(folder / f"{NAME}.tiff").product is None
    with pytest.raises(SceneError, match="neither a TIFF nor an ENVI"):
        open_scene(path)


@pytest.mark.parametrize("content", [b"{", b"{\xff}", b"[" * 100_000, b'{"a":' * 5000])
def test_broken_json_is_no_item(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.json"
    path.write_bytes(content)
    assert wyvern.recognise(path, content[:9]) is None


def test_provider_names_the_maker(folder: Path) -> None:
    path = folder / f"{NAME}.json"
    item = json.loads(path.read_text())
    item["properties"] = {"providers": [{"name": "Wyvern Inc."}], "datetime": None}
    item["properties"] |= {"start_datetime": "2024-01-01T00:00:00Z"}
    item["properties"] |= {"processing:level": "L1B"}
    path.write_text(json.dumps(item))
    expected = Product("Wyvern L1B", NAME, "2024-01-01T00:00:00Z")
    assert info_of(folder).product == expected

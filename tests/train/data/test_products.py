"""Sensor products as scenes of a training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from products import Delivered

from hsi_runtime.errors import SceneError
from hsi_train.data.loading import expand_scenes, load
from hsi_train.fitting.pretrain import read_sources
from hsi_train.run_folder import origin

Deliver = Callable[..., Delivered]
Copy = Callable[..., Path]


def names(paths: list[str]) -> list[str]:
    return [Path(path).name.split("-")[-1] for path in paths]


@pytest.mark.parametrize("member", ["", "*SPECTRAL_IMAGE.TIF", "*QL_PIXELMASK.TIF"])
def test_product_is_one_scene_whatever_is_given(
    member: str, delivered: Deliver
) -> None:
    folder = delivered("enmap", bands=20).path
    given = next(folder.glob(member)) if member else folder
    scenes = expand_scenes([str(given)])
    assert names(scenes) == ["METADATA.XML"]
    read = names([str(path) for path in origin.files_of(scenes)])
    assert set(read) == {"SPECTRAL_IMAGE.TIF", "METADATA.XML"}


def test_folder_of_products_is_a_folder_of_scenes(
    delivered: Deliver, copied: Copy
) -> None:
    folder = copied(delivered("enmap", bands=20).path)
    for path in delivered("desis", bands=20).path.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    scenes = expand_scenes([str(folder)])
    assert names(scenes) == ["METADATA.xml", "METADATA.XML"]


def test_a_damaged_description_does_not_hide_other_scenes(
    tmp_path: Path, delivered: Deliver
) -> None:
    damaged = tmp_path / "a.xml"
    damaged.write_text("<a><bandCharacterisation>")
    with pytest.raises(SceneError, match=r"a\.xml cannot be read"):
        expand_scenes([str(tmp_path)])
    made = delivered("enmap", bands=20)
    (tmp_path / "s.tif").write_bytes(made.truth.read_bytes())
    assert names(expand_scenes([str(tmp_path)])) == ["s.tif"]


def test_product_cannot_be_given_twice(delivered: Deliver) -> None:
    made = delivered("enmap", bands=20)
    cube = next(made.path.glob("*SPECTRAL_IMAGE.TIF"))
    labels = [str(made.truth)] * 2
    with pytest.raises(SceneError, match="is the same scene as"):
        load([str(made.path), str(cube)], labels, halo=1)


def test_training_leaves_bad_bands_and_border_out(delivered: Deliver) -> None:
    made = delivered("enmap")
    data = load([str(made.path)], [str(made.truth)], halo=2)
    assert len(data.bands) == 218
    assert not set(range(130, 136)) & set(data.bands.tolist())
    (scene,) = data.scenes
    assert scene.info.product is not None
    assert scene.cube[:, scene.valid].min() > -32768
    assert not any("declares no" in warning for warning in data.warnings)


def test_quality_layer_serves_as_labels(delivered: Deliver, copied: Copy) -> None:
    made = delivered("enmap", bands=20)
    folder = copied(made.path)
    layer = next(folder.glob("*QL_QUALITY_CLASSES.TIF"))
    with rasterio.open(layer, "r+") as file:
        codes = file.read(1)
        codes[:, :20] = np.where(codes[:, :20] == 1, 2, codes[:, :20])
        file.write(codes, 1)
    data = load([str(folder)], [str(layer)], halo=1)
    assert [entry.code for entry in data.classes] == [1, 2]


def test_pre_training_reads_products(delivered: Deliver) -> None:
    said: list[str] = []
    (source,) = read_sources([str(delivered("desis", bands=20).path)], 5, said.append)
    assert source is not None
    assert not said


def test_scenes_that_are_no_products_stay_as_they_are(tmp_path: Path) -> None:
    given: list[Any] = ["none.tif", "cube.mat:x", "x" * 5000 + ".tif"]
    assert expand_scenes(given) == given
    assert origin.files_of(given) == []
    store = tmp_path / "s.zarr"
    store.mkdir()
    (store / ".zgroup").touch()
    with pytest.raises(SceneError, match="Zarr store"):
        expand_scenes([str(store)])

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray

from hsi_runtime.model.model_file import ClassEntry, ModelDocument, ModelFile
from hsi_runtime.output.layers import Canvas, Counts, layers, map_dtype
from hsi_runtime.output.provenance import COUNTER_KEY, identity, is_finished, provenance
from hsi_runtime.scenes.scene import SceneInfo

ALL = ("classes", "confidence", "probabilities")


def with_codes(document: ModelDocument, *codes: int) -> ModelDocument:
    classes = [
        ClassEntry(code=c, name=f"class {c}", color=f"#{c % 256:02x}10ff")
        for c in codes
    ]
    return replace(document, classes=classes)


@pytest.mark.parametrize(
    ("top", "dtype", "nodata"),
    [
        (3, "uint8", 255),
        (254, "uint8", 255),
        (255, "uint16", 65535),
        (65534, "uint16", 65535),
    ],
)
def test_codes_are_the_users_and_nodata_is_declared(
    top: int,
    dtype: str,
    nodata: int,
    document: ModelDocument,
    tmp_path: Path,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
) -> None:
    described = with_codes(document, 1, top, 2)
    assert map_dtype(described) == dtype
    found = probabilities_of(9, 12)
    valid = np.ones((9, 12), dtype=bool)
    valid[0, :5] = valid[8, 11] = False
    counts = write_all(tmp_path / "o.tif", described, found, valid)
    with rasterio.open(tmp_path / "o.tif") as file:
        values = file.read(1)
        assert file.dtypes == (dtype,)
        assert file.nodata == nodata
        np.testing.assert_array_equal(file.dataset_mask() > 0, valid)
    expected = np.array([1, top, 2])[found.argmax(axis=0)]
    np.testing.assert_array_equal(values, np.where(valid, expected, nodata))
    assert counts.nodata == 6
    assert counts.of_class == [(values == c).sum() for c in (1, top, 2)]


@given(st.data())
def test_canvas_in_any_squares_holds_what_one_holds(
    document: ModelDocument, data: st.DataObject
) -> None:
    rows, cols = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    found = random.random((3, rows, cols)).astype(np.float32)
    found[:, random.random((rows, cols)) < 0.1] = np.nan
    valid = random.random((rows, cols)) < 0.8
    rasters, codes = layers(document, ALL), [2, 3, 7]
    whole = Canvas(rasters, codes, rows, cols)
    whole.paint(0, 0, {"probabilities": found}, valid, 0.5)
    parts = Canvas(rasters, codes, rows, cols)
    side = data.draw(st.integers(1, 12))
    for row in range(0, rows, side):
        for col in range(0, cols, side):
            part = np.s_[row : row + side, col : col + side]
            square = {"probabilities": found[:, *part]}
            parts.paint(row, col, square, valid[part], 0.5)
    for name in ALL:
        np.testing.assert_array_equal(parts.values[name], whole.values[name])
    finite = np.isfinite(found).all(axis=0)
    known = valid & finite
    counts = parts.counts()
    assert counts == whole.counts()
    assert counts.nodata == (~known).sum()
    assert counts.broken == (valid & ~finite).sum()
    assert counts.unclassified == (found.max(axis=0)[known] < 0.5).sum()
    assert sum(counts.of_class) + counts.unclassified + counts.nodata == rows * cols
    assert (whole.values["classes"][0] == 255).sum() == counts.nodata


def test_confidence_and_probabilities_are_steps_of_a_half_per_cent(
    document: ModelDocument,
    tmp_path: Path,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
) -> None:
    found = probabilities_of(21, 20)
    valid = np.random.default_rng(1).random((21, 20)) > 0.2
    write_all(tmp_path / "o_classes.tif", document, found, valid)
    with rasterio.open(tmp_path / "o_probabilities.tif") as file:
        stored = file.read()
        assert file.dtypes == ("uint8",) * 3
        assert file.descriptions == ("grass", "wet soil", "Öl")
        assert set(file.scales) == {1 / 200}
        assert set(file.nodatavals) == {255}
    np.testing.assert_allclose(
        stored[:, valid] / 200, found[:, valid], atol=1 / 400 + 1e-6
    )
    assert (stored[:, ~valid] == 255).all()
    with rasterio.open(tmp_path / "o_confidence.tif") as file:
        confidence = file.read(1)
        assert file.scales == (1 / 200,)
    np.testing.assert_array_equal(confidence[valid], stored.max(axis=0)[valid])
    assert stored[:, valid].max() <= 200


def test_rejected_pixels_are_unclassified(
    document: ModelDocument,
    tmp_path: Path,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
) -> None:
    found = probabilities_of(20, 20)
    counts = write_all(tmp_path / "o.tif", document, found, reject=0.7)
    with rasterio.open(tmp_path / "o.tif") as file:
        values = file.read(1)
        assert (file.dataset_mask() == 255).all()  # 0 is no nodata
    np.testing.assert_array_equal(values == 0, found.max(axis=0) < 0.7)
    assert counts.unclassified == (values == 0).sum()


def test_finished_is_a_map_of_this_scene_by_this_model(
    document: ModelDocument,
    tmp_path: Path,
    write_scene_tiff: Callable[..., Path],
    info_of: Callable[..., SceneInfo],
    cube: NDArray[Any],
) -> None:
    model = ModelFile(tmp_path / "m.onnx", document, b"", "ab" * 32)
    engine = "openvino", "bf16"
    scene = "ef" * 32
    tags = provenance(model, info_of(3, 4), scene, engine, "matched", "whole", 0.5)
    assert tags["HSI_BANDS"] == "matched"
    assert (tags["HSI_DEVICE"], tags["HSI_PRECISION"]) == engine
    path = tmp_path / "o.tif"

    def finished(
        by: ModelFile = model,
        part: str = "whole",
        reject: float = 0.5,
        counter: tuple[int, int] | None = None,
        scene: str = scene,
    ) -> bool:
        expected = identity(by, part, reject, {COUNTER_KEY: counter})
        return is_finished("classes", path, expected, lambda: scene)

    assert not finished()
    write_scene_tiff(path, cube)
    assert not finished()
    with rasterio.open(path, "r+") as file:
        file.update_tags(**tags)
    assert finished()
    assert not finished(reject=0.6)
    assert not finished(part="window 0,0,2,2")
    assert not finished(counter=(0, 1))
    assert not finished(scene="cd" * 32)
    other = ModelFile(model.path, document, b"", "cd" * 32)
    assert not finished(by=other)
    path.write_bytes(b"II*\0 torn")
    assert not finished()
    path = tmp_path
    assert not finished()

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from msgspec.structs import replace
from numpy.typing import NDArray

from hsi_runtime.engines.opening import open_backend
from hsi_runtime.errors import ModelFileError
from hsi_runtime.model.array import Array
from hsi_runtime.model.model_file import ModelDocument, ModelFile, read_model
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request


@pytest.fixture
def unmixing(document: ModelDocument) -> ModelDocument:
    spectra = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    return replace(
        document,
        outputs=["probabilities", "abundances"],
        endmembers=Array.pack(spectra / spectra.max(axis=1, keepdims=True)),
    )


@pytest.fixture
def model(
    unmixing: ModelDocument, tmp_path: Path, write_model: Callable[..., Path]
) -> ModelFile:
    return read_model(write_model(tmp_path / "model.onnx", unmixing))


def test_raster_holds_what_the_engine_says(
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Callable[..., Path],
) -> None:
    stored = cube.copy()
    stored[:, 4, 5] = 0
    scene = write_scene_tiff(tmp_path / "s.tif", stored, nodata=0)
    request = Request(
        scene, tmp_path / "o.tif", abundances=True, tile=8, reject_below=1
    )
    result = run(request, model)
    assert result["outputs"]["abundances"] == str(tmp_path / "o_abundances.tif")
    assert result["abundances"] == model.document.share_meaning
    assert result["abundances"]["share_of"] == "coefficients"  # of an earlier release
    with rasterio.open(tmp_path / "o_abundances.tif") as file:
        found, mask = file.read(), file.dataset_mask() > 0
        assert file.dtypes == ("uint16",) * 3
        assert file.descriptions == tuple(c.name for c in model.document.classes)
        assert file.scales == (1e-4,) * 3
        with rasterio.open(scene) as source:
            assert (file.crs, file.transform) == (source.crs, source.transform)
    fill = np.array(model.document.values.fill)[:, None, None]
    valid = (stored != 0).all(axis=0)
    padded = np.pad(
        np.where(valid, stored, fill), ((0, 0), (2, 2), (2, 2)), mode="reflect"
    )
    window = padded[None].astype(np.float32)
    expected = open_backend(model).predict(window, ["abundances"])["abundances"][0]
    np.testing.assert_array_equal(mask, valid)
    # Half a step, and the rounding of squares of another size.
    np.testing.assert_allclose(found[:, valid] / 1e4, expected[:, valid], atol=6e-5)
    assert np.abs(found[:, valid].sum(axis=0) - 10_000.0).max() <= 2
    assert expected[:, valid].std() > 0.01


def test_rejected_pixels_keep_their_abundances(
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Callable[..., Path],
) -> None:
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    run(Request(scene, tmp_path / "o.tif", abundances=True, reject_below=1), model)
    with rasterio.open(tmp_path / "o.tif") as file:
        assert (file.read(1) == 0).mean() > 0.5
    with rasterio.open(tmp_path / "o_abundances.tif") as file:
        assert (file.dataset_mask() == 255).all()


def test_model_that_does_not_unmix(
    document: ModelDocument,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Callable[..., Path],
    write_model: Callable[..., Path],
) -> None:
    plain = read_model(write_model(tmp_path / "plain.onnx", document))
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    with pytest.raises(ModelFileError, match=r"--abundances: method test gives none"):
        run(Request(scene, tmp_path / "o.tif", abundances=True), plain)
    assert not (tmp_path / "o.tif").exists()


def test_graph_without_the_promised_output(
    document: ModelDocument,
    unmixing: ModelDocument,
    tmp_path: Path,
    write_model: Callable[..., Path],
) -> None:
    model = read_model(write_model(tmp_path / "plain.onnx", document))
    promised = ModelFile(model.path, unmixing, model.onnx, model.sha256)
    with pytest.raises(ModelFileError, match="promises 'abundances' with 3 classes"):
        open_backend(promised)

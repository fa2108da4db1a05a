import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hsi_run import COLS, ROWS, command
from mosaic import Mosaic
from msgspec.structs import replace

from hsi_runtime.engines.opening import open_backend
from hsi_runtime.model.array import Array
from hsi_runtime.model.model_file import ModelDocument, SetLevel, read_model
from hsi_runtime.model.training import KnownClasses, Training


@pytest.fixture(scope="module")
def mosaic(
    tmp_path_factory: pytest.TempPathFactory,
    document: ModelDocument,
    write_model: Callable[..., Path],
    write_scene_tiff: Callable[..., Path],
) -> Mosaic:
    folder = tmp_path_factory.mktemp("mosaic")
    random = np.random.default_rng(4)
    patches = np.kron(random.integers(500, 9000, (4, 12, 5)), np.ones((1, 8, 8)))
    values = (patches + random.normal(0, 900, patches.shape)).clip(1, 9999)
    values[:, 40:49, 3:30] = 0
    write_scene_tiff(
        *(folder / "scene.tif", values.astype(np.uint16)),
        **{"nodata": 0, "tiled": True, "blockxsize": 16, "blockysize": 16},
    )
    spectra = random.random((3, 4)).astype(np.float32)
    full = replace(
        document,
        outputs=["probabilities", "abundances"],
        endmembers=Array.pack(spectra / spectra.max(axis=1, keepdims=True)),
        set_levels=[SetLevel(level=0.9, threshold=0.3)],
        training=Training(
            mean=[4000.0] * 4,
            deviation=[2000.0] * 4,
            known=KnownClasses(
                side=3,
                projection=Array.pack(np.eye(4, dtype=np.float32) / 2000),
                centres=Array.pack(spectra * 4),
                scatter=[1.0, 0.5, 2.0],
                distances=[0.0, 1.0, 2.0],
            ),
        ),
    )
    model = read_model(write_model(folder / "model.onnx", full))
    return Mosaic(folder, model, open_backend(model, "cpu", 1, 8))


@pytest.fixture(scope="package")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    write_model: Callable[..., Path],
    write_scene_tiff: Callable[..., Path],
) -> Path:
    """Return a folder with a scene, its model and its maps; see `hsi_run`."""
    folder = tmp_path_factory.mktemp("place")
    values = np.random.default_rng(0).integers(1, 9999, (4, ROWS, COLS))
    write_scene_tiff(
        *(folder / "scene.tif", values.astype(np.uint16)),
        **{"tiled": True, "blockxsize": 64, "blockysize": 64},
    )
    write_model(folder / "model.onnx")
    done = subprocess.run(command(folder, "plain.tif"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from msgspec.structs import replace

from hsi_runtime import batch
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.errors import ModelFileError, OptionError
from hsi_runtime.model.model_file import ModelDocument, ModelFile, SetLevel, read_model
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request

LEVELS = {0.8: 0.4, 0.95: 0.2}


@pytest.fixture
def model(
    document: ModelDocument, tmp_path: Path, write_model: Callable[..., Path]
) -> ModelFile:
    offered = [SetLevel(level=p, threshold=t) for p, t in LEVELS.items()]
    offering = replace(document, set_levels=offered)
    return read_model(write_model(tmp_path / "model.onnx", offering))


@pytest.mark.parametrize("level", LEVELS)
def test_a_set_holds_the_best_class_and_all_likely_ones(
    level: float, model: ModelFile, masked_scene: Path, tmp_path: Path
) -> None:
    request = Request(
        masked_scene, tmp_path / "o.tif", sets=level, probabilities=True, reject_below=1
    )
    result = run(request, model)
    assert result["outputs"]["sets"] == str(tmp_path / "o_sets.tif")
    with rasterio.open(tmp_path / "o_sets.tif") as file:
        sets, mask = file.read(), file.dataset_mask() > 0
        assert file.dtypes == ("uint8",) * 3
        assert file.descriptions == tuple(c.name for c in model.document.classes)
        assert file.tags()["HSI_SETS"] == repr(level)
    with rasterio.open(tmp_path / "o_probabilities.tif") as file:
        shares = file.read() / 200
    assert not mask[4, 5]
    assert (sets[:, ~mask] == 255).all()
    inside = sets[:, mask]
    assert set(np.unique(inside)) <= {0, 1}
    assert (inside.max(axis=0) == 1).all()
    shares = shares[:, mask]
    assert inside[shares > LEVELS[level] + 0.005].all()
    out = (shares < LEVELS[level] - 0.005) & (shares < shares.max(axis=0) - 0.01)
    assert not inside[out].any()


def test_only_what_the_model_offers_is_written(
    model: ModelFile, document: ModelDocument, masked_scene: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match=r"no sets of level 0\.9\. .* 0\.8, 0\.95"):
        run(Request(masked_scene, tmp_path / "o.tif", sets=0.9), model)
    without = ModelFile(model.path, document, model.onnx, model.sha256)
    with pytest.raises(ModelFileError, match="offers no sets of classes"):
        run(Request(masked_scene, tmp_path / "o.tif", sets=0.8), without)
    assert not list(tmp_path.glob("o*"))
    with pytest.raises(OptionError, match="is not in 0"):
        Request(masked_scene, tmp_path / "o.tif", sets=95)


def test_sets_of_another_level_are_not_finished(
    model: ModelFile, masked_scene: Path, tmp_path: Path
) -> None:
    def states(**options: Any) -> list[str]:
        request = Request(masked_scene, tmp_path / "o.tif", **options)
        results = batch.run_all(
            [request],
            model,
            lambda: open_backend(model, "cpu"),
            lambda *_: None,
            lambda _: None,
        )
        return [str(one["status"]) for one in results["scenes"]]

    assert states(sets=0.8) == ["done"]
    assert states(sets=0.8) == ["skipped"]
    assert states() == ["skipped"]
    assert states(sets=0.95) == ["failed"]  # the file is there
    assert states(sets=0.95, overwrite=True) == ["done"]

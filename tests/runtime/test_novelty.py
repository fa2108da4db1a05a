"""The layer of novelty, the line about training, and bands that are fitted to it."""

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from msgspec.structs import replace
from numpy.typing import NDArray

import hsi_runtime
from hsi_runtime import batch
from hsi_runtime.cli import main as hsi_run
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.errors import ModelFileError, OptionError
from hsi_runtime.follow_options.options import Following
from hsi_runtime.model.array import Array
from hsi_runtime.model.model_file import ModelDocument, ModelFile, read_model
from hsi_runtime.model.training import KnownClasses, Training
from hsi_runtime.pipeline import run
from hsi_runtime.planning import prepare
from hsi_runtime.request import Request


@pytest.fixture
def known(document: ModelDocument, cube: NDArray[Any]) -> ModelDocument:
    flat = cube.reshape(len(cube), -1).astype(np.float64)
    projection = np.eye(len(cube)) / flat.std()
    classes = KnownClasses(
        side=1,
        projection=Array.pack(projection.astype(np.float32)),
        centres=Array.pack((flat.T[::7] @ projection.T).astype(np.float32)),
        scatter=[1.0] * len(flat.T[::7]),
        distances=[0.0, 0.1, 0.5, 1.0],
    )
    training = Training(
        mean=flat.mean(axis=1).tolist(),
        deviation=flat.std(axis=1).tolist(),
        known=classes,
    )
    return replace(document, training=training)


@pytest.fixture
def model(
    known: ModelDocument, tmp_path: Path, write_model: Callable[..., Path]
) -> ModelFile:
    return read_model(write_model(tmp_path / "model.onnx", known))


def test_raster_holds_the_novelty_of_every_pixel(
    model: ModelFile, masked_scene: Path, tmp_path: Path, cube: NDArray[Any]
) -> None:
    result = run(Request(masked_scene, tmp_path / "o.tif", novelty=True, tile=8), model)
    assert result["outputs"]["novelty"] == str(tmp_path / "o_novelty.tif")
    with rasterio.open(tmp_path / "o_novelty.tif") as file:
        found, mask = file.read(1), file.dataset_mask() > 0
        assert file.scales == (pytest.approx(1 / 200),)
    assert not mask[4, 5]
    assert found[4, 5] == 255
    places = np.unravel_index(np.arange(0, cube[0].size, 7), cube[0].shape)
    own = found[places][mask[places]]
    assert own.max() <= 2  # training knew these
    assert found[mask].max() > 20


def test_every_run_tells_how_far_the_scene_is(
    model: ModelFile,
    masked_scene: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    seen = run(Request(masked_scene, tmp_path / "o.tif"), model)["training_distance"]
    assert seen["pixels"] > 0
    assert seen["median_shift"] < 1
    assert 0 <= seen["unlike"] < 1
    assert "The mean spectrum is" in caplog.text


def test_the_middle_of_a_scene_does_not_stand_for_all_of_it(
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Callable[..., Path],
) -> None:
    """The lake in the middle is a part of the scene, and so is what lies beside it."""
    values = np.tile(cube, (1, 3, 3))
    rows, cols = values.shape[1:]
    lake = np.s_[:, rows // 3 : rows * 2 // 3, cols // 3 : cols * 2 // 3]
    share = 1 / 9
    whole = write_scene_tiff(tmp_path / "whole.tif", values)
    seen = run(Request(whole, tmp_path / "w.tif"), model)["training_distance"]
    assert seen["largest_shift"] < 0.1  # training saw just these spectra
    values[lake] = 60_000
    flooded = write_scene_tiff(tmp_path / "flooded.tif", values)
    seen = run(Request(flooded, tmp_path / "f.tif"), model)["training_distance"]
    assert seen["unlike"] == pytest.approx(share, abs=0.05)
    values[lake] = 0
    masked = write_scene_tiff(tmp_path / "masked.tif", values, nodata=0)
    seen = run(Request(masked, tmp_path / "m.tif"), model)["training_distance"]
    assert seen["pixels"] > 250
    assert seen["largest_shift"] < 0.1


def test_a_scene_of_another_light_is_told_and_fitted(
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    same = write_scene_tiff(tmp_path / "s.tif", cube)
    bright = write_scene_tiff(tmp_path / "b.tif", (cube * 2 + 3000).astype(cube.dtype))
    run(Request(same, tmp_path / "same.tif"), model)
    caplog.clear()
    far = run(Request(bright, tmp_path / "far.tif"), model)["training_distance"]
    assert far["unlike"] > 0.9
    assert "unlike those of training. Expect errors there" in caplog.text
    adapted = run(Request(bright, tmp_path / "near.tif", adapt="moments"), model)
    assert adapted["training_distance"]["unlike"] < 0.2
    assert "b.tif: --adapt scaled the bands by" in caplog.text
    assert "wrong where land cover differs" in caplog.text
    maps = {}
    for name in ("same", "near"):
        with rasterio.open(tmp_path / f"{name}.tif") as file:
            maps[name] = file.read(1)
            assert file.tags().get("HSI_ADAPT") == (
                "'moments'" if name == "near" else None
            )
    assert (maps["same"] == maps["near"]).mean() > 0.98


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_adapting_decodes_no_block_twice(
    interleave: str,
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Callable[..., Path],
) -> None:
    values = np.tile(cube, (1, 5, 5))[:, :150, :150]
    scene = write_scene_tiff(
        *(tmp_path / "s.tif", values),
        **{"tiled": True, "blockxsize": 64, "blockysize": 64},
        **{"compress": "deflate", "interleave": interleave},
    )
    result = run(Request(scene, tmp_path / "o.tif", adapt="moments"), model)
    plain = run(Request(scene, tmp_path / "p.tif"), model)
    assert result["decoded_bytes"] <= 2 * plain["decoded_bytes"]


def test_a_map_without_adapting_is_not_taken_for_one_with_it(
    model: ModelFile, masked_scene: Path, tmp_path: Path
) -> None:
    run(Request(masked_scene, tmp_path / "o.tif"), model)
    assert batch.finished_before(Request(masked_scene, tmp_path / "o.tif"), model)
    again = Request(masked_scene, tmp_path / "o.tif", adapt="moments")
    assert not batch.finished_before(again, model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"novelty": True}, "cannot tell --novelty: .* Train it again"),
        ({"adapt": "moments"}, "does not hold the mean of its training scene"),
    ],
)
def test_a_model_of_an_earlier_release_is_refused(
    options: dict[str, Any],
    message: str,
    document: ModelDocument,
    masked_scene: Path,
    tmp_path: Path,
    write_model: Callable[..., Path],
) -> None:
    old = read_model(write_model(tmp_path / "old.onnx", document))
    with pytest.raises(ModelFileError, match=message):
        run(Request(masked_scene, tmp_path / "o.tif", **options), old)
    assert (
        run(Request(masked_scene, tmp_path / "o.tif"), old)["training_distance"] is None
    )


def test_spectra_do_not_tell_the_moments_of_a_scene(
    known: ModelDocument,
    masked_scene: Path,
    tmp_path: Path,
    write_model: Callable[..., Path],
    invoke: Callable[..., Any],
) -> None:
    """Both doors refuse, and a plan; without --adapt the model is of use."""
    recipe = 'method = "lda"\n\n[data]\nspectra = [\n    "library.sli",\n]\n'
    provenance = replace(known.provenance, recipe=recipe)
    path = write_model(tmp_path / "s.onnx", replace(known, provenance=provenance))
    out = tmp_path / "o.tif"
    message = r"trained from spectra, .* Leave out --adapt\."
    with pytest.raises(ModelFileError, match=message):
        hsi_runtime.classify(masked_scene, path, out, adapt="moments")
    for more in ([], ["--dry-run"], ["--part", "0/2"]):
        command = masked_scene, "-m", path, "-o", out, "--adapt", "moments", *more
        refused = invoke(hsi_run, *command)
        assert refused.code == ModelFileError.exit_code
        assert re.search(message, refused.err)
    assert not out.exists()
    assert invoke(hsi_run, masked_scene, "-m", path, "-o", out).code == 0


def test_adapting_is_checked_for_both_doors(masked_scene: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="'mean' is not one of moments"):
        Request(masked_scene, tmp_path / "o.tif", adapt="mean")
    with pytest.raises(OptionError, match="no mean before its last line"):
        Request(masked_scene, tmp_path / "o.tif", adapt="moments", follow=Following())


def test_a_resumed_run_does_not_mix_fitted_bands_with_others(
    model: ModelFile, masked_scene: Path, tmp_path: Path
) -> None:
    backend = open_backend(model, "cpu")
    plans = []
    for adapt in (None, "moments"):
        request = Request(masked_scene, tmp_path / "o.tif", adapt=adapt)
        with contextlib.closing(request.open_scene()) as opened:
            plans.append(prepare(request, model, opened, lambda: backend))
    first, second = (json.dumps(plan.dependencies()) for plan in plans)
    assert first != second

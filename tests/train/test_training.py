import csv
import hashlib
import importlib.util
import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from scipy.io import savemat

from hsi_runtime.errors import EngineError, OutputError, RecipeError
from hsi_train import recipe
from hsi_train.fitting.progress import Epoch, Watch
from hsi_train.recipe import Recipe
from hsi_train.run_folder import checkpoint
from hsi_train.splitting import split
from hsi_train.training import train

WriteTif = Callable[..., Path]
Digests = Callable[[Path], dict[str, str]]

FILES = {
    "checkpoint.safetensors",
    "recipe.toml",
    "metrics.json",
    "confusion.csv",
    "split.tif",
    "history.csv",
    "report.html",
}
if importlib.util.find_spec("tensorboard"):
    FILES.add("tensorboard")
KEYS = {
    *("method", "seed", "classes", "overall_accuracy", "average_accuracy", "kappa"),
    *("per_class", "confusion", "counts", "receptive_field", "parameters", "seconds"),
}
OPTIONS = {"features": 4, "hidden": 8}


def asked(example: Any, **changes: Any) -> Recipe:
    content: dict[str, Any] = {
        "method": "mf2cnet",
        "seed": 1,
        "data": {"scenes": [str(example.scene)], "labels": [str(example.labels)]},
        "split": {"mode": "per-class", "samples_per_class": 8},
        "fit": {"epochs": 3, "batch": 12},
        "options": OPTIONS,
    }
    return recipe.parse(content | changes)


@pytest.fixture(scope="module")
def finished(
    example: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    run = tmp_path_factory.mktemp("runs") / "one"
    return run, train(asked(example), run, "cpu")


def test_run_folder_holds_what_is_promised(finished: tuple[Path, Any]) -> None:
    assert {p.name for p in finished[0].iterdir()} == FILES


def test_metrics(finished: tuple[Path, Any], example: Any) -> None:
    run, returned = finished
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(returned))
    assert metrics.keys() >= KEYS
    assert metrics["method"] == "mf2cnet"
    assert metrics["seed"] == 1
    assert metrics["receptive_field"] == 13
    assert metrics["classes"] == [
        {"code": 1, "name": "grass"},
        {"code": 2, "name": "bright_soil"},
        {"code": 3, "name": "water"},
    ]
    matrix = np.array(metrics["confusion"])
    counts = metrics["counts"]
    assert counts["train"] == 24
    assert counts["validation"] == 0
    assert counts["test"] == 1600 - 24 == matrix.sum()
    assert metrics["overall_accuracy"] == pytest.approx(matrix.trace() / matrix.sum())
    entry = metrics["per_class"][0]
    assert entry.keys() == {"code", "name", "recall", "precision", "f1", "support"}
    assert any("flattered" in w for w in metrics["warnings"])


def test_it_learns(example: Any, tmp_path: Path) -> None:
    fit = {"epochs": 25, "batch": 12}
    result = train(asked(example, fit=fit, options={}), tmp_path / "run", "cpu")
    assert result["overall_accuracy"] > 0.8  # an RBF-SVM reaches 0.90


def test_a_network_that_is_not_in_the_map_is_not_trained(
    example: Any, tmp_path: Path
) -> None:
    few = train(asked(example, fit={}, options={}), tmp_path / "run", "cpu")
    training = few["training"]
    assert (training["steps"], training["gate"]) == (0, 0.0)
    assert training["stop_reason"] == "left_out"
    assert any("the map is the linear path's" in text for text in few["warnings"])
    assert (tmp_path / "run/history.csv").read_text().count("\n") == 1
    # What is exported besides scores is the network's: it has to learn.
    unmixed = asked(example, method="s2vnet", fit={"budget": "1s"}, options={})
    assert train(unmixed, tmp_path / "unmixed", "cpu")["training"]["steps"] > 0
    alone = asked(example, fit={"linear_path": False, "budget": "1s"}, options={})
    assert train(alone, tmp_path / "alone", "cpu")["training"]["steps"] > 0


def test_tables(finished: tuple[Path, Any]) -> None:
    run, metrics = finished
    with (run / "confusion.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head[1:] == ["grass", "bright_soil", "water"] == [r[0] for r in rows]
    assert [[int(v) for v in r[1:]] for r in rows] == metrics["confusion"]
    with (run / "history.csv").open(newline="") as file:
        epochs = list(csv.DictReader(file))
    assert [e["epoch"] for e in epochs] == ["1", "2", "3"]
    assert all(float(e["loss"]) > 0 for e in epochs)
    assert {e["validation_kappa"] for e in epochs} == {""}


def test_split_raster_lies_on_the_scene(
    finished: tuple[Path, Any], example: Any
) -> None:
    with rasterio.open(finished[0] / "split.tif") as split:
        roles = split.read(1)
        with rasterio.open(example.scene) as scene:
            assert split.crs == scene.crs
            assert split.transform == scene.transform
            assert split.shape == scene.shape
    assert (roles == 1).sum() == 24
    assert (roles == 3).sum() == 1576


def test_split_raster_reproduces_the_run(
    finished: tuple[Path, Any], example: Any, tmp_path: Path
) -> None:
    run, metrics = finished
    files = {"mode": "file", "files": [str(run / "split.tif")]}
    again = train(asked(example, split=files), tmp_path / "again", "cpu")
    assert again["confusion"] == metrics["confusion"]


def test_recipe_is_complete_and_repeats_the_run(
    finished: tuple[Path, Any], tmp_path: Path
) -> None:
    run, _ = finished
    content = tomllib.loads((run / "recipe.toml").read_text())
    assert content["fit"].keys() >= {"epochs", "outputs", "batch", "learning_rate"}
    assert content["options"].keys() >= {"spectral_stride", "dropout", "features"}
    train(recipe.parse(content), tmp_path / "again", "cpu")
    name = "checkpoint.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes()


def test_checkpoint_describes_the_data(
    finished: tuple[Path, Any], example: Any
) -> None:
    run, metrics = finished
    loaded = checkpoint.load(run)
    described = loaded.description
    assert described.bands.source_count == 12
    assert described.bands.used == list(range(12))
    assert described.bands.wavelengths_nm is not None
    assert described.values.dtype == "uint16"
    assert described.values.scale == pytest.approx([1e-4] * 12)
    assert described.resolution_m == 8
    assert loaded.method.problem.class_counts.tolist() == [8, 8, 8]
    assert described.provenance.kappa == metrics["kappa"]
    assert described.provenance.data_sha256 == {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in (example.scene, example.labels)
    }
    with rasterio.open(example.scene) as scene:
        cube = scene.read()
    side = loaded.sample.shape[1:]
    assert loaded.sample.dtype == np.uint16
    found = [
        (r, c)
        for r in range(40 - side[0] + 1)
        for c in range(40 - side[1] + 1)
        if np.array_equal(cube[:, r : r + side[0], c : c + side[1]], loaded.sample)
    ]
    assert len(found) == 1


def test_a_resumed_run_took_what_its_first_part_took(
    example: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    def stop(_: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(asked(example), run, "cpu", watch=Watch(epoch=stop))
    state = torch.load(run / "resume.pt", weights_only=True)
    state["history"][0]["seconds"] = 5000.0
    torch.save(state, run / "resume.pt")
    assert 5000 < train(asked(example), run, "cpu", resume=True)["seconds"] < 9000


@pytest.mark.parametrize("stopped_after", [0, 1, 2])
def test_resumed_run_writes_the_same_checkpoint(
    finished: tuple[Path, Any], example: Any, tmp_path: Path, stopped_after: int
) -> None:
    run = tmp_path / "run"

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == stopped_after:
            raise KeyboardInterrupt

    def stop_at_once(*_: Any) -> None:
        if stopped_after == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(asked(example), run, "cpu", watch=Watch(epoch=stop, step=stop_at_once))
    with pytest.raises(OutputError, match="--resume goes on with it"):
        train(asked(example), run, "cpu")
    with pytest.raises(RecipeError, match=r"recipe\.toml differs"):
        train(asked(example, seed=2), run, "cpu", resume=True)
    (run / "resume.pt.0123abcd.part").write_bytes(b"of a run that was killed")
    train(asked(example), run, "cpu", resume=True)
    assert {p.name for p in run.iterdir()} == FILES
    name = "checkpoint.safetensors"
    assert (run / name).read_bytes() == (finished[0] / name).read_bytes()
    with pytest.raises(OutputError, match="no interrupted run to resume"):
        train(asked(example), run, "cpu", resume=True)


def test_existing_run_is_untouched(
    finished: tuple[Path, Any], example: Any, digests: Digests
) -> None:
    before = digests(finished[0])
    with pytest.raises(OutputError, match=r"not empty; --overwrite replaces"):
        train(asked(example), finished[0], "cpu")
    assert digests(finished[0]) == before


def test_overwrite_replaces_a_run_and_its_models(
    finished: tuple[Path, Any], example: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    for name in ("model.onnx", "model.stac.json", "model.fp16.onnx", "split_b.tif"):
        (run / name).write_text("of the old weights")
    result = train(asked(example, seed=9), run, "cpu", overwrite=True)
    assert result["seed"] == 9
    assert {p.name for p in run.iterdir()} == FILES


def test_overwrite_refuses_a_folder_that_is_no_run(
    example: Any, tmp_path: Path, digests: Digests
) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(OutputError, match="is no run of hsi-train"):
        train(asked(example), tmp_path, "cpu", overwrite=True)
    (tmp_path / "recipe.toml").write_text("method = 'mf2cnet'")
    before = digests(tmp_path)
    with pytest.raises(OutputError, match=r"holds thesis\.docx"):
        train(asked(example), tmp_path, "cpu", overwrite=True)
    assert digests(tmp_path) == before


def test_overwrite_refuses_to_delete_its_input(
    finished: tuple[Path, Any],
    example: Any,
    tmp_path: Path,
    digests: Digests,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    before = digests(run)
    files = {"mode": "file", "files": [str(run / "split.tif")]}
    with pytest.raises(OutputError, match=r"split\.tif is an input and lies in"):
        train(asked(example, split=files), run, "cpu", overwrite=True)
    assert digests(run) == before


def test_gpu_that_is_not_there(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(EngineError, match=r"no CUDA device.*--device cpu"):
        train(asked(example), tmp_path / "run", "cuda")
    assert not (tmp_path / "run").exists()


def test_disjoint_split_trains_with_validation(
    example: Any, tmp_path: Path, write_tif: WriteTif
) -> None:
    roles = np.full((40, 40), 4, dtype=np.uint8)
    roles[:10], roles[24:28], roles[36:] = 1, 2, 3
    path = write_tif(
        tmp_path / "roles.tif", roles, origin=(400_000.0, 5_800_000.0), step=8.0
    )
    files = {"mode": "file", "files": [str(path)]}
    wanted = asked(example, split=files, fit={"epochs": 2, "outputs": 16})
    result = train(wanted, tmp_path / "run", "cpu")
    assert result["counts"]["validation"] > 0
    assert result["counts"]["buffer"] > 0
    assert result["test_pixels_in_training_windows"] == 0
    assert result["best_epoch"] in (1, 2)


def test_scenes_of_one_name_keep_their_splits_and_checksums(
    example: Any, tmp_path: Path
) -> None:
    data: dict[str, list[str]] = {"scenes": [], "labels": []}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for key, path in (("scenes", example.scene), ("labels", example.labels)):
            data[key].append(str(shutil.copy(path, tmp_path / name)))
    with (tmp_path / "b" / "scene.tif").open("ab") as file:
        file.write(b"\0")  # another checksum
    run = tmp_path / "run"
    wanted = asked(example, data=data, fit={"epochs": 1})
    result = train(wanted, run, "cpu")
    splits = sorted(run.glob("split_*.tif"))
    assert len(splits) == 2
    drawn = 0
    for path in splits:
        with rasterio.open(path) as raster:
            drawn += int((raster.read(1) == 1).sum())
    assert drawn == result["counts"]["train"] == 24
    checksums = checkpoint.load(run).description.provenance.data_sha256
    assert len(checksums) == 4
    train(wanted, run, "cpu", overwrite=True)


def test_matlab_variables_are_trained_on_and_checksummed(
    example: Any, tmp_path: Path
) -> None:
    with rasterio.open(example.scene) as scene, rasterio.open(example.labels) as labels:
        savemat(tmp_path / "cube.mat", {"cube": scene.read().transpose(1, 2, 0)})
        savemat(tmp_path / "gt.mat", {"gt": labels.read(1)})
    data = {
        "scenes": [f"{tmp_path / 'cube.mat'}:cube"],
        "labels": [f"{tmp_path / 'gt.mat'}:gt"],
    }
    train(asked(example, data=data, fit={"epochs": 1}), tmp_path / "run", "cpu")
    described = checkpoint.load(tmp_path / "run").description
    assert described.provenance.data_sha256.keys() == {"cube.mat", "gt.mat"}
    assert described.bands.wavelengths_nm is None


def test_scene_smaller_than_the_receptive_field(
    tmp_path: Path, example: Any, write_tif: WriteTif
) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 3, (7, 9)).astype(np.uint8)
    cube = rng.integers(1, 99, (4, 7, 9)).astype(np.int16)
    data = {
        "scenes": [str(write_tif(tmp_path / "s.tif", cube))],
        "labels": [str(write_tif(tmp_path / "l.tif", codes))],
    }
    wanted = asked(example, data=data, fit={"epochs": 1, "batch": 5})
    train(wanted, tmp_path / "run", "cpu")
    assert checkpoint.load(tmp_path / "run").sample.shape == (4, 13, 13)


def striped(tmp_path: Path, write_tif: WriteTif, first: int, second: int) -> str:
    """Rows up to ``first`` train, up to ``second`` validate, the rest is test."""
    roles = np.full((40, 40), 3, dtype=np.uint8)
    roles[:first], roles[first:second] = 1, 2
    path = tmp_path / "striped.tif"
    return str(write_tif(path, roles, origin=(400_000.0, 5_800_000.0), step=8.0))


def test_probabilities_are_calibrated_on_validation_pixels(
    example: Any, tmp_path: Path, write_tif: WriteTif
) -> None:
    files = {"mode": "file", "files": [striped(tmp_path, write_tif, 10, 24)]}
    wanted = asked(example, split=files, fit={"epochs": 2, "outputs": 16})
    result = train(wanted, tmp_path / "run", "cpu")
    found = result["calibration"]
    assert found["pixels"] == result["counts"]["validation"] == 14 * 40
    assert sum(b["count"] for b in found["bins"]) == result["counts"]["test"]
    trained = checkpoint.load(tmp_path / "run")
    assert float(trained.method.probabilities.temperature) == pytest.approx(
        found["temperature"]
    )
    assert trained.description.reject_below == found["reject"]
    assert (found["temperature"] == 1) == (found["note"] is not None)
    assert not any("calibrate" in w for w in result["warnings"])


def test_sets_are_promised_by_validation_apart_from_training(
    example: Any, tmp_path: Path, write_tif: WriteTif, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"mode": "file", "files": [striped(tmp_path, write_tif, 10, 24)]}
    content = asked(
        example, split=files, method="lda", options={}, fit={}, rivals="none"
    )
    result = train(content, tmp_path / "run", "cpu")
    levels = checkpoint.load(tmp_path / "run").description.set_levels
    assert [one.level for one in levels] == [one["level"] for one in result["sets"]]
    assert [one["threshold"] for one in result["sets"]] == [
        one.threshold for one in levels
    ]
    assert levels
    monkeypatch.setattr(split, "hidden_neighbours", lambda *_: ["grass"])
    beside = train(content, tmp_path / "beside", "cpu")
    assert beside["sets"] == []
    assert checkpoint.load(tmp_path / "beside").description.set_levels == []


def test_no_calibration_without_validation_pixels(finished: tuple[Path, Any]) -> None:
    run, result = finished
    assert result["calibration"] is None
    assert any("too few to calibrate" in w for w in result["warnings"])
    trained = checkpoint.load(run)
    assert float(trained.method.probabilities.temperature) == 1
    assert trained.description.reject_below is None


def test_areas_of_a_random_sample(
    example: Any, tmp_path: Path, write_tif: WriteTif
) -> None:
    """The sample ends ten rows above the scene's edge; the map does not."""
    with rasterio.open(example.labels) as file:
        labels = file.read(1)
    labels[30:] = 0
    origin = {"origin": (400_000.0, 5_800_000.0), "step": 8.0}
    some = str(write_tif(tmp_path / "some.tif", labels, **origin))
    data = {"scenes": [str(example.scene)], "labels": [some]}
    roles = np.zeros((40, 40), np.uint8)
    roles[:10], roles[10:15], roles[15:30] = 1, 2, 3
    path = str(write_tif(tmp_path / "roles.tif", roles, **origin))
    drawn = {
        "mode": "file",
        "files": [path],
        "probability_sample": True,
    }
    fit = {"epochs": 10, "outputs": 4, "batch": 12}
    wanted = asked(example, data=data, split=drawn, fit=fit)
    result = train(wanted, tmp_path / "run", "cpu")
    assert result["counts"]["test"] == 15 * 40
    found = result["area_adjusted"]
    shares = [c["area_share"][0] for c in found["classes"]]
    assert sum(shares) == pytest.approx(1)
    areas = [c["area_m2"][0] for c in found["classes"]]
    assert sum(areas) == pytest.approx(40 * 40 * 8.0**2)  # the whole scene
    low, high = found["overall_accuracy"][1:]
    assert 0 <= low <= found["overall_accuracy"][0] <= high <= 1
    # The strata weigh by the map, not by the sample.
    assert found["overall_accuracy"][0] != pytest.approx(result["overall_accuracy"])


def test_areas_are_never_estimated_unasked(finished: tuple[Path, Any]) -> None:
    assert finished[1]["area_adjusted"] is None

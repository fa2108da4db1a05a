"""From a library to a map: spectra train, and the model maps a scene."""

import contextlib
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
from once import Once
from spectra_files import NAMES, braces, write_library, write_table

import hsi_train
from hsi_export.cli import main as hsi_export
from hsi_runtime.cli import main as hsi_run
from hsi_runtime.errors import HsiError, RecipeError, SceneError
from hsi_runtime.model.model_file import read_model
from hsi_train import api
from hsi_train.run_folder import checkpoint
from hsi_train.simulate import SceneSpec, band_centres, write_scene
from hsi_train.simulate.materials import variants

MATERIALS = ("grass", "bright_soil", "water", "asphalt")
CENTRES = np.arange(400.0, 2401.0, 2.0)


class Field(NamedTuple):
    """A library of four materials, and a scene of them that nobody labelled."""

    library: Path
    scene: Path
    truth: Path


def library_of(folder: Path, count: int) -> Path:
    """Draw spectra of each material over its range, with noise."""
    rng = np.random.default_rng(3)
    values = np.concatenate([variants(name, CENTRES, count) for name in MATERIALS])
    values += rng.normal(0, 0.004, values.shape)
    names = [f"{name}_{n:02}" for name in MATERIALS for n in range(count)]
    return write_library(
        folder,
        values.astype("<f4"),
        wavelength=braces(CENTRES.tolist()),
        spectra_names=braces(names),
    )


@pytest.fixture(scope="session")
def field(once: Once) -> Field:
    def build(folder: Path) -> None:
        library_of(folder, 24)
        spec = SceneSpec(
            rows=60,
            cols=60,
            wavelengths_nm=band_centres(40, 420.0, 2350.0),
            materials=MATERIALS,
            seed=8,
        )
        write_scene(spec, folder / "scene.tif", truth=folder / "truth.tif")
        classes = [{"code": n, "name": m} for n, m in enumerate(MATERIALS, start=1)]
        (folder / "classes.json").write_text(json.dumps(classes))

    folder = once("spectra", build)
    return Field(folder / "library.sli", folder / "scene.tif", folder / "truth.tif")


def test_library_to_map(
    field: Field, tmp_path: Path, cli: Callable[..., Any], invoke: Callable[..., Any]
) -> None:
    run, out = tmp_path / "run", tmp_path / "map.tif"
    trained = cli(
        *("lda", "--spectra", field.library, "--bands-of", field.scene, "-o", run),
        *("--classes", field.library.parent / "classes.json", "--json"),
        *("--target-scene", field.scene, "--target-labels", field.truth),
    )
    assert trained.code == 0, trained.err
    result = json.loads(trained.out)
    assert result["units"] == "spectra"
    assert result["counts"] == {
        "train": 64,
        "validation": 0,
        "test": 32,
        "buffer": 0,
    }
    assert result["overall_accuracy"] > 0.9
    assert result["receptive_field"] == 1
    # Without bearing changes of sensor and sky it would be 0.55; one class alone 0.6.
    assert result["target"]["overall_accuracy"] > 0.95
    with (run / "split.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["spectrum", "class", "role"]
    assert lines[1][:2] == ["grass_00", "grass"]
    assert sum(line[2] == "test" for line in lines) == 32
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "of the test spectra are right" in report

    assert invoke(hsi_export, run).code == 0
    values = read_model(run / "model.onnx").document.values
    assert (values.quantity, values.dtype) == ("reflectance", "float32")
    assert set(values.scale or []) == {1.0}
    mapped = invoke(hsi_run, field.scene, "-m", run / "model.onnx", "-o", out)
    assert mapped.code == 0, mapped.err
    with rasterio.open(out) as one, rasterio.open(field.truth) as other:
        right = (one.read(1) == other.read(1)).mean()
    assert right == pytest.approx(result["target"]["overall_accuracy"], abs=1e-3)
    assert invoke(hsi_run, "-m", run / "model.onnx", "--self-test").code == 0
    command = field.scene, "-m", run / "model.onnx", "-o", out, "--adapt", "moments"
    assert "trained from spectra" in invoke(hsi_run, *command, "--overwrite").err


def test_real_library(data_dir: Path, tmp_path: Path) -> None:
    """Berlin's materials, as published: no scale in the header, names tell classes."""
    library = data_dir / "envi" / "library_berlin.sli"
    data = {
        "spectra": [str(library)],
        "bands_of": str(data_dir / "enmap_potsdam" / "scene.tif"),
    }
    with pytest.raises(SceneError, match="does not state the scale"):
        hsi_train.train({"method": "lda", "data": data}, tmp_path / "run")
    run = hsi_train.train(
        {"method": "lda", "data": data | {"scale": 1e-4}}, tmp_path / "run"
    )
    names = {entry["name"] for entry in run.metrics["classes"]}
    assert {"red clay tile", "asphalt", "grass (dry)", "zinc"} <= names
    assert sum(run.metrics["counts"].values()) == 75
    # Of the six kinds with four spectra or more; chance is a fortieth.
    assert run.metrics["overall_accuracy"] > 0.3


def test_the_scene_of_the_bands_is_a_file_of_the_training(
    field: Field, tmp_path: Path
) -> None:
    settings = {
        "method": "lda",
        "data": {"spectra": [str(field.library)], "bands_of": str(field.scene)},
    }
    run = hsi_train.train(settings, tmp_path / "run")
    digests = checkpoint.load(run.folder).description.provenance.data_sha256
    assert field.scene.name in digests


def test_recipe_repeats_the_run(field: Field, tmp_path: Path) -> None:
    settings = {
        "method": "lda",
        "data": {"spectra": [str(field.library)], "bands_of": str(field.scene)},
    }
    first = hsi_train.train(settings, tmp_path / "first")
    again = hsi_train.train(first.folder / "recipe.toml", tmp_path / "again")
    names = ("checkpoint.safetensors", "split.csv", "confusion.csv", "recipe.toml")
    for name in names:
        one, other = ((run.folder / name).read_bytes() for run in (first, again))
        assert one == other


def test_folds_leave_a_model_of_all_spectra(field: Field, tmp_path: Path) -> None:
    run = api.train(
        {
            "method": "lda",
            "data": {"spectra": [str(field.library)], "bands_of": str(field.scene)},
            "split": {"mode": "folds", "folds": 3},
        },
        tmp_path / "run",
    )
    assert run.metrics["test_pixels"] == [32, 32, 32]
    assert run.metrics["overall_accuracy"]["mean"] > 0.9
    model = json.loads((run.folder / "model/metrics.json").read_text())
    assert model["counts"]["train"] == 96


def test_few_spectra_all_train_and_no_accuracy_is_told(
    tmp_path: Path, cli: Callable[..., Any], invoke: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    done = cli("lda", "--spectra", write_library(tmp_path), "-o", run)
    assert done.code == 0, done.err
    assert "All spectra train, and none tests" in done.err
    assert "all spectra train and no accuracy is measured" in done.err
    result = json.loads((run / "metrics.json").read_text())
    assert result["counts"]["train"] == len(NAMES)
    for key in ("overall_accuracy", "average_accuracy", "kappa"):
        assert result[key] is None
    assert "tested on none" in (run / "report.html").read_text(encoding="utf-8")
    assert invoke(hsi_export, run).code == 0
    described = invoke(hsi_run, "-m", run / "model.onnx", "--describe")
    assert "overall_accuracy: none" in described.out


def test_seeds_of_spectra_without_a_test(
    tmp_path: Path, cli: Callable[..., Any]
) -> None:
    library = write_library(tmp_path)
    run = tmp_path / "run"
    done = cli("lda", "--spectra", library, "--seeds", 2, "-o", run)
    assert done.code == 0, done.err
    assert "tested on nothing" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["mf2cnet", "s2vnet", "s2former", "s2amsnet"])
def test_methods_that_need_neighbours_refuse(tmp_path: Path, method: str) -> None:
    settings = {"method": method, "data": {"spectra": [str(write_library(tmp_path))]}}
    with pytest.raises(RecipeError, match=r"which spectra have not\. Train lda"):
        hsi_train.train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": {"spectra": []}}, "spectra must name a file"),
        ({"data": {"scenes": ["s.tif"]}}, "in place of scenes"),
        ({"data": {"dark": "d", "white": "w"}}, "in place of scenes"),
        ({"split": {"mode": "file", "files": ["s.tif"]}}, "grid of a scene"),
        ({"members": 2}, "members are trained on scenes"),
        ({"rivals": "all"}, "rivals 'all' see neighbours"),
        (
            {
                "data": {"group_field": "site"},
                "split": {"mode": "per-class", "samples_per_class": 2},
            },
            "which parts spectra of one object",
        ),
    ],
)
def test_what_belongs_to_scenes_is_refused(
    settings: dict[str, Any], message: str
) -> None:
    data = {"spectra": ["library.sli"]} | settings.get("data", {})
    with pytest.raises(RecipeError, match=message):
        hsi_train.train({"method": "lda"} | settings | {"data": data})


def test_what_belongs_to_spectra_is_refused_of_scenes() -> None:
    data = {"scenes": ["s.tif"], "labels": ["l.tif"], "scale": 1.0}
    with pytest.raises(RecipeError, match="need spectra"):
        hsi_train.train({"method": "lda", "data": data})


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_give_an_error_of_ours(tmp_path: Path, seed: int) -> None:
    """Bytes of each file are cut off, overwritten and doubled."""
    rng = np.random.default_rng(seed)
    library = write_library(tmp_path)
    table = write_table(tmp_path / "points.csv")
    for path in (library, library.with_suffix(".hdr"), table):
        whole = path.read_bytes()
        for number in range(4):
            raw = bytearray(whole)
            place = int(rng.integers(len(raw)))
            if number == 0:
                del raw[place:]
            elif number == 1:
                raw[place : place + 4] = rng.bytes(4)
            elif number == 2:
                raw[place:place] = raw[: len(raw) // 2]
            else:
                raw[place : place + 2] = b"\0,"
            path.write_bytes(raw)
            source = table if path == table else library
            data: dict[str, Any] = {"spectra": [str(source)]}
            if source == table:
                data["scale"] = 1.0
            with contextlib.suppress(HsiError):
                hsi_train.train(
                    {"method": "lda", "data": data}, tmp_path / "run", overwrite=True
                )
        path.write_bytes(whole)


def test_one_class_is_refused(tmp_path: Path) -> None:
    table = write_table(tmp_path / "p.csv", ["soil"] * 5)
    with pytest.raises(HsiError, match="training needs at least two"):
        hsi_train.train(
            {"method": "lda", "data": {"spectra": [str(table)], "scale": 1.0}},
            tmp_path / "run",
        )


def test_run_does_not_replace_the_spectra_it_reads(tmp_path: Path) -> None:
    run = hsi_train.train(
        {"method": "lda", "data": {"spectra": [str(write_library(tmp_path))]}},
        tmp_path / "run",
    )
    inside = write_table(run.folder / "split.csv")
    with pytest.raises(HsiError, match="is an input and lies in"):
        hsi_train.train(
            {"method": "lda", "data": {"spectra": [str(inside)], "scale": 1.0}},
            run.folder,
            overwrite=True,
        )

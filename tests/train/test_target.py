import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from safetensors.torch import load_file

from hsi_runtime.errors import BandMismatchError, OutputError, RecipeError, SceneError
from hsi_runtime.model.model_file import ClassEntry
from hsi_train import inputs, recipe, target
from hsi_train.data.labelled_scene import UNLABELLED
from hsi_train.fitting import trainer
from hsi_train.fitting.predict import Scorer
from hsi_train.fitting.statistics import describe_problem
from hsi_train.recipe import Recipe
from hsi_train.run_folder import checkpoint, description
from hsi_train.simulate import DomainShift, SceneSpec, band_centres, write_scene
from hsi_train.target import class_indices
from hsi_train.training import train

WriteTif = Callable[..., Path]
Cli = Callable[..., Any]
BANDS = 12


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Another place of the example's landscape, under another sky."""
    folder = tmp_path_factory.mktemp("target")
    spec = SceneSpec(
        rows=24,
        cols=30,
        wavelengths_nm=band_centres(BANDS),
        materials=("grass", "bright_soil", "water"),
        resolution_m=8.0,
        seed=5,
        origin_row=200,
        shift=DomainShift(gain=0.9, haze=0.01),
    )
    write_scene(spec, folder / "t.tif", truth=folder / "t_gt.tif")
    return folder / "t.tif", folder / "t_gt.tif"


def asked(example: Any, scenes: list[Any] | None = None, **changes: Any) -> Recipe:
    content: dict[str, Any] = {
        "method": "mf2cnet",
        "data": {"scenes": [str(example.scene)], "labels": [str(example.labels)]},
        "split": {"mode": "per-class", "samples_per_class": 8},
        "fit": {"epochs": 2, "batch": 12},
        "options": {"features": 8, "hidden": 16},
    }
    if scenes is not None:
        content["target"] = {"scenes": [str(scenes[0])], "labels": [str(scenes[1])]}
    return recipe.parse(content | changes)


@pytest.fixture(scope="module")
def runs(
    example: Any, other: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The same training without and with a target."""
    folder = tmp_path_factory.mktemp("runs")
    train(asked(example), folder / "without", "cpu")
    train(asked(example, list(other)), folder / "with", "cpu")
    return folder / "without", folder / "with"


def measured(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return found


def test_a_target_changes_no_weight(runs: tuple[Path, Path]) -> None:
    without, with_target = (load_file(r / checkpoint.FILE_NAME) for r in runs)
    assert without.keys() == with_target.keys()
    for name, tensor in without.items():
        assert torch.equal(tensor, with_target[name]), name
    ours, theirs = (checkpoint.load(run).description for run in runs)
    assert "[target]" in theirs.provenance.recipe
    assert ours.provenance.data_sha256 == theirs.provenance.data_sha256
    assert ours.values == theirs.values


def test_metrics_of_the_target(runs: tuple[Path, Path]) -> None:
    without, with_target = map(measured, runs)
    found = with_target.pop("target")
    assert "target" not in without
    assert with_target["confusion"] == without["confusion"]
    matrix = np.array(found["confusion"])
    assert matrix.sum() == 24 * 30 == found["counts"]["compared"]
    assert found["overall_accuracy"] == pytest.approx(matrix.trace() / matrix.sum())
    assert found["largest_class_share"] == pytest.approx(
        matrix.sum(axis=1).max() / matrix.sum()
    )
    assert found.keys() >= {"average_accuracy", "kappa", "per_class", "warnings"}


def test_the_report_compares_source_and_target(runs: tuple[Path, Path]) -> None:
    without, page = ((run / "report.html").read_text() for run in runs)
    assert "Source and target" not in without
    assert "Source and target" in page
    share = measured(runs[1])["target"]["overall_accuracy"]
    assert f"<td>{100 * share:.2f} %</td>" in page
    for title in ("Labels", "Class map", "Confidence"):
        assert f'alt="{title} of t.tif"' in page
    assert 'alt="Split of t.tif"' not in page


def test_the_target_is_classified_as_hsi_run_does(
    runs: tuple[Path, Path], other: tuple[Path, Path], tmp_path: Path
) -> None:
    from hsi_export.exporting import export
    from hsi_runtime.model.model_file import read_model
    from hsi_runtime.pipeline import run
    from hsi_runtime.request import Request
    from hsi_train.measuring.accuracy import compare

    export(runs[1], tmp_path / "model.onnx")
    model = read_model(tmp_path / "model.onnx")
    class_map = tmp_path / "map.tif"
    run(Request(other[0], class_map), model)
    expected = compare(class_map, other[1])
    found = measured(runs[1])["target"]
    assert found["overall_accuracy"] == pytest.approx(expected["overall_accuracy"])
    assert found["kappa"] == pytest.approx(expected["kappa"])


def target_of(
    example: Any, tmp_path: Path, write_tif: WriteTif, **changes: Any
) -> tuple[Any, Path]:
    """Write the example as another file, and check it as a target of itself."""
    with rasterio.open(example.scene) as scene:
        cube, tags = scene.read(), [scene.tags(b + 1) for b in range(BANDS)]
        scales, offsets = scene.scales, scene.offsets
    with rasterio.open(example.labels) as labels:
        codes = labels.read(1)
    cube, codes = changes.pop("edit", lambda *both: both)(cube, codes)
    wanted = asked(example)
    path = write_tif(tmp_path / "t.tif", cube, tags=changes.pop("tags", tags))
    with rasterio.open(path, "r+") as file:
        file.scales = changes.pop("scales", scales)
        file.offsets = offsets[: len(cube)]
    labels_path = write_tif(tmp_path / "gt.tif", codes)
    data = inputs.divide(wanted, inputs.read_data(wanted, 6), 13)
    problem = describe_problem(data)
    names = {"classes": changes.pop("classes", None)}
    found = target.check(
        recipe.Target(scenes=(str(path),), labels=(str(labels_path),), **names),
        wanted.data,
        description.bands_of(data),
        description.values_of(wanted, data, problem),
        data.classes,
    )
    return found, path


class Oracle(torch.nn.Module):
    """Scores the three classes by the first three bands, whatever the halo."""

    def forward(self, cube: torch.Tensor) -> torch.Tensor:
        return cube[:, :3, 6:-6, 6:-6]


def marked(cube: Any, codes: Any) -> tuple[Any, Any]:
    """Write each pixel's class into its first three bands."""
    cube = cube.copy()
    cube[:3] = 10 + 100 * (codes == np.arange(1, 4)[:, None, None])
    return cube, codes


def measure(found: Any) -> dict[str, Any]:
    return target.measure(
        found,
        Scorer(
            network=Oracle(),
            fill=np.array(found.values.fill),
            halo=6,
            device=torch.device("cpu"),
        ),
    )


def test_every_pixel_meets_its_own_label(
    example: Any, tmp_path: Path, write_tif: WriteTif
) -> None:
    found, _ = target_of(example, tmp_path, write_tif, edit=marked)
    result = measure(found)
    assert result["overall_accuracy"] == 1
    assert result["counts"]["compared"] == 1600


def test_scale_is_converted(example: Any, tmp_path: Path, write_tif: WriteTif) -> None:
    with rasterio.open(example.scene) as scene:
        doubled = tuple(2 * s for s in scene.scales)
    found, path = target_of(example, tmp_path, write_tif, scales=doubled)
    scene = target.read(found, str(path), found.scenes[0][1], 6)
    with rasterio.open(example.scene) as plain:
        np.testing.assert_allclose(scene.cube, 2.0 * plain.read(), rtol=1e-5)


def test_bands_are_matched_by_wavelength(
    example: Any, tmp_path: Path, write_tif: WriteTif
) -> None:
    with rasterio.open(example.scene) as scene:
        tags = [scene.tags(b + 1) for b in range(BANDS)]
    found, path = target_of(
        example,
        tmp_path,
        write_tif,
        edit=lambda cube, codes: (cube[::-1], codes),
        tags=tags[::-1],
    )
    scene = target.read(found, str(path), found.scenes[0][1], 6)
    with rasterio.open(example.scene) as plain:
        np.testing.assert_array_equal(scene.cube, plain.read())


def test_missing_bands_are_refused(
    example: Any, tmp_path: Path, write_tif: WriteTif
) -> None:
    with rasterio.open(example.scene) as scene:
        tags = [scene.tags(b + 1) for b in range(BANDS)]
    with pytest.raises(BandMismatchError, match=r"t\.tif has 6 bands"):
        target_of(
            example,
            tmp_path,
            write_tif,
            edit=lambda cube, codes: (cube[:6], codes),
            tags=tags[:6],
            scales=(1e-4,) * 6,
        )


def test_nodata_and_unknown_classes_do_not_count(
    example: Any, tmp_path: Path, write_tif: WriteTif
) -> None:
    def edit(cube: Any, codes: Any) -> tuple[Any, Any]:
        cube, codes = marked(cube, codes)
        codes = np.where(codes == 2, 9, codes)  # a class of another name
        codes[:5] = 0
        cube[7, 5:8, :10] = 65535  # saturated
        return cube, codes

    names = tmp_path / "names.json"
    names.write_text('{"1": "grass", "3": "water", "9": "lava"}')
    found, _ = target_of(example, tmp_path, write_tif, edit=edit, classes=str(names))
    result = measure(found)
    counts = result["counts"]
    with rasterio.open(example.labels) as labels:
        codes = labels.read(1)[5:]
    known = int((codes != 2).sum())
    lost = int((codes[:3, :10] != 2).sum())
    assert lost
    assert counts == {
        "labelled": 35 * 40,
        "unknown_class": int((codes == 2).sum()),
        "nodata": lost,
        "compared": known - lost,
    }
    assert result["overall_accuracy"] == 1
    assert result["per_class"][1]["recall"] is None
    said = " ".join(result["warnings"])
    assert "unknown to the source: lava" in said
    assert "absent in the target: bright_soil" in said


def test_wild_values_are_missing_ones_and_told(
    example: Any, tmp_path: Path, write_tif: WriteTif
) -> None:
    def edit(cube: Any, codes: Any) -> tuple[Any, Any]:
        cube, codes = marked(cube, codes)
        cube = cube.astype(np.float32)
        cube[7, 5, :10] = 9.96921e36  # netCDF's fill value, which nothing declares
        return cube, codes

    found, _ = target_of(example, tmp_path, write_tif, edit=edit)
    result = measure(found)
    assert result["counts"]["nodata"] == 10
    assert result["counts"]["compared"] == 1590
    assert "10 pixel(s) of t.tif hold values a million" in result["warnings"][-1]


def test_classes_match_by_name_else_by_code() -> None:
    def infos(*pairs: tuple[int, str]) -> list[ClassEntry]:
        return [
            ClassEntry(code=code, name=name, color="#000000") for code, name in pairs
        ]

    source = infos((1, "grass"), (2, "soil"), (3, "3"))
    swapped = infos((1, "soil"), (2, "grass"), (3, "lava"))
    assert class_indices(swapped, source) == {1: 1, 2: 0, 3: 2}
    nameless = infos((1, "1"), (2, "2"), (7, "7"))
    assert class_indices(nameless, source) == {1: 0, 2: 1, 7: UNLABELLED}
    other_names = infos((1, "sand"), (2, "rock"))
    assert class_indices(other_names, source) == {1: UNLABELLED, 2: UNLABELLED}


def test_labels_without_a_known_class_are_refused(
    example: Any, tmp_path: Path, write_tif: WriteTif
) -> None:
    names = tmp_path / "names.json"
    names.write_text('{"1": "lava", "2": "sand", "3": "rock"}')
    with pytest.raises(SceneError, match=r"lava.*source's \(grass, bright_soil"):
        target_of(example, tmp_path, write_tif, classes=str(names))


def test_labels_that_are_empty_are_refused(
    example: Any, tmp_path: Path, write_tif: WriteTif
) -> None:
    with pytest.raises(SceneError, match="No labelled pixel in 1 target"):
        target_of(example, tmp_path, write_tif, edit=lambda cube, c: (cube, 0 * c))


def test_a_target_that_is_nodata_is_refused(
    example: Any, tmp_path: Path, write_tif: WriteTif
) -> None:
    found, _ = target_of(
        example, tmp_path, write_tif, edit=lambda cube, c: (0 * cube + 65535, c)
    )
    with pytest.raises(SceneError, match="target is nodata"):
        measure(found)


def test_a_bad_target_costs_no_training(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("trained before the target was checked")

    monkeypatch.setattr(trainer.Trainer, "run", never)
    wanted = asked(example, [tmp_path / "none.tif", example.labels])
    with pytest.raises(SceneError, match=r"none\.tif"):
        train(wanted, tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()


def test_overwriting_spares_the_target(example: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").write_text("")
    scene = run / "model.tif"
    scene.write_bytes(example.scene.read_bytes())
    with pytest.raises(OutputError, match="is an input"):
        train(asked(example, [scene, example.labels]), run, "cpu", overwrite=True)
    assert scene.is_file()


def test_recipe_needs_scenes_and_labels(example: Any) -> None:
    with pytest.raises(RecipeError, match="labels"):
        asked(example, target={"scenes": ["a.tif"], "labels": []})
    wanted = asked(example, ["a.tif", "b.tif"])
    import tomllib

    assert recipe.parse(tomllib.loads(recipe.dump(wanted))) == wanted


def test_command_line(
    cli: Cli, example: Any, other: tuple[Path, Path], tmp_path: Path
) -> None:
    start = ("mf2cnet", "--scene", example.scene, "--labels", example.labels)
    tiny = (
        *("--set", "options.features=4", "--set", "options.hidden=4", "-o"),
        *(tmp_path / "run", "--samples-per-class", 6, "--epochs", 1),
    )
    missing = cli(*start, *tiny, "--target-scene", other[0])
    assert missing.code == 2
    assert "Missing --target-labels" in missing.err
    files = ("--target-scene", other[0], "--target-labels", other[1])
    done = cli(*start, *tiny, *files)
    assert done.code == 0, done.err
    assert "Target: overall accuracy" in done.err
    assert measured(tmp_path / "run")["target"]["counts"]["compared"] == 720

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from hsi_train import recipe, target
from hsi_train.data import loading, matlab
from hsi_train.data.labelled_scene import UNLABELLED
from hsi_train.data.roles import Role
from hsi_train.fitting.statistics import describe_problem
from hsi_train.inputs import divide, read_data
from hsi_train.run_folder.description import bands_of, values_of
from hsi_train.splitting import split
from hsi_train.splitting.blocks import spatial
from hsi_train.training import train

Cli = Callable[..., Any]

HALO = 6
GENERA = {
    *("Acer", "Amelanchier", "Betula", "Carya", "Fagus", "Liriodendron", "Magnolia"),
    *("Nyssa", "Oxydendrum", "Pinus", "Prunus", "Quercus", "Robinia", "Tsuga"),
}


@pytest.fixture(autouse=True)
def real_data(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HSI_DATA", str(data_dir))


def shipped(name: str) -> recipe.Recipe:
    return recipe.parse(recipe.load(name))


def test_salinas_a_is_read_from_its_matlab_files(data_dir: Path) -> None:
    info = matlab.open_cube(str(data_dir / "salinas_a/SalinasA_corrected.mat")).info
    assert (info.bands, info.rows, info.cols) == (204, 83, 86)
    data = read_data(shipped("salinas_a-mf2cnet"), HALO)
    assert [c.code for c in data.classes] == [1, 10, 11, 12, 13, 14]
    assert sum(data.counts()) == 5348
    assert len(data.bands) == 204
    with np.load(data_dir / "gt_and_splits.npz") as published:
        codes = published["salinas_a_gt"]
    (scene,) = data.scenes
    found = np.zeros(codes.shape, dtype=int)
    rows, cols = scene.classes.shape
    known = np.array([*(c.code for c in data.classes), 0])
    found[scene.row : scene.row + rows, scene.col : scene.col + cols] = known[
        scene.classes
    ]
    np.testing.assert_array_equal(found, codes)


def test_salinas_a_ten_per_class(data_dir: Path) -> None:
    wanted = shipped("salinas_a-mf2cnet")
    data = read_data(wanted, HALO)
    counts = divide(wanted, data, 13).pixels_by_role()
    assert counts[:, Role.TRAIN].tolist() == [10] * 6
    assert counts[:, Role.TEST].sum() == 5288


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("samples", [2, 10])
def test_salinas_a_trains_one_epoch(cli: Cli, tmp_path: Path, samples: int) -> None:
    run = tmp_path / "run"
    done = cli(
        "salinas_a-mf2cnet", "-o", run, "-q", "--device", "cpu", "--epochs", "1",
        "--samples-per-class", samples, "--set", "options.spectral_stride=16",
        "--set", "options.features=4",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert (run / "report.html").is_file()
    with rasterio.open(run / "split.tif") as raster:
        assert raster.shape == (83, 86)
        assert (raster.read(1) == 1).sum() == 6 * samples


def test_enmap_potsdam(data_dir: Path) -> None:
    wanted = shipped("enmap_potsdam-mf2cnet")
    data = read_data(wanted, HALO)
    assert data.reference.bands == 224
    assert len(data.bands) == 218
    assert [c.name for c in data.classes] == [
        "roof", "pavement", "low vegetation", "tree", "soil", "water",
    ]  # fmt: skip
    assert sum(data.counts()) == 5672
    assert data.reference.scale is not None
    np.testing.assert_allclose(data.reference.scale, 1e-4)
    assert data.reference.resolution_m == 30
    assert data.reference.wavelengths_nm is not None
    data = divide(wanted, data, 13)
    counts = data.pixels_by_role().sum(axis=0)
    assert counts[[Role.TRAIN, Role.VALIDATION, Role.TEST]].tolist() == [
        3806, 1206, 660,
    ]  # fmt: skip
    problem = describe_problem(data)
    assert problem.band_mean.isfinite().all()
    assert (problem.band_std > 1).all()


def test_enmap_potsdam_disjoint_split_serves_every_class() -> None:
    data = read_data(shipped("enmap_potsdam-mf2cnet"), HALO)
    data = spatial(data, 13, 0)
    counts = data.pixels_by_role()
    assert counts[:, Role.TRAIN].all()
    assert counts[:, Role.TEST].all()
    assert split.seen_in_training(data, HALO)[0] == 0


def test_neon_crowns_by_genus(data_dir: Path) -> None:
    plots = sorted(str(p) for p in (data_dir / "neon_trees/scenes").glob("MLBS_*.tif"))
    crowns = str(data_dir / "neon_trees/crowns_MLBS.gpkg")
    data = loading.load(plots, [crowns], HALO, "genus")
    assert {c.name for c in data.classes} <= GENERA
    assert {"Quercus", "Acer", "Nyssa"} <= {c.name for c in data.classes}
    assert len(data.classes) >= 12
    assert len(plots) == 46
    assert len(data.scenes) > 40
    for scene in data.scenes:
        assert scene.cube.shape == (len(data.bands), *scene.classes.shape)
        assert max(scene.classes.shape) <= 20
        assert (scene.classes != UNLABELLED).any()
    largest = max(zip(data.counts(), data.classes, strict=True))
    assert largest[1].name == "Quercus"


def test_neon_recipe_reads_its_folder() -> None:
    data = read_data(shipped("neon_mlbs-mf2cnet"), HALO)
    assert all(s.info.path.name.startswith("MLBS") for s in data.scenes)
    assert "Fagus" not in {c.name for c in data.classes}
    assert any("no labelled pixel" in w and "OSBS" in w for w in data.warnings)


def test_neon_sites_share_four_genera() -> None:
    wanted = shipped("neon_mlbs_osbs-s2amsnet")
    data = read_data(wanted, 9)
    assert [c.name for c in data.classes] == ["Acer", "Nyssa", "Pinus", "Quercus"]
    data = divide(wanted, data, 19)
    problem = describe_problem(data)
    assert wanted.target is not None
    target_data = target.check(
        wanted.target,
        wanted.data,
        bands_of(data),
        values_of(wanted, data, problem),
        data.classes,
    )
    assert all("OSBS" in path for path, _ in target_data.scenes)
    used = np.concatenate(
        [index[index != UNLABELLED] for _, index in target_data.scenes]
    )
    assert np.bincount(used).argmax() == 2  # Pinus, where the source has Quercus
    assert len(np.unique(used)) == 4
    assert any("unknown to the source: Gordonia" in w for w in target_data.warnings)


def test_neon_crowns_of_the_other_site_lie_elsewhere(
    cli: Cli, data_dir: Path, tmp_path: Path
) -> None:
    done = cli(
        "mf2cnet", "--scene", data_dir / "neon_trees/scenes/MLBS_1.tif",
        "--labels", data_dir / "neon_trees/crowns_OSBS.gpkg",
        "--label-field", "genus", "-o", tmp_path / "run",
    )  # fmt: skip
    assert done.code == 3
    assert "No labelled pixel" in done.err
    assert not (tmp_path / "run").exists()


def test_recipe_without_the_data_says_which_variable(
    monkeypatch: pytest.MonkeyPatch, cli: Cli, tmp_path: Path
) -> None:
    monkeypatch.delenv("HSI_DATA")
    done = cli("salinas_a-mf2cnet", "-o", tmp_path / "run")
    assert done.code == 4
    assert "$HSI_DATA" in done.err


def test_training_twice_gives_the_same_checkpoint(tmp_path: Path) -> None:
    content = recipe.load("salinas_a-mf2cnet")
    content["fit"] = {"epochs": 1}
    content["options"] = {"spectral_stride": 16, "features": 4}
    for name in ("one", "two"):
        train(recipe.parse(content), tmp_path / name, "cpu")
    one, two = (
        (tmp_path / name / "checkpoint.safetensors").read_bytes()
        for name in ("one", "two")
    )
    assert one == two

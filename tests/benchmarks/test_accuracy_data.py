from dataclasses import replace
from pathlib import Path

import accuracy_data
import numpy as np
import pytest
import rasterio
from labelled import labelled_data, labelled_scene
from scipy.io import loadmat, savemat
from scipy.spatial.distance import cdist

from hsi_runtime.errors import RecipeError, SceneError
from hsi_train import methods, recipe
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.inputs import read_data
from hsi_train.methods import names
from hsi_train.splitting import split


def striped(side: int = 90, row: int = 0, col: int = 0) -> LabelledData:
    """Three classes as stripes that the diagonals cut, some pixels unlabelled."""
    rows, cols = np.indices((side, side))
    classes = ((rows + row + cols + col) // 8 % 3).astype(np.int16)
    classes[np.random.default_rng(0).random(classes.shape) < 0.2] = -1
    return labelled_data(3, labelled_scene(classes, row, col))


def nearest(data: LabelledData, seed: int = 0) -> tuple[np.ndarray, float]:
    """Return roles and the smallest distance of training and test pixels."""
    roles = accuracy_data.across_the_stripes(data, seed).scenes[0].roles
    train, test = (np.argwhere(roles == r) for r in (Role.TRAIN, Role.TEST))
    return roles, float(cdist(train, test, "chebyshev").min())


def test_no_window_of_any_method_reaches_across() -> None:
    every = [methods.method_class(name).receptive_field for name in names()]
    assert max(every) <= accuracy_data.RECEPTIVE_FIELD
    # Windows at this distance share no pixel: not even their edges meet.
    for seed in range(20):
        assert nearest(striped(), seed)[1] >= accuracy_data.RECEPTIVE_FIELD


def test_a_narrower_gap_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy_data, "TEST_FROM", accuracy_data.TEST_FROM - 1)
    found = [nearest(striped(), seed)[1] for seed in range(20)]
    assert min(found) < accuracy_data.RECEPTIVE_FIELD


def test_ten_of_each_class_train_and_the_far_side_tests() -> None:
    data = striped()
    roles, _ = nearest(data)
    counts = data.divided([roles]).pixels_by_role()
    assert counts[:, Role.TRAIN].tolist() == [10] * 3
    assert (counts[:, Role.TEST] > 100).all()
    assert (counts[:, Role.BUFFER] > 100).all()
    labelled = data.scenes[0].classes >= 0
    np.testing.assert_array_equal(roles == Role.NONE, ~labelled)
    rows, cols = np.indices(roles.shape)
    far = cols - rows >= accuracy_data.TEST_FROM
    np.testing.assert_array_equal(roles == Role.TEST, far & labelled)


def test_few_pixels_of_each_class_train_and_the_test_stays() -> None:
    data = striped()
    (roles,) = accuracy_data.across_the_stripes(data, 0, samples=40).scenes
    held_out = np.where(roles.roles == Role.BUFFER, Role.VALIDATION, roles.roles)
    whole = data.divided([held_out])
    drawn = [accuracy_data.with_few(whole, 5, s).scenes[0].roles for s in (0, 0, 1)]
    counts = data.divided(drawn[:1]).pixels_by_role()
    assert counts[:, Role.TRAIN].tolist() == [5] * 3
    assert not counts[:, [Role.VALIDATION, Role.BUFFER]].any()
    for found in drawn:
        np.testing.assert_array_equal(found == Role.TEST, roles.roles == Role.TEST)
        assert (roles.roles[found == Role.TRAIN] == Role.TRAIN).all()
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_seeds_draw_other_training_pixels_for_the_same_test() -> None:
    one, two = (nearest(striped(), seed)[0] for seed in (0, 1))
    np.testing.assert_array_equal(one == Role.TEST, two == Role.TEST)
    assert not np.array_equal(one == Role.TRAIN, two == Role.TRAIN)
    np.testing.assert_array_equal(one, nearest(striped(), 0)[0])


def test_the_diagonal_is_that_of_the_whole_scene() -> None:
    whole, part = striped(90), striped(70, row=20, col=20)
    rows, cols = np.indices((70, 70))
    roles, _ = nearest(part)
    np.testing.assert_array_equal(
        roles == Role.TEST,
        (cols - rows >= accuracy_data.TEST_FROM) & (part.scenes[0].classes >= 0),
    )
    shifted = striped(70, row=0, col=20)
    moved = accuracy_data.across_the_stripes(shifted, 0).scenes[0].roles
    assert (moved == Role.TEST).sum() > (roles == Role.TEST).sum()
    assert whole.scenes[0].row == 0


def test_a_class_on_one_side_only_is_refused() -> None:
    data = striped()
    (scene,) = data.scenes
    rows, cols = np.indices(scene.classes.shape)
    classes = scene.classes.copy()
    classes[(classes == 2) & (cols > rows)] = -1
    with pytest.raises(SceneError, match=r"No test pixel of 1 class"):
        accuracy_data.across_the_stripes(
            replace(data, scenes=[replace(scene, classes=classes)]), 0
        )
    classes = scene.classes.copy()
    classes[(classes == 2) & (cols < rows)] = -1
    with pytest.raises(SceneError, match=r"class 3 has 0"):
        accuracy_data.across_the_stripes(
            replace(data, scenes=[replace(scene, classes=classes)]), 0
        )


def test_a_method_that_sees_further_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accuracy_data.check_receptive_field("mf2cnet")
    monkeypatch.setattr(accuracy_data, "RECEPTIVE_FIELD", 11)
    with pytest.raises(RecipeError, match=r"mf2cnet sees 13 pixels.* made for 11"):
        accuracy_data.check_receptive_field("mf2cnet")


@pytest.fixture
def real_data(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HSI_DATA", str(data_dir))


@pytest.mark.usefixtures("real_data")
def test_salinas_a_keeps_every_class_on_both_sides() -> None:
    data = read_data(recipe.parse(recipe.load("salinas_a-mf2cnet")), 9)
    roles, distance = nearest(data)
    assert distance >= 19
    counts = data.divided([roles]).pixels_by_role()
    assert counts[:, Role.TRAIN].tolist() == [10] * 6
    assert counts[:, Role.TEST].tolist() == [21, 156, 248, 672, 221, 184]


@pytest.mark.parametrize("bands", [6, 9])
def test_simulated_scenes_are_labelled_in_spots(
    bands: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy_data, "SIDE", 100)
    materials = ("grass", "bright_soil", "crop")
    scene = accuracy_data.simulated(bands, materials, 1)
    content = scene.content(tmp_path)
    data = read_data(recipe.parse(content | {"method": "lda"}), 4)
    assert len(data.bands) == bands
    assert [c.name for c in data.classes] == list(materials)
    assert all(100 < n <= 9 * accuracy_data.SPOTS for n in data.counts())
    before = [p.read_bytes() for p in sorted(tmp_path.iterdir())]
    assert scene.content(tmp_path) == content
    assert [p.read_bytes() for p in sorted(tmp_path.iterdir())] == before


def test_another_rounding_of_a_simulated_scene_is_no_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy_data, "SIDE", 100)
    materials = ("grass", "bright_soil", "crop")

    def digest(folder: str, bands: int = 6, seed: int = 1) -> str:
        scene = accuracy_data.simulated(bands, materials, seed)
        monkeypatch.setitem(accuracy_data.DATA_SETS, "tiny", scene)
        found = accuracy_data.divisions("tiny", range(1), tmp_path / folder)
        return found[0].digest

    first = digest("a")
    with rasterio.open(tmp_path / "a" / "tiny" / "scene.tif", "r+") as file:
        file.write(file.read(1) + 1, 1)
    assert digest("a") == first
    assert len({first, digest("b", bands=7), digest("c", seed=2)}) == 3


def test_published_splits_of_indian_pines(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts are published; the label map without the cube gives the mask's."""
    monkeypatch.setenv("HSI_DATA", str(data_dir))
    monkeypatch.setenv("HSI_BENCHMARKS", str(tmp_path))
    maps = np.load(data_dir / "gt_and_splits.npz")
    truth = {"indian_pines_gt": maps["indian_pines_gt"]}
    savemat(tmp_path / "Indian_pines_gt.mat", truth)
    train, test = maps["indian_gcn_tr"], maps["indian_gcn_te"]
    savemat(tmp_path / "IndianPine.mat", {"TR": train, "TE": test})
    found = {}
    for write in (
        accuracy_data.indian_pines_fixed,
        accuracy_data.indian_pines_disjoint,
    ):
        (path,) = (
            Path(p.rpartition(":")[0]) for p in write(tmp_path)["split"]["files"]
        )
        # Keys of finished trainings hold the hash of the file: it must not change.
        assert path.read_bytes()[:116].strip() == b"MATLAB 5.0 MAT-file"
        content = loadmat(path)
        roles, labels = content["roles"], content["labels"]
        assert len(np.unique(labels)) == 17
        np.testing.assert_array_equal(roles > 0, labels > 0)
        found[path.stem] = [(roles == r).sum() for r in (Role.TRAIN, Role.TEST)]
        if path.stem == "disjoint":
            both = (labels > 0) & (maps["indian_pines_gt"] > 0)
            assert (labels[both] == maps["indian_pines_gt"][both]).mean() > 0.998
    assert found == {"fixed": [695, 9671], "disjoint": [5689, 4711]}


@pytest.mark.usefixtures("real_data")
def test_every_data_set_divides(tmp_path: Path) -> None:
    for name, data_set in accuracy_data.DATA_SETS.items():
        if data_set.needs != "HSI_DATA":
            continue
        found = accuracy_data.divisions(name, range(2), tmp_path)
        files = [Path(p) for s in (0, 1) for p in found[s].split["files"]]
        assert all(p.is_file() for p in files)
        given = name == "enmap_potsdam"  # one split for all seeds
        assert (found[0].digest == found[1].digest) is given
        again = accuracy_data.divisions(name, range(1), tmp_path / "again")
        assert again[0].digest == found[0].digest
        for division in found.values():
            content = {"method": "mf2cnet", "data": division.data}
            parsed = recipe.parse(content | {"split": division.split})
            data = read_data(parsed, 6)
            data = split.from_files(data, division.split["files"])
            counts = data.pixels_by_role()
            assert counts[:, Role.TRAIN].all()
            dry = name.startswith("enmap_potsdam")  # no water in EnMAP's test tiles
            untested = int((counts[:, Role.TEST] == 0).sum())
            assert untested == (1 if dry else 0)
            if name == "neon_mlbs":
                assert split.seen_in_training(data, 9)[0] == 0

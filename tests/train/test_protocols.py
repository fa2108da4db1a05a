"""The recipes of the standard benchmarks, on simulated files.

The scenes themselves are not here: files of the published names hold random cubes under
the published labels, or small scenes with all bands and classes. No accuracy is tested.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from hsi_runtime.errors import SceneError
from hsi_train import recipe
from hsi_train.data.roles import Role
from hsi_train.inputs import divide, read_data

Array = NDArray[Any]


class Layout(NamedTuple):
    """Files of a benchmark: name, and the arrays in it with their meaning."""

    files: dict[str, dict[str, str]]
    bands: int
    classes: int


IP = {"Indian_pines_corrected.mat": {"indian_pines_corrected": "cube"}}
PU = {"PaviaU.mat": {"paviaU": "cube"}}
MAPS = {"TR": "train", "TE": "test"}


def two_maps(folder: str) -> dict[str, dict[str, str]]:
    return {
        f"{folder}/data_HS_LR.mat": {"data_HS_LR": "cube"},
        f"{folder}/TrainImage.mat": {"TrainImage": "train"},
        f"{folder}/TestImage.mat": {"TestImage": "test"},
    }


LAYOUTS = {
    "indian_pines-fixed": Layout(IP | {"IndianPine.mat": MAPS}, 200, 16),
    "indian_pines-few": Layout(
        IP | {"Indian_pines_gt.mat": {"indian_pines_gt": "labels"}}, 200, 16
    ),
    "pavia_university-fixed": Layout(PU | {"Pavia.mat": MAPS}, 103, 9),
    "pavia_university-few": Layout(
        PU | {"PaviaU_gt.mat": {"paviaU_gt": "labels"}}, 103, 9
    ),
    "salinas-few": Layout(
        {
            "Salinas_corrected.mat": {"salinas_corrected": "cube"},
            "Salinas_gt.mat": {"salinas_gt": "labels"},
        },
        204,
        16,
    ),
    "houston_2013-fixed": Layout(
        {"Houston.mat": {"input": "cube"} | MAPS}, 144, 15
    ),
    "berlin-fixed": Layout(two_maps("HS-SAR Berlin"), 244, 8),
    "augsburg-fixed": Layout(two_maps("HS-SAR-DSM Augsburg"), 180, 7),
}  # fmt: skip

# Training and test pixels of each class as published.
PUBLISHED = {
    "indian_pines-fixed": ("indian_gcn_tr", "indian_gcn_te", 695, 9671),
    "pavia_university-fixed": ("pavia_u_tr", "pavia_u_te", 3921, 40002),
    "houston_2013-fixed": ("houston13_tr", "houston13_te", 2832, 12197),
    "indian_pines-few": ("indian_pines_gt", None, 5 * 16, 10249 - 5 * 16),
    "pavia_university-few": ("pavia_u_gt", None, 5 * 9, 42776 - 5 * 9),
    "salinas-few": ("salinas_gt", None, 5 * 16, 54129 - 5 * 16),
}


@pytest.fixture
def write_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, dict[str, Array]], None]:
    """Write the files of a benchmark from its arrays."""
    monkeypatch.setenv("HSI_BENCHMARKS", str(tmp_path))

    def write(name: str, arrays: dict[str, Array]) -> None:
        for file, content in LAYOUTS[name].files.items():
            path = tmp_path / file
            path.parent.mkdir(exist_ok=True)
            savemat(path, {key: arrays[meaning] for key, meaning in content.items()})

    return write


def small(name: str) -> dict[str, Array]:
    """Make a scene of 30 rows, three columns of each class, all bands."""
    layout = LAYOUTS[name]
    labels = np.tile(np.repeat(np.arange(1, layout.classes + 1), 3), (30, 1))
    labels[-2:] = 0
    upper = np.arange(30)[:, None] < 10
    rng = np.random.default_rng(0)
    return {
        "cube": rng.integers(1, 5000, (*labels.shape, layout.bands)).astype(np.uint16),
        "labels": labels.astype(np.uint8),
        "train": (labels * upper).astype(np.uint8),
        "test": (labels * ~upper).astype(np.float32),
    }


def test_every_protocol_is_checked_here() -> None:
    protocols = {n for n in recipe.shipped() if n.endswith(("-fixed", "-few"))}
    assert protocols == set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_of_the_published_names_are_read(
    name: str, write_files: Callable[[str, dict[str, Array]], None]
) -> None:
    arrays = small(name)
    write_files(name, arrays)
    wanted = recipe.parse(recipe.load(name))
    data = read_data(wanted, 6)
    assert len(data.bands) == LAYOUTS[name].bands
    assert [c.code for c in data.classes] == list(range(1, LAYOUTS[name].classes + 1))
    data = divide(wanted, data, 13)
    (scene,) = data.scenes
    roles = scene.roles
    np.testing.assert_array_equal(
        scene.cube[:, 3, 4], arrays["cube"][scene.row + 3, scene.col + 4]
    )
    counts = data.pixels_by_role()
    if name.endswith("-few"):
        assert (counts[:, Role.TRAIN] == 5).all()
        assert (counts[:, Role.TEST] == 28 * 3 - 5).all()
    else:
        rows, cols = roles.shape
        part = np.s_[scene.row : scene.row + rows, scene.col : scene.col + cols]
        np.testing.assert_array_equal(roles == Role.TRAIN, arrays["train"][part] > 0)
        np.testing.assert_array_equal(roles == Role.TEST, arrays["test"][part] > 0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_labels_give_the_published_counts(
    name: str, data_dir: Path, write_files: Callable[[str, dict[str, Array]], None]
) -> None:
    first, second, train, test = PUBLISHED[name]
    with np.load(data_dir / "gt_and_splits.npz") as published:
        maps = {"labels": published[first], "train": published[first]}
        if second:
            maps["test"] = published[second]
    rng = np.random.default_rng(0)
    cube = rng.integers(1, 5000, (*maps["labels"].shape, 2)).astype(np.uint16)
    write_files(name, {"cube": cube, **maps})
    wanted = recipe.parse(recipe.load(name))
    data = read_data(wanted, 6)
    counts = divide(wanted, data, 13).pixels_by_role()
    assert counts[:, Role.TRAIN].sum() == train
    assert counts[:, Role.TEST].sum() == test
    if second:
        expected = np.bincount(maps["train"].ravel())[1:]
        np.testing.assert_array_equal(counts[:, Role.TRAIN], expected)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_protocol_trains_any_method_by_one_setting(
    cli: Callable[..., Any],
    tmp_path: Path,
    write_files: Callable[[str, dict[str, Array]], None],
) -> None:
    write_files("augsburg-fixed", small("augsburg-fixed"))
    run = tmp_path / "run"
    done = cli(
        "augsburg-fixed", "-o", run, "-q", "--device", "cpu", "--epochs", "1",
        "--set", "method=mf2cnet", "--set", "options.features=4",
        "--set", "options.spectral_stride=16",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert (run / "report.html").is_file()
    saved = recipe.parse(recipe.load(str(run / "recipe.toml")))
    assert saved.split.mode == "test-labels"


def test_maps_that_share_pixels_are_refused(
    write_files: Callable[[str, dict[str, Array]], None],
) -> None:
    arrays = small("berlin-fixed")
    arrays["test"][3, 4:6] = 1
    write_files("berlin-fixed", arrays)
    with pytest.raises(SceneError, match=r"2 pixels of data_HS_LR\.mat are in the map"):
        read_data(recipe.parse(recipe.load("berlin-fixed")), 6)


def test_a_class_without_training_labels_is_refused(
    write_files: Callable[[str, dict[str, Array]], None],
) -> None:
    arrays = small("berlin-fixed")
    arrays["train"][arrays["train"] == 3] = 0
    write_files("berlin-fixed", arrays)
    wanted = recipe.parse(recipe.load("berlin-fixed"))
    with pytest.raises(SceneError, match=r"without train pixels: .*label training"):
        divide(wanted, read_data(wanted, 6), 13)


def test_maps_without_test_labels_are_refused(
    write_files: Callable[[str, dict[str, Array]], None],
) -> None:
    arrays = small("berlin-fixed")
    arrays["test"][:] = 0
    write_files("berlin-fixed", arrays)
    wanted = recipe.parse(recipe.load("berlin-fixed"))
    with pytest.raises(SceneError, match=r"TestImage\.mat.*no labelled pixel is test"):
        divide(wanted, read_data(wanted, 6), 13)

"""The cross-scene recipes, on simulated files of the published names and keys.

The scenes themselves are not here. No accuracy is tested.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from hsi_train import recipe
from hsi_train.training import train

# Files of source and target, bands, classes.
PAIRS = {
    "houston_2013_2018-s2amsnet": (
        ("Houston/Houston13.mat", "Houston/Houston13_7gt.mat"),
        ("Houston/Houston18.mat", "Houston/Houston18_7gt.mat"),
        *(48, 7),
    ),
    "pavia_university_centre-s2amsnet": (
        ("Pavia/paviaU.mat", "Pavia/paviaU_7gt.mat"),
        ("Pavia/paviaC.mat", "Pavia/paviaC_7gt.mat"),
        *(102, 7),
    ),
    "dioni_loukia-s2amsnet": (
        ("HyRANK/Dioni.mat", "HyRANK/Dioni_gt_out68.mat"),
        ("HyRANK/Loukia.mat", "HyRANK/Loukia_gt_out68.mat"),
        *(176, 12),
    ),
}


def write_v73(path: Path, name: str, array: NDArray[Any]) -> None:
    """Write as MATLAB's v7.3 does: axes from the other end."""
    with h5py.File(path, "w") as file:
        file[name] = array.T


def write_scene(
    folder: Path, files: tuple[str, str], rows: int, bands: int, classes: int
) -> NDArray[np.uint8]:
    """Write a cube and its label map, four columns of each class."""
    labels = np.tile(np.repeat(np.arange(1, classes + 1), 4), (rows, 1))
    labels[0] = 0
    rng = np.random.default_rng(rows)
    cube = rng.integers(1, 200, (*labels.shape, bands)) + 300 * labels[..., None]
    for file, name, array in zip(
        files, ("ori_data", "map"), (cube.astype(np.float64), labels), strict=True
    ):
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        if "Houston" in file:
            write_v73(path, name, array)
        else:
            savemat(path, {name: array})
    return labels.astype(np.uint8)


def test_every_pair_is_checked_here() -> None:
    pairs = {n for n in recipe.shipped() if "HSI_BENCHMARKS" in str(recipe.load(n))}
    assert {n for n in pairs if "target" in recipe.load(n)} == set(PAIRS)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("name", PAIRS)
def test_source_trains_and_all_target_labels_test(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HSI_BENCHMARKS", str(tmp_path))
    source, target, bands, classes = PAIRS[name]
    known = write_scene(tmp_path, source, 21, bands, classes)
    other = write_scene(tmp_path, target, 26, bands, classes)
    content = recipe.load(name)
    assert content["method"] == "s2amsnet"
    # Another method learns the layout of the files in less time.
    content |= {"method": "mf2cnet", "fit": {"epochs": 1}}
    content["options"] = {"spectral_stride": 16, "features": 4}
    found = train(recipe.parse(content), tmp_path / "run", "cpu")
    labelled = int((known > 0).sum())
    assert found["counts"]["train"] == round(0.8 * labelled)
    assert found["counts"]["test"] == labelled - round(0.8 * labelled)
    assert np.sum(found["target"]["confusion"]) == (other > 0).sum()
    assert [c["code"] for c in found["classes"]] == list(range(1, classes + 1))
    per_class = [c["support"] for c in found["target"]["per_class"]]
    assert per_class == np.bincount(other.ravel())[1:].tolist()

from pathlib import Path
from typing import Any

import calibration
import numpy as np
import rasterio

from hsi_train import recipe


def cell(seed: int, **found: Any) -> dict[str, Any]:
    return {
        "data": "simulated",
        "method": "mf2cnet",
        "seed": seed,
        "overall_accuracy": 0.75,
        "counts": {"validation": 60 if found else 0},
        "calibration": found or None,
    }


def test_table_has_a_row_for_each_training() -> None:
    measured = {
        "temperature": 0.5,
        "expected_calibration_error_uncalibrated": 0.2,
        "expected_calibration_error": 0.05,
    }
    kept = {"reject": 0.6, "reject_coverage": 0.7, "reject_accuracy": 0.9}
    cells = [
        cell(2),
        cell(1, **measured, reject=None),
        cell(0, **measured, **kept),
    ]
    rows = calibration.table(cells).splitlines()[2:]
    start = "| simulated | mf2cnet |"
    assert rows == [
        f"{start} 0 | 75.0% | 60 | 0.50 | 20.0% | 5.0% | 0.60 | 70% | 90.0% |",
        f"{start} 1 | 75.0% | 60 | 0.50 | 20.0% | 5.0% | | | |",
        f"{start} 2 | 75.0% | 0 | | | | | | |",
    ]
    assert len({row.count("|") for row in calibration.table(cells).splitlines()}) == 1


def test_random_roles_are_alike(tmp_path: Path) -> None:
    labels = np.random.default_rng(5).integers(0, 4, (90, 90)).astype(np.uint8)
    path = tmp_path / "labels.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=90, width=90, dtype="uint8",
        crs="EPSG:32633", transform=rasterio.Affine(1, 0, 4e5, 0, -1, 5e6),
    ) as file:  # fmt: skip
        file.write(labels, 1)
    content = {"data": {"labels": [str(path)]}}
    calibration.write_random_roles(tmp_path / "roles.tif", content, 0)
    with rasterio.open(tmp_path / "roles.tif") as file:
        roles = file.read(1)
    assert ((roles == 0) == (labels == 0)).all()
    counts = np.bincount(roles[labels > 0], minlength=4)
    assert (np.abs(counts[1:] / counts.sum() - 1 / 3) < 0.03).all()


def test_simulated_scenes_can_be_trained_on(tmp_path: Path) -> None:
    wanted = recipe.parse(calibration.content_of("simulated", "s2vnet", 3, tmp_path))
    assert (wanted.method, wanted.seed, wanted.split.mode) == ("s2vnet", 3, "disjoint")
    assert all(Path(p).is_file() for p in (*wanted.data.scenes, *wanted.data.labels))

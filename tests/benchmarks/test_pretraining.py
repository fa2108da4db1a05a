from pathlib import Path
from typing import Any

import numpy as np
import pretraining
import pytest

from hsi_train import inputs
from hsi_train.data.loading import open_any
from hsi_train.data.roles import Role


def line(variant: str, seed: int, share: float) -> dict[str, Any]:
    return {
        "protocol": "enmap-10",
        "variant": variant,
        "seed": seed,
        "pretrained_on": "other scenes" if "+" in variant else None,
        "overall_accuracy": share,
    }


def test_differences_are_paired_by_draw() -> None:
    lines = [
        *(line("scratch", seed, share) for seed, share in enumerate((0.5, 0.7, 0.9))),
        line("probe + FDC", 0, 0.53),
        line("probe + FDC", 1, 0.71),
        line("probe, random encoder", 1, 0.2),
    ]
    text = "\n".join(pretraining.table(lines))
    assert "| scratch | 3 | 70.0 ± 20.0 | - |" in text
    assert "| probe + FDC, other scenes | 2 | 62.0 ± 12.7 | +2.0 ± 1.0 |" in text
    assert "| pre-training, to the probe | - |" in text, "one draw has no error"


@pytest.mark.parametrize("name", pretraining.DISJOINT)
def test_no_window_of_a_test_pixel_is_pre_trained_on(
    name: str, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HSI_DATA", str(data_dir))
    protocol = pretraining.PROTOCOLS[name]
    data = inputs.read_data(pretraining.recipe_of(protocol), pretraining.HALO)
    path = pretraining.untested_part(name, tmp_path)
    scene = open_any(str(path))
    rows, cols = data.scenes[0].classes.shape
    cube = scene.read((0, rows), (0, cols), np.arange(scene.info.bands))
    scene.close()
    seen = (cube != pretraining.NODATA).any(axis=0)
    assert seen.any()
    halo = pretraining.HALO
    for seed in (0, 100):
        roles = pretraining.draw(protocol, data, seed).scenes[0].roles
        assert np.bincount(data.scenes[0].classes[roles == Role.TRAIN]).max() <= 10
        for row, col in np.argwhere(roles == Role.TEST):
            top, left = max(row - halo, 0), max(col - halo, 0)
            assert not seen[top : row + halo + 1, left : col + halo + 1].any()

import sys
from pathlib import Path

import pytest
import tomli_w

from hsi_train.simulate import SceneSpec, band_centres, write_scene

# The benchmarks are scripts: they find each other beside themselves.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a labelled scene and the recipe that reads it; return the recipe."""
    folder = tmp_path_factory.mktemp("tiny")
    spec = SceneSpec(
        rows=30,
        cols=30,
        wavelengths_nm=band_centres(12),
        materials=("grass", "bright_soil", "water"),
        resolution_m=8.0,
        seed=5,
    )
    write_scene(spec, folder / "scene.tif", truth=folder / "labels.tif")
    content = {
        "method": "mf2cnet",
        "data": {
            "scenes": [str(folder / "scene.tif")],
            "labels": [str(folder / "labels.tif")],
        },
    }
    path = folder / "tiny.toml"
    path.write_text(tomli_w.dumps(content))
    return path

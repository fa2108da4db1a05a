from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("h5py")

from hsi_train.simulate import SceneSpec, simulate_window
from hsi_train.simulate.products.generator import fewer, generator_of

ROWS, COLS = 61, 52


class Made(NamedTuple):
    """A product in a file, and what was written.

    Attributes:
        path: The file.
        spec: The scene.
        cube: Values as they were simulated, ``(band, row, col)``.
    """

    path: Path
    spec: SceneSpec
    cube: NDArray[Any]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Made]:
    """Write a product with fewer bands than its sensor has, under an unlikely name."""

    def write(product: str, start: Any = None, bands: int = 24, **options: Any) -> Made:
        generator = generator_of(product)
        chosen = fewer(generator.bands, bands)
        spec = SceneSpec(
            rows=ROWS,
            cols=COLS,
            wavelengths_nm=chosen.centres_nm,
            fwhm_nm=chosen.widths_nm,
            dtype=generator.dtype,
            resolution_m=generator.resolution_m,
            nodata_border=True,
            seed=5,
        )
        path = tmp_path / "renamed.bin"
        writer = (start or generator.start)(spec, path, **options)
        cubes = []
        for row in range(0, ROWS, 16):
            cube, _, _ = simulate_window(spec, row, min(16, ROWS - row))
            writer.write(cube, row)
            cubes.append(cube)
        writer.close()
        return Made(path, spec, np.concatenate(cubes, axis=1))

    return write

"""Windows of one size for engines that are faster with them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hsi_runtime.engines.backend import Backend, InTurns
from hsi_runtime.engines.classifying import spread
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.model.model_file import PROBABILITIES, ModelFile
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request


class Noting:
    """The engine of the CPU, which notes the windows it gets."""

    device, precision, windows_at_once = "cpu", "fp32", 1

    def __init__(self, model: ModelFile, fixed: bool) -> None:
        self.inner = open_backend(model, "cpu", 1)
        self.fixed_windows = fixed
        self.shapes: list[tuple[int, int]] = []

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        self.shapes.append((cube.shape[2] - 4, cube.shape[3] - 4))
        return self.inner.predict(cube, outputs)


@pytest.mark.parametrize("wrap", [lambda engine: engine, InTurns])
def test_squares_of_a_piece_are_computed_in_windows_of_one_size(
    wrap: Callable[[Any], Backend],
    model: ModelFile,
    cube: NDArray[Any],
    write_scene_tiff: Callable[..., Path],
    tmp_path: Path,
) -> None:
    # 53 pixels in squares of at most 11: parts of 10 and 11.
    values = np.tile(cube, (1, 2, 2))[:, :41, :53]
    values[:, 5:9, 20:40] = 0  # nodata at the edges of squares
    scene = write_scene_tiff(tmp_path / "s.tif", values, nodata=0)
    maps, shapes = [], []
    for fixed in (False, True):
        engine = Noting(model, fixed)
        output = tmp_path / f"{fixed}.tif"
        request = Request(scene, output, tile=11, probabilities=True)
        result = run(request, model, lambda engine=engine: wrap(engine))  # type: ignore[misc]
        assert result["windows"] == len(engine.shapes)
        names = output, tmp_path / f"{fixed}_probabilities.tif"
        maps.append([path.read_bytes() for path in names])
        shapes.append(engine.shapes)
    assert {cols for _, cols in shapes[0]} == {10, 11}
    for own, computed in zip(*shapes, strict=True):
        assert own[0] <= computed[0] <= own[0] + 1
        assert computed[1] == 11
    assert maps[0] == maps[1]


@given(st.integers(1, 900), st.integers(1, 40))
def test_numbers_are_spread_over_all(size: int, count: int) -> None:
    found = spread(size, count)
    assert len(found) == len(set(found.tolist())) == min(size, count)
    ends = np.array([-1, *found, size])
    gaps = np.diff(ends)
    assert found.min() >= 0
    assert found.max() < size
    assert gaps[1:-1].max(initial=0) <= -(-size // len(found))
    assert max(gaps[0], gaps[-1]) <= size / (2 * len(found)) + 1

"""Every walk over a scene gives what its classification at once would give."""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from small_model import with_receptive_field

from hsi_runtime import pipeline
from hsi_runtime.engines.classifying import predict_in_parts
from hsi_runtime.errors import ResourceError
from hsi_runtime.matching.bands import BandMatch
from hsi_runtime.matching.missing import Missing
from hsi_runtime.matching.units import Conversion
from hsi_runtime.model.model_file import PROBABILITIES, ModelDocument, ModelFile
from hsi_runtime.output.layers import PROBABILITY_STEPS, Counts, layers
from hsi_runtime.pipeline import Stopwatch
from hsi_runtime.planning import Job, MatchedScene
from hsi_runtime.request import Request
from hsi_runtime.scenes.array_scene import ArrayScene
from hsi_runtime.walk import windows
from hsi_runtime.walk.windows import Window

CODES = np.array([2, 3, 7])


class WindowSum:
    """An engine whose answer needs exactly the context it asks for."""

    device = "fake"
    precision = "fp32"
    windows_at_once = 1

    def __init__(self, halo: int) -> None:
        self.side = 2 * halo + 1
        self.calls = 0

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        assert cube.dtype == np.float32
        assert np.isfinite(cube).all()
        self.calls += 1
        return {PROBABILITIES: window_sum(cube[0], self.side)[None]}


def window_sum(cube: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Weigh the pixels of each window by their place, as steps that a map can hold."""
    patches = sliding_window_view(cube.astype(np.float64), (side, side), axis=(1, 2))
    weights = np.arange(len(cube) * side * side).reshape(len(cube), side, side) % 7
    total = np.einsum("brcij,bij->rc", patches, weights)
    steps = np.stack([total % 201, total * 7 % 199, total % 5])
    return (steps / PROBABILITY_STEPS).astype(np.float32)


class Collected:
    """Stands for the scratch files: what was written where, and how often."""

    def __init__(self, document: ModelDocument, region: Window) -> None:
        self.layers = layers(document, ["classes", "confidence", "probabilities"])
        self.pieces: dict[int, Any] = {}
        shape = region.rows, region.cols
        self.times = np.zeros(shape, dtype=int)
        self.values = {
            x.name: np.zeros((len(x.bands), *shape), x.dtype) for x in self.layers
        }
        self.counts = Counts([0] * 3)

    def write(
        self,
        number: int,
        rows: tuple[int, int],
        cols: tuple[int, int],
        values: dict[str, NDArray[Any]],
        counts: Counts,
    ) -> None:
        assert number not in self.pieces
        self.pieces[number] = None
        place = np.s_[slice(*rows), slice(*cols)]
        self.times[place] += 1
        for name, planes in values.items():
            self.values[name][:, *place] = planes
        self.counts.add(counts)


@given(
    shape=st.tuples(st.integers(1, 45), st.integers(1, 45)),
    part=st.none() | st.tuples(*[st.floats(0, 1, exclude_max=True)] * 4),
    block=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    halo=st.integers(0, 7),
    tile=st.integers(1, 24),
    budget=st.integers(1, 60_000),
    holes=st.sampled_from([0.0, 0.02, 0.9, 1.0]),
    seed=st.integers(0, 99),
    at_once=st.integers(1, 3),
)
@example((1, 1), None, (1, 1), 6, 1, 1, 0.0, 0, 2)
@example((1, 45), None, (1, 45), 7, 5, 1, 0.02, 1, 2)
@example((13, 13), None, (8, 8), 6, 13, 9000, 0.02, 2, 1)
@example((14, 12), None, (8, 8), 6, 13, 9000, 0.02, 3, 2)
def test_any_walk_equals_the_whole_scene_at_once(
    document: ModelDocument,
    shape: tuple[int, int],
    part: tuple[float, float, float, float] | None,
    block: tuple[int, int],
    halo: int,
    tile: int,
    budget: int,
    holes: float,
    seed: int,
    at_once: int,
) -> None:
    region = Window(0, 0, *shape)
    if part is not None:
        row, col = int(part[0] * shape[0]), int(part[1] * shape[1])
        tall = 1 + int(part[2] * (shape[0] - row))
        region = Window(row, col, tall, 1 + int(part[3] * (shape[1] - col)))
    random = np.random.default_rng(seed)
    stored = random.integers(1, 50, (6, *shape)).astype(np.int16)
    # Nodata in any one band makes the pixel missing.
    missing = random.random(shape) < holes
    row_index, col_index = np.indices(shape)
    band = random.integers(0, 4, shape)
    stored[band[missing], row_index[missing], col_index[missing]] = 0
    bands = np.array([3, 0, 2, 1])
    scene = ArrayScene(stored, nodata=0)
    scene.info = dataclasses.replace(scene.info, block=block)
    plan = windows.plan(shape, region, 8, block, halo, tile, budget)
    described = with_receptive_field(document, 2 * halo + 1)
    backend, scratch = WindowSum(halo), Collected(document, region)
    backend.windows_at_once = at_once
    seen: list[int] = []
    job = Job(
        request=Request(Path(), Path()),
        model=ModelFile(Path(), described, b"", ""),
        matched=MatchedScene(
            info=scene.info,
            bands=BandMatch(bands),
            units=Conversion(),
            region=region,
            ground=region,
            missing=Missing(nodata=scene.info.nodata[bands]),
        ),
        backend=backend,
        plan=plan,
        reject_below=0.1,
        paths={},
        layers=scratch.layers,
        content={},
    )
    pipeline.compute(
        job,
        scene,
        scratch,
        Stopwatch(),
        lambda done, total: seen.append(done),
    )

    fill = np.array(described.values.fill)[:, None, None]
    filled = np.where(missing, fill, stored[bands])
    padded = np.pad(filled, ((0, 0), (halo, halo), (halo, halo)), mode="reflect")
    inside = np.s_[region.row : region.row_end, region.col : region.col_end]
    expected = window_sum(padded, 2 * halo + 1)[:, *inside]
    known = ~missing[inside]
    assert (scratch.times == 1).all()
    steps = np.rint(expected * PROBABILITY_STEPS)
    codes = np.where(steps.max(axis=0) < 20, 0, CODES[expected.argmax(axis=0)])
    for name, wanted in (
        ("probabilities", steps),
        ("confidence", steps.max(axis=0)[None]),
        ("classes", codes[None]),
    ):
        np.testing.assert_array_equal(
            scratch.values[name], np.where(known, wanted, 255)
        )
    assert scratch.counts.nodata == (~known).sum()
    assert scratch.counts.of_class == [(codes[known] == c).sum() for c in CODES]
    assert seen[0] == 0
    assert seen[-1] == region.rows * region.cols
    assert all(a < b for a, b in pairwise(seen))
    assert backend.calls <= plan.count_windows()
    if missing.all():
        assert backend.calls == 0


class Small(WindowSum):
    """An engine that has memory for a few pixels only."""

    def __init__(self, halo: int, most: int) -> None:
        super().__init__(halo)
        self.most = most

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        if cube.shape[2] * cube.shape[3] > self.most:
            raise ResourceError("memory ran out")
        return super().predict(cube, outputs)


@pytest.mark.parametrize("most", [25, 60, 200])
def test_windows_halve_where_memory_runs_out(most: int) -> None:
    cube = np.random.default_rng(0).integers(0, 50, (1, 3, 17, 23)).astype(np.float32)
    small = Small(2, most)
    found = predict_in_parts(small, cube, 2)[PROBABILITIES]
    expected = WindowSum(2).predict(cube)[PROBABILITIES]
    np.testing.assert_array_equal(found, expected)
    assert small.calls > 1


def test_a_pixel_that_does_not_fit_is_an_error() -> None:
    cube = np.zeros((1, 3, 9, 9), dtype=np.float32)
    with pytest.raises(ResourceError):
        predict_in_parts(Small(2, 24), cube, 2)

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hsi_train import rivals
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting.predict import Scorer
from hsi_train.fitting.statistics import describe_problem
from hsi_train.layers import LinearPath
from hsi_train.linear import choice
from hsi_train.linear.spectra import training_pixels

MakeData = Callable[..., LabelledData]


@pytest.fixture
def data(make_data: MakeData) -> LabelledData:
    rng = np.random.default_rng(0)
    codes = np.kron(rng.integers(1, 4, (12, 12)), np.ones((8, 8), dtype=int))
    made = make_data(codes)
    roles = np.where(rng.random(codes.shape) < 0.3, Role.TRAIN, Role.TEST)
    return made.divided([roles.astype(np.uint8)])


def test_a_network_that_is_the_rival_is_its_equal(data: LabelledData) -> None:
    problem = describe_problem(data)
    pixels = training_pixels(data.scenes, problem.fill, len(data.classes))
    fit = choice.fit(pixels, choice.choose(pixels).shares, problem)
    path = LinearPath(fit, problem.band_mean, problem.band_std, rivals.HALO).eval()
    scorer = Scorer(path, problem.fill, rivals.HALO, torch.device("cpu"))
    single, whole = rivals.measure(data, problem, scorer)
    assert (single.name, whole.name) == ("lda", "lda-sum")
    assert whole.difference == 0
    assert whole.interval == (0, 0)
    assert whole.blocks == 9
    assert whole.overall_accuracy > 0.9
    assert rivals.caveat([whole]) is None


class Blind(torch.nn.Module):
    """Says the first class everywhere."""

    def forward(self, cube: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(len(cube), 3, cube.shape[2], cube.shape[3])
        scores[:, 0] = 1
        return scores


def test_a_network_below_its_rival_is_told_so(data: LabelledData) -> None:
    scorer = Scorer(Blind(), describe_problem(data).fill, 0, torch.device("cpu"))
    found = rivals.measure(data, describe_problem(data), scorer)
    sentence = rivals.caveat(found)
    assert sentence is not None
    assert "clearly better" in sentence
    assert "Train method lda" in sentence
    for rival in found:
        assert rival.interval is not None
        low, high = rival.interval
        assert low <= rival.difference <= high < 0


def test_few_blocks_give_no_interval() -> None:
    counts = np.full(4, 100.0)
    assert rivals.interval(np.ones(4), counts) is None
    assert rivals.interval(np.ones(5), np.full(5, 100.0)) == (0.01, 0.01)

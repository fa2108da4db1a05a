from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting.predict import Scorer
from hsi_train.fitting.statistics import describe_problem
from hsi_train.layers import LinearPath
from hsi_train.linear import choice
from hsi_train.linear.spectra import HALO, training_pixels
from hsi_train.rivals import classical, comparing

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
    fitted = choice.fit_chosen(pixels, problem)
    path = LinearPath(fitted.total, problem.band_mean, problem.band_std, HALO).eval()
    scorer = Scorer(path, problem.fill, HALO, torch.device("cpu"))
    (single, whole), blocks = comparing.measure(data, problem, scorer)
    assert comparing.measure(data, problem, scorer, fitted) == ([single, whole], blocks)
    assert (single.name, whole.name) == ("lda", "lda-sum")
    assert whole.difference == 0
    assert whole.interval == (0, 0)
    assert whole.blocks == 9
    assert whole.overall_accuracy > 0.9
    assert whole.right == blocks.right
    assert sum(blocks.pixels) == data.pixels_by_role()[:, Role.TEST].sum()
    assert sum(whole.right) / sum(blocks.pixels) == whole.overall_accuracy
    assert comparing.caveat([whole]) is None


class Blind(torch.nn.Module):
    """Says the first class everywhere."""

    def forward(self, cube: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(len(cube), 3, cube.shape[2], cube.shape[3])
        scores[:, 0] = 1
        return scores


def test_a_network_below_its_rival_is_told_so(data: LabelledData) -> None:
    scorer = Scorer(Blind(), describe_problem(data).fill, 0, torch.device("cpu"))
    found, _ = comparing.measure(data, describe_problem(data), scorer)
    sentence = comparing.caveat(found)
    assert sentence is not None
    assert "clearly better" in sentence
    assert "Train method lda" in sentence
    assert "A linear discriminant" in sentence
    classical = comparing.caveat([replace(found[0], name="rbf-svm")])
    assert classical is not None
    assert "A classical classifier (rbf-svm, " in classical
    for rival in found:
        assert rival.interval is not None
        low, high = rival.interval
        assert low <= rival.difference <= high < 0


def test_few_blocks_give_no_interval() -> None:
    counts = np.full(4, 100)
    assert comparing.interval(np.ones(4, int), counts) is None
    assert comparing.interval(np.ones(5, int), np.full(5, 100)) == (0.01, 0.01)


def test_every_rival_is_compared(
    data: LabelledData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classical, "FAMILIES", classical.FAMILIES[:1])
    problem = describe_problem(data)
    scorer = Scorer(Blind(), problem.fill, 0, torch.device("cpu"))
    found, blocks = comparing.measure(data, problem, scorer, every=True)
    assert [rival.name for rival in found] == ["lda", "lda-sum", "linear-svm"]
    assert found[-1].overall_accuracy > 0.9
    assert len(found[-1].right) == len(blocks.pixels) == found[-1].blocks


def test_blocks_are_those_of_the_scene_whatever_part_was_read() -> None:
    rng = np.random.default_rng(0)
    truth = np.where(rng.random((70, 80)) < 0.5, 1, -1).astype(np.int16)
    truth[:6] = truth[:, :9] = -1  # a part may begin where pixels are tested
    found = np.where(rng.random(truth.shape) < 0.7, 1, 0).astype(np.int16)
    whole = comparing._by_block([truth], [found], [(0, 0)])
    for top, left in ((6, 9), (4, 0), (1, 7)):
        part = np.s_[top:, left:]
        cut = comparing._by_block([truth[part]], [found[part]], [(top, left)])
        assert np.array_equal(cut, whole)

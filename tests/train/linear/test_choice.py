from collections.abc import Callable

import numpy as np
import pytest
import torch

from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting.predict import Scorer
from hsi_train.fitting.statistics import describe_problem
from hsi_train.layers import LinearPath
from hsi_train.linear import choice, discriminant
from hsi_train.linear.spectra import VIEWS, training_pixels
from hsi_train.method import Problem

MakeData = Callable[..., LabelledData]


def shaded(make_data: MakeData, noise: float = 1.0) -> LabelledData:
    """Three materials of like shape under light that varies from pixel to pixel."""
    rng = np.random.default_rng(3)
    codes = np.repeat(np.repeat([[1, 2], [3, 1]], 20, axis=0), 20, axis=1)
    shapes = np.array([[3, 4, 5, 6, 7, 6.0], [3, 5, 5, 6, 6, 6], [4, 4, 5, 7, 6, 6]])
    cube = shapes[codes - 1].transpose(2, 0, 1) * 100
    cube = cube * rng.uniform(0.4, 1.6, codes.shape)
    cube += rng.normal(size=cube.shape) * noise
    data = make_data(codes, bands=6, cubes=[cube.astype(np.float32)])
    halves = np.where(np.arange(40) % 2, Role.TRAIN, Role.TEST).astype(np.uint8)
    return data.divided([np.broadcast_to(halves, (40, 40)).copy()])


def fitted(data: LabelledData) -> tuple[choice.Choice, Problem]:
    problem = describe_problem(data)
    pixels = training_pixels(data.scenes, problem.fill, len(data.classes))
    chosen = choice.choose(pixels)
    fit = choice.fit(pixels, chosen.shares, problem)
    return chosen, problem._replace(linear=fit)


def path_of(problem: Problem, halo: int = 5) -> LinearPath:
    assert problem.linear is not None
    return LinearPath(problem.linear, problem.band_mean, problem.band_std, halo).eval()


def test_shade_asks_for_spectra_without_brightness(make_data: MakeData) -> None:
    data = shaded(make_data)
    chosen, problem = fitted(data)
    assert any(v.view.brightness_free for v in chosen.shares)
    scorer = Scorer(path_of(problem), problem.fill, 5, torch.device("cpu"))
    found = scorer.score(data, Role.TEST)
    assert (found.scores.argmax(axis=1) == found.classes).mean() > 0.95


def test_the_layer_gives_the_scores_of_the_discriminants(make_data: MakeData) -> None:
    data = shaded(make_data, noise=20.0)
    problem = describe_problem(data)
    pixels = training_pixels(data.scenes, problem.fill, len(data.classes))
    shares = {choice.Variant(view, 0.1): 0.1 * n for n, view in enumerate(VIEWS, 1)}
    fit = choice.fit(pixels, shares, problem)
    scorer = Scorer(
        path_of(problem._replace(linear=fit)), problem.fill, 5, torch.device("cpu")
    )
    found = scorer.score(data, Role.TRAIN).scores
    expected = np.zeros_like(found, dtype=np.float64)
    for (view, shrinkage), share in shares.items():
        spectra = pixels.seen(view)
        (one,) = discriminant.fit(spectra, pixels.classes, pixels.counts, (shrinkage,))
        expected += share * one.scores(spectra)
    # The scorer goes tile by tile: compare as sets of rows.
    order = [np.lexsort(np.round(s, 2).T) for s in (found, expected)]
    np.testing.assert_allclose(
        found[order[0]], expected[order[1]], rtol=1e-3, atol=1e-2
    )


@pytest.mark.parametrize(("rows", "cols"), [(11, 11), (14, 30)])
def test_the_layer_is_dense(make_data: MakeData, rows: int, cols: int) -> None:
    _, problem = fitted(shaded(make_data))
    path = path_of(problem)
    cube = torch.rand(1, 6, rows, cols) * 500
    whole = path(cube)
    assert whole.shape[-2:] == (rows - 10, cols - 10)
    one = path(cube[..., :11, -11:])
    torch.testing.assert_close(whole[..., :1, -1:], one, rtol=1e-4, atol=1e-4)


def test_a_flat_spectrum_and_one_of_zeros_have_finite_scores(
    make_data: MakeData,
) -> None:
    _, problem = fitted(shaded(make_data))
    path = path_of(problem)
    for value in (0.0, 1000.0):
        assert torch.isfinite(path(torch.full((1, 6, 11, 11), value))).all()


def test_one_pixel_of_each_class_is_enough(make_data: MakeData) -> None:
    data = shaded(make_data)
    roles = np.full((40, 40), Role.TEST, np.uint8)
    roles[5, 5] = roles[5, 30] = roles[30, 5] = Role.TRAIN
    chosen, _ = fitted(data.divided([roles]))
    assert chosen.loss is None
    assert len(chosen.shares) == len(VIEWS)


def test_test_pixels_have_no_say(make_data: MakeData) -> None:
    data = shaded(make_data)
    (scene,) = data.scenes
    far = np.zeros((40, 40), bool)
    far[:, 30:] = True
    roles = np.where(far, Role.TEST, Role.TRAIN).astype(np.uint8)
    roles[:, 25:30] = Role.NONE
    before = fitted(data.divided([roles]))[1].linear
    scene.cube[:, far] = 9e4
    after = fitted(data.divided([roles]))[1].linear
    assert before is not None
    assert after is not None
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from hsi_train.method import Corner
from hsi_train.methods.s2former import linear_head


def data(pixels: int, noise: float) -> tuple[torch.Tensor, torch.Tensor, list[Corner]]:
    """Three classes that differ in the first of eight features."""
    generator = torch.Generator().manual_seed(pixels)
    classes = torch.arange(pixels) % 3
    features = noise * torch.randn(pixels, 8, generator=generator)
    features[:, 0] += classes
    places = [Corner(0, k // 10, k % 10) for k in range(pixels)]
    return features, classes, places


def test_it_solves_the_penalised_problem() -> None:
    features, classes, _ = data(60, 1.0)
    weight, bias = linear_head.solve(features, classes, 3, 0.05)
    # scikit-learn minimises C * sum of losses + half the squared weights.
    other = LogisticRegression(C=1 / (2 * 0.05 * 60), tol=1e-10, max_iter=1000)
    other.fit(features.numpy(), classes.numpy())
    torch.testing.assert_close(
        weight, torch.from_numpy(other.coef_).to(weight), atol=2e-3, rtol=0
    )
    # The mean of the biases is free.
    theirs = torch.from_numpy(other.intercept_).to(bias)
    torch.testing.assert_close(
        bias - bias.mean(), theirs - theirs.mean(), atol=2e-3, rtol=0
    )


def test_it_separates_what_can_be_separated() -> None:
    features, classes, places = data(30, 0.05)
    fitted = linear_head.fit(features, classes, places)
    found = (features @ fitted.weight.T + fitted.bias).argmax(1)
    assert torch.equal(found, classes)
    assert fitted.weight.shape == (3, 8)
    assert not fitted.weight.requires_grad


def test_noise_calls_for_a_larger_penalty() -> None:
    clear = linear_head.fit(*data(45, 0.02)).penalty
    noisy = linear_head.fit(*data(45, 3.0)).penalty
    assert clear < 0.01, "the search goes on below the list"
    assert noisy >= 1


@pytest.mark.parametrize("pixels", [3, 8])
def test_too_few_pixels_to_leave_any_out(pixels: int) -> None:
    features, classes, places = data(pixels, 0.1)
    assert linear_head.spatial_folds(classes, places) is None
    assert linear_head.fit(features, classes, places).penalty == linear_head.UNCHECKED


@pytest.mark.parametrize(("pixels", "count"), [(9, 3), (14, 4), (60, 5)])
def test_folds_hold_every_class_in_strips(pixels: int, count: int) -> None:
    _, classes, places = data(pixels, 0.1)
    order = torch.randperm(pixels, generator=torch.Generator().manual_seed(0))
    folds = linear_head.spatial_folds(classes[order], [places[i] for i in order])
    assert folds is not None
    assert set(folds.tolist()) == set(range(count))
    back = torch.empty_like(folds)
    back[order] = folds
    for one in range(3):
        mine = back[classes == one]  # in order of row and column
        assert (mine.diff() >= 0).all()
        assert mine.bincount().max() - mine.bincount().min() <= 1


def test_quiet_neighbours_differ_alike_in_every_direction() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    steps = mixing @ mixing.T
    quiet = linear_head.quietening(steps)
    torch.testing.assert_close(quiet, quiet.T)
    assert float(quiet.square().sum()) == pytest.approx(4)
    before = torch.linalg.eigvalsh(steps)
    after = torch.linalg.eigvalsh(quiet @ steps @ quiet)
    assert after.max() / after.min() < 0.1 * before.max() / before.min()


def test_features_that_differ_alike_or_never_are_left_alone() -> None:
    for same in (torch.eye(3), torch.zeros(3, 3)):
        torch.testing.assert_close(linear_head.quietening(same), torch.eye(3))


def test_more_features_than_pixels_are_no_other_problem() -> None:
    features, classes, _ = data(12, 1.0)
    torch.manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64))
    wide = torch.nn.functional.pad(features.double(), (0, 32)) @ rotation
    scores = []
    for values in (features.double(), wide):
        weight, bias = linear_head.solve(values, classes, 3, 0.1)
        scores.append(values @ weight.T + bias)
    torch.testing.assert_close(*scores, atol=1e-4, rtol=0)

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from hsi_export.linear_path import FoldedPath, fold_paths
from hsi_train import methods
from hsi_train.layers import LINEAR_SIDES, LinearFit, LinearPath, WithLinearPath
from hsi_train.method import Problem

BANDS, CLASSES, HALO, SIDE = 40, 5, 6, 17


def fit_of(bands: tuple[int, ...], shape: tuple[int, ...]) -> LinearFit:
    """Draw weights for the views of some squares, by their number."""
    torch.manual_seed(len(bands) + 7 * len(shape))
    weights = torch.zeros(2, len(LINEAR_SIDES), CLASSES, BANDS)
    for kind, used in enumerate((bands, shape)):
        for index in used:
            weights[kind, index] = torch.randn(CLASSES, BANDS)
    return LinearFit(
        bands=weights[0],
        shape=weights[1],
        centre=torch.linspace(-1.7, 1.9, BANDS),
        bias=torch.randn(CLASSES),
    )


def path_of(fit: LinearFit) -> LinearPath:
    mean = torch.linspace(900, 3000, BANDS)
    return LinearPath(fit, mean, torch.linspace(50, 700, BANDS), HALO).eval()


def spectra() -> Iterator[Tensor]:
    """Yield cubes of usual, dark, flat and zero spectra, in stored units."""
    torch.manual_seed(3)
    usual = torch.linspace(900, 3000, BANDS)[:, None, None]
    noise = torch.randn(BANDS, SIDE, SIDE + 4)
    yield usual + 300 * noise
    yield 40 + 6 * noise
    yield torch.full_like(noise, 7.3)
    yield torch.full_like(noise, 65000.0)
    yield torch.zeros_like(noise)


@pytest.mark.parametrize(
    ("bands", "shape"),
    [((0,), ()), ((), (4,)), ((1, 4), (4,)), ((2,), (0, 3)), ((0, 1, 2, 3, 4), (0, 4))],
)
def test_folded_is_the_same_function(
    bands: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    path = path_of(fit_of(bands, shape))
    folded = FoldedPath(path)
    exact = path_of(fit_of(bands, shape)).double()
    for cube in spectra():
        expected = exact(cube[None].double())
        found, plain = folded(cube[None]), path(cube[None])
        assert found.shape == expected.shape
        size = float(expected.abs().max())
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5 * size)
        # Faster is not less exact: by more than chance, that is.
        errors = [float((s - expected).abs().mean()) for s in (found, plain)]
        assert errors[0] <= 2 * errors[1] + 1e-6 * size


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("unjudged", [(), (1, 3)])
def test_scores_are_joined_alike(apart: bool, unjudged: tuple[int, ...]) -> None:
    path = path_of(fit_of((0,), (2,)))
    path.apart, path.unjudged = apart, unjudged
    path.gate.fill_(0.4)
    cube = next(spectra())[None]
    scores = torch.randn(1, CLASSES, SIDE - 2 * HALO, SIDE + 4 - 2 * HALO)
    torch.testing.assert_close(
        FoldedPath(path).joined(cube, scores), path.joined(cube, scores)
    )


def test_a_graph_is_copied_and_all_its_paths_are_folded() -> None:
    path, empty = path_of(fit_of((0,), ())), path_of(fit_of((), ()))
    inner = nn.Sequential(WithLinearPath(nn.Identity(), path), empty)
    graph = nn.Sequential(inner, path)
    twin = fold_paths(graph)
    kinds = [type(part).__name__ for part in twin.modules()]
    assert kinds.count("FoldedPath") == 2
    # One that says nothing has nothing to fold.
    assert kinds.count("LinearPath") == 1
    assert not any(isinstance(part, FoldedPath) for part in graph.modules())


@pytest.mark.parametrize("name", methods.names())
def test_paths_of_all_methods_are_found(name: str) -> None:
    problem = Problem(
        band_mean=torch.full((BANDS,), 2000.0),
        band_std=torch.full((BANDS,), 500.0),
        class_counts=torch.full((CLASSES,), 100),
        class_means=torch.rand(CLASSES, BANDS) * 2000 + 1000,
        top=torch.tensor(4000.0),
        linear=fit_of((0,), (4,)),
    )
    with torch.no_grad():
        graph = fold_paths(methods.build(name, problem, {}).eval().folded_graph())
    kinds = {type(part) for part in graph.modules()}
    assert FoldedPath in kinds
    assert LinearPath not in kinds

"""A linear path with random weights, for methods that are built without data."""

import torch

from hsi_train.layers import LINEAR_SIDES, LinearFit
from hsi_train.method import Problem


def with_linear(problem: Problem, receptive_field: int = LINEAR_SIDES[-1]) -> Problem:
    """Return the problem with a linear path of every view that the field holds."""
    bands, classes = len(problem.band_mean), len(problem.class_counts)
    generator = torch.Generator().manual_seed(bands + classes)

    def drawn(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return 0.1 * values

    views = len(LINEAR_SIDES), classes, bands
    held = torch.tensor([side <= receptive_field for side in LINEAR_SIDES])
    fit = LinearFit(
        bands=drawn(*views) * held[:, None, None],
        shape=drawn(*views) * held[:, None, None],
        centre=drawn(bands),
        bias=drawn(classes),
    )
    return problem._replace(linear=fit)

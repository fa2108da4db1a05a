import math

import pytest
import torch
from torch.nn import functional as F

from hsi_train.method import IGNORED
from hsi_train.methods.s2vnet.objective import (
    MIXTURES,
    MOST_LIGHT,
    brightness,
    labelled,
    mixtures,
    share_loss,
)

# Spectra that lie on an axis each: the values of a mixture tell its parts.
AXES = torch.eye(3) * 1000


def test_mixtures_hold_what_their_shares_say() -> None:
    torch.manual_seed(0)
    classes = torch.tensor([0, 1, 2])
    mixed = mixtures(AXES, classes, 3)
    assert mixed.cube.shape == mixed.shares.shape == (1, 3, 1, MIXTURES)
    assert mixed.shares.min() >= 0
    torch.testing.assert_close(mixed.shares.sum(dim=1), torch.ones(1, 1, MIXTURES))
    light = mixed.cube / 1000 / mixed.shares.clamp(min=1e-9)
    parts = light[mixed.shares > 1e-3]
    assert parts.log().mean().abs() < 0.05
    assert float(parts.log().std()) == pytest.approx(0.2, abs=0.03)
    assert ((mixed.cube > 0) == (mixed.shares > 0)).all()


def test_rare_classes_are_mixed_as_often() -> None:
    torch.manual_seed(0)
    classes = torch.tensor([0] * 90 + [2] * 10)
    spectra = AXES[classes]
    shares = torch.cat([mixtures(spectra, classes, 3).shares for _ in range(20)], -1)
    mean = shares.mean(dim=(0, 2, 3))
    assert mean[1] == 0
    assert float(mean[0]) == pytest.approx(0.5, abs=0.03)


def test_labelled_pixels_are_found_in_their_order() -> None:
    cube = torch.arange(24.0).reshape(2, 3, 2, 2)
    classes = torch.tensor([[[IGNORED, 1], [0, IGNORED]], [[IGNORED] * 2, [1, 2]]])
    spectra, own = labelled(cube, classes)
    assert own.tolist() == [1, 0, 1, 2]
    assert spectra[:, 0].tolist() == [1, 2, 14, 15]
    nothing, none = labelled(cube, torch.full_like(classes, IGNORED))
    assert nothing.shape == (0, 3)
    assert none.shape == (0,)


def test_true_shares_minimise_their_loss() -> None:
    shares = torch.tensor([0.2, 0.8])[None, :, None, None]
    best = float(share_loss(shares.log(), shares))
    assert best == pytest.approx(-(0.2 * math.log(0.2) + 0.8 * math.log(0.8)))
    for other in ([0.3, 0.7], [0.0, 1.0]):
        codes = torch.tensor(other).clamp(min=1e-9).log()[None, :, None, None]
        assert float(share_loss(codes, shares)) > best


def test_brightness_is_the_squared_logarithm_of_a_factor() -> None:
    spectra = torch.tensor([[3.0, 4.0]])[..., None, None]
    factors = (0.5, 1.0, 2.0, 100.0)
    found = [float(brightness(spectra * f, spectra)) for f in factors]
    bound = math.log(MOST_LIGHT) ** 2
    expected = [math.log(2) ** 2, 0, math.log(2) ** 2, bound]
    assert found == pytest.approx(expected, abs=1e-6)
    dark = torch.zeros_like(spectra).requires_grad_()
    brightness(F.relu(dark), spectra).backward()  # type: ignore[no-untyped-call]
    assert dark.grad is not None
    assert dark.grad.isfinite().all()

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_train.methods.s2amsnet.network import (
    ChannelNorm,
    Involution,
    _Involve,
    involve,
)


def naive_involution(x: Tensor, kernels: Tensor) -> Tensor:
    """Channel by channel and pixel by pixel."""
    channels, groups = x.shape[1], kernels.shape[2]
    rows, cols = kernels.shape[-2:]
    out = torch.zeros(len(x), channels, rows, cols, dtype=x.dtype)
    for c in range(channels):
        for row in range(rows):
            for col in range(cols):
                part = x[:, c, row : row + 3, col : col + 3].flatten(1)
                weights = kernels[:, :, c % groups, row, col]
                out[:, c, row, col] = (part * weights).sum(dim=1)
    return out


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 7, 8, 12])
def test_involution_forms_agree_with_a_naive_loop(channels: int) -> None:
    torch.manual_seed(channels)
    layer = Involution(channels, nn.BatchNorm2d).double()
    x = torch.randn(2, channels, 5, 6, dtype=torch.float64)
    layer.train()
    layer(x)  # statistics other than 0 and 1
    for training in (True, False):
        for norm in layer.kernels:
            norm.eval()
        layer.training = training
        kernels = layer.kernels(x[:, :, 1:-1, 1:-1]).unflatten(1, (9, -1))
        assert kernels.shape[2] == math.ceil(channels / 3)
        found = layer(x)
        assert found.shape == (2, channels, 3, 4)
        assert (found - naive_involution(x, kernels)).abs().max() < 1e-12


def test_both_involution_forms_have_the_same_gradients() -> None:
    torch.manual_seed(0)
    gradients = []
    for form in (_Involve.apply, involve):
        planes = torch.linspace(-1, 1, 2 * 3 * 2 * 30, dtype=torch.float64)
        planes = planes.reshape(2, 3, 2, 5, 6).requires_grad_()
        kernels = torch.linspace(-2, 1, 2 * 9 * 2 * 12, dtype=torch.float64)
        kernels = kernels.reshape(2, 9, 2, 3, 4).requires_grad_()
        form(planes, kernels).pow(3).sum().backward()
        gradients.append((planes.grad, kernels.grad))
    for fast, plain in zip(*gradients, strict=True):
        assert plain.abs().max() > 0.1
        torch.testing.assert_close(fast, plain, rtol=1e-12, atol=1e-12)


def test_layer_norm_looks_at_one_pixel_alone() -> None:
    norm = ChannelNorm(6)
    x = torch.randn(2, 6, 4, 5)
    expected = F.layer_norm(x.movedim(1, -1), (6,)).movedim(-1, 1)
    torch.testing.assert_close(norm(x), expected)

import pytest
import torch
from torch import nn

from hsi_train.layers import norm_affine


@pytest.mark.parametrize(
    ("norm", "shape"),
    [(nn.BatchNorm2d(4), (3, 4, 5, 6)), (nn.BatchNorm3d(4), (3, 4, 2, 5, 6))],
)
def test_affine_form_is_what_a_batch_norm_computes(
    norm: nn.BatchNorm2d | nn.BatchNorm3d, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 3 + 2 * torch.randn(shape)
    norm.train()(x)  # statistics other than 0 and 1
    norm.eval()
    gain, offset = (v.reshape(4, *[1] * (len(shape) - 2)) for v in norm_affine(norm))
    torch.testing.assert_close(x * gain + offset, norm(x))

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hsi_runtime.errors import RecipeError
from hsi_train import methods
from hsi_train.layers import crop_to, parameter_count
from hsi_train.method import Problem
from hsi_train.methods.mf2cnet import DepthwiseConv3d, GranularBlock, Method, Options


def build(bands: int, **options: object) -> Method:
    problem = Problem(
        band_mean=torch.zeros(bands),
        band_std=torch.ones(bands),
        class_counts=torch.ones(6),
        class_means=torch.zeros(6, bands),
        top=torch.tensor(1.0),
    )
    method = methods.build("mf2cnet", problem, dict(options))
    assert isinstance(method, Method)
    return method


@pytest.mark.parametrize(("stride", "count"), [(4, 161_458), (2, 318_130)])
def test_parameter_count(stride: int, count: int) -> None:
    assert parameter_count(build(204, spectral_stride=stride)) == count


@pytest.mark.parametrize("stride", [1, 2, 4, 16])
@pytest.mark.parametrize("bands", [1, 7, 102, 103, 144, 200, 204, 218])
def test_depth_after_the_stem(bands: int, stride: int) -> None:
    method = build(bands, spectral_stride=stride, features=4, hidden=2)
    depth = (bands - 1) // stride + 1
    with torch.inference_mode():
        out = method.network.stem(torch.zeros(1, 1, bands, 2, 3))
    assert out.shape == (1, 4, depth, 2, 3)
    assert method.network.head[0].in_channels == 4 * depth


def test_depth_of_known_sensors() -> None:
    depths = {5: 5, 29: 29, 30: 15, 60: 15, 102: 17, 144: 18, 200: 25, 218: 28}
    for bands, depth in depths.items():
        out = build(bands).network.stem(torch.zeros(1, 1, bands, 1, 1))
        assert out.shape[2] == depth


@pytest.mark.parametrize("depth", [1, 2, 3, 13])
def test_three_taps_equal_the_3d_convolution(depth: int) -> None:
    torch.manual_seed(depth)
    layer = DepthwiseConv3d(5).double()
    features = torch.randn(2, 5, depth, 7, 6, dtype=torch.float64)
    expected = F.conv3d(features, layer.weight, padding=(1, 0, 0), groups=5)
    assert (layer.three_taps(features) - expected).abs().max() < 1e-12
    assert (layer.train()(features) - expected).abs().max() < 1e-12
    assert (layer.eval()(features) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_three_taps_have_the_gradients_of_the_3d_convolution(depth: int) -> None:
    torch.manual_seed(depth)
    layer = DepthwiseConv3d(3).double()
    gradients = []
    for mode in (True, False):
        features = torch.linspace(-1, 1, 3 * depth * 30, dtype=torch.float64)
        features = features.reshape(1, 3, depth, 5, 6).requires_grad_()
        layer.zero_grad()
        layer.train(mode)(features).pow(3).sum().backward()
        assert features.grad is not None
        assert layer.weight.grad is not None
        gradients.append((features.grad, layer.weight.grad.clone()))
    for taps, whole in zip(*gradients, strict=True):
        assert (taps - whole).abs().max() < 1e-12


def test_training_form_with_frozen_statistics_equals_evaluation_form() -> None:
    torch.manual_seed(0)
    method = build(9, dropout=0.0).double()
    method.train()
    for _ in range(3):  # statistics other than 0 and 1
        method.network(torch.randn(4, 9, 13, 14, dtype=torch.float64) * 2 + 1)
    cube = torch.randn(2, 9, 18, 16, dtype=torch.float64)
    with torch.inference_mode():
        expected = method.eval().network(cube)
        method.train()
        for module in method.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
        assert (method.network(cube) - expected).abs().max() < 1e-12


def test_nothing_exists_for_training_only() -> None:
    assert build(12).training_only() == []


@pytest.mark.parametrize(
    "options",
    [
        {"features": 6},
        {"features": 0},
        {"features": 10_000_000},
        {"hidden": 10_000_000},
        {"spectral_stride": 0},
        {"dropout": 1.0},
        {"class_weighting": -1},
        {"hidden": "many"},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="options"):
        build(12, **options)


def test_options_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Options().features = 8  # type: ignore[misc]


def test_groups_are_parts_of_one_product() -> None:
    torch.manual_seed(0)
    block = GranularBlock(8).train()
    x = torch.randn(2, 8, 5, 10, 11)
    for _ in range(3):
        block(x)  # statistics other than 0 and 1
    block.eval()
    inner = crop_to(x, 4, 5)
    with torch.inference_mode():
        first, *rest = block.mix(x).split(2, dim=1)
        found = list(block.mixed_groups(x, inner))
    for ours, theirs in zip(found, [crop_to(first, 4, 5), *rest], strict=True):
        assert theirs.std() > 0.1
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_head_takes_all_depths_as_one_kernel_or_flat() -> None:
    torch.manual_seed(0)
    head = build(8, features=8, hidden=5).network.head.double()
    norm = head[1]
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.normal_(norm.weight, mean=1)
    norm.running_mean = torch.randn(5, dtype=torch.float64)
    x = torch.randn(2, 8, 8, 3, 4, dtype=torch.float64)
    flat = nn.Sequential(nn.Flatten(1, 2), *head.eval())
    torch.testing.assert_close(head(x), flat(x))
    norm.train()
    assert torch.equal(head(x), flat(x))

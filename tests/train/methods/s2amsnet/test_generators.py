import pytest
import torch

from hsi_train import changes
from hsi_train.methods.s2amsnet.generators import SMOOTH, Generator


@pytest.mark.parametrize("smooth", [True, False])
def test_change_is_a_sum_of_cosines_where_it_shall_be_smooth(smooth: bool) -> None:
    bands = 30
    torch.manual_seed(0)
    generator = Generator(bands, 0.5, smooth)
    x = torch.rand(3, bands, 19, 19)
    with torch.no_grad():
        change = 2 * generator(x) - x  # equal shares at first
    spectra = change.movedim(1, 0).flatten(1)  # (band, pixel)
    basis = torch.from_numpy(changes.cosines(bands, SMOOTH)).float()
    left = spectra - basis @ torch.linalg.lstsq(basis, spectra).solution
    share = float(left.square().mean() / spectra.square().mean())
    assert share < 1e-9 if smooth else share > 0.3


@pytest.mark.parametrize("smooth", [True, False])
def test_generator_scale_is_the_size_of_the_first_change(smooth: bool) -> None:
    x = 0.8 + 0.3 * torch.rand(4, 7, 19, 19, generator=torch.Generator().manual_seed(1))
    sizes = []
    for scale in (1e-6, 0.1, 0.4):
        torch.manual_seed(0)
        generator = Generator(7, scale, smooth)
        altered = 2 * generator(x)  # equal shares at first
        sizes.append(float((altered - x).detach().square().mean().sqrt()))
    assert sizes[0] < 1e-4
    assert sizes[2] == pytest.approx(4 * sizes[1], rel=1e-2)
    assert 0.02 < sizes[1] < 0.2

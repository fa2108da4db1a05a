import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hsi_train import changes
from hsi_train.layers import BrightnessFree

BANDS, LEVEL = 40, 1200.0


def spectra(count: int = 3) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    steps = rng.normal(0, 60, (count, BANDS))
    smooth: NDArray[np.float64] = 1000 + np.cumsum(steps, axis=1)
    return smooth


def drawn(one: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Draw copies of a spectrum, shape ``(copy, band)``."""
    torch.manual_seed(0)
    cube = torch.from_numpy(one)[None, :, None, None].expand(count, -1, -1, -1)
    copies: NDArray[np.float64] = changes.draw(cube, LEVEL)[:, :, 0, 0].numpy()
    return copies


def test_cosines_are_smooth_and_of_unit_power() -> None:
    basis = changes.cosines(200, 8)
    assert basis.shape == (200, 8)
    assert np.square(basis).sum(axis=1).mean() == pytest.approx(1)
    assert (np.diff(np.abs(basis).max(axis=0)) < 0).all()
    crossings = (np.sign(basis[1:]) != np.sign(basis[:-1])).sum(axis=0)
    assert crossings.tolist() == list(range(8))


@pytest.mark.parametrize("bands", [1, 2, 7, 60])
def test_matrices_of_the_band_axis(bands: int) -> None:
    ramp = np.arange(bands, dtype=np.float64)
    assert np.allclose(ramp @ changes.slope(bands), 1 if bands > 1 else 0)
    flat = np.full(bands, 3.0)
    assert np.allclose(flat @ changes.slope(bands), 0)
    assert np.allclose(flat @ changes.widening(bands), 0)


def test_a_wider_band_spreads_a_line() -> None:
    line = np.zeros(21)
    line[10] = 1
    seen = line + line @ changes.widening(21)
    assert seen.sum() == pytest.approx(1)
    assert seen[10] == seen.max() < 0.5
    # Half of the height lies WIDTH / 2 away, between the first band and the second.
    assert seen[12] < seen[10] / 2 < seen[11]


@pytest.mark.parametrize("brightness_free", [False, True])
def test_the_covariance_is_that_of_drawn_copies(
    brightness_free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small changes, so that taking the brightness away is as good as linear.
    for name in ("FACTOR", "OFFSET", "MOVED", "ERROR"):
        monkeypatch.setattr(changes, name, getattr(changes, name) / 50)
    monkeypatch.setattr(changes, "WIDER", 0.0)
    (one,) = spectra(1)
    copies = drawn(one, 20_000)
    if brightness_free:
        free = BrightnessFree(torch.zeros(BANDS))
        seen = free(torch.from_numpy(copies.T.copy())[None, :, :, None])
        copies = seen[0, :, :, 0].T.numpy()
    expected = changes.covariance(one[None], LEVEL, brightness_free)
    sampled = np.cov(copies.T)
    error = np.linalg.norm(sampled - expected) / np.linalg.norm(expected)
    assert error < 0.05


def test_weaker_changes_are_smaller_in_proportion() -> None:
    several = spectra(4)
    for free in (False, True):
        whole = changes.covariance(several, LEVEL, free)
        half = changes.covariance(several, LEVEL, free, 0.5)
        assert np.allclose(half, whole / 4)
    cube = torch.from_numpy(several.T[None, :, :, None]).float()
    torch.manual_seed(3)
    weak = changes.draw(cube, LEVEL, 1e-6)
    torch.testing.assert_close(weak, cube, rtol=1e-4, atol=1e-4)


def test_the_covariance_of_pixels_is_the_mean_of_theirs() -> None:
    several = spectra(4)
    for free in (False, True):
        each = [changes.covariance(one[None], LEVEL, free) for one in several]
        found = changes.covariance(several, LEVEL, free)
        assert np.allclose(found, np.mean(each, axis=0))
        assert np.allclose(found, found.T)
        assert np.linalg.eigvalsh(found).min() > -1e-9


def test_a_spectrum_of_zeros_has_no_shape_to_change() -> None:
    found = changes.covariance(np.zeros((2, BANDS)), LEVEL, True)
    assert np.array_equal(found, np.zeros((BANDS, BANDS)))


def test_copies_keep_the_source_in_the_mean_and_one_change_a_sample() -> None:
    (one,) = spectra(1)
    copies = drawn(one, 4000)
    far = np.abs(copies.mean(axis=0) / one - 1)
    assert far.max() < 0.1
    assert (copies.std(axis=0) / one).min() > 0.1
    cube = torch.from_numpy(one)[None, :, None, None].expand(2, -1, 3, 3)
    changed = changes.draw(cube, LEVEL)
    assert torch.allclose(changed, changed[:, :, :1, :1].expand_as(changed))
    assert not torch.allclose(changed[0], changed[1])


def test_drawing_depends_on_the_seed_only() -> None:
    (one,) = spectra(1)
    assert np.array_equal(drawn(one, 3), drawn(one, 3))

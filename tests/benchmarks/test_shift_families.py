import numpy as np
import pytest
import shift_families
from shift_families import FAMILIES


def test_shifts_have_both_signs_and_grow_with_strength() -> None:
    slopes = [shift_families.draw_shift(d, 1).gain_slope for d in range(5)]
    assert (np.sign(slopes) == [-1, 1, -1, 1, -1]).all()
    for draw in range(5):
        weak, strong = (shift_families.draw_shift(draw, s) for s in (1, 3))
        for name in ("gain_slope", "offset", "haze", "spectral_shift_nm"):
            assert getattr(strong, name) == pytest.approx(3 * getattr(weak, name))
        assert strong.gain - 1 == pytest.approx(3 * (weak.gain - 1))
        assert strong.gain > 0.5
    assert len(set(slopes)) == 5


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_families_change_a_cube_and_keep_its_shape(name: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    cube = rng.integers(500, 4000, (30, 6, 7)).astype(dtype)
    centres = np.linspace(400, 2400, 30)
    before = cube.copy()
    shifted = FAMILIES[name](cube, centres)
    assert shifted.shape == cube.shape
    assert np.array_equal(cube, before)
    assert np.isfinite(shifted).all()
    assert not np.allclose(shifted, cube, rtol=1e-3)
    assert np.array_equal(shifted, FAMILIES[name](cube, centres))

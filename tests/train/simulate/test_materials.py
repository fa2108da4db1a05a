import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsi_train.simulate.materials import MATERIALS, reflectance, variants

FULL_RANGE = np.arange(350.0, 2501.0, 5.0)
GREEN = ["grass", "broadleaf", "conifer", "crop"]


def at(spectra: np.ndarray, wavelength_nm: float) -> np.ndarray:
    """Values of ``(variant, band)`` spectra over FULL_RANGE at one wavelength."""
    values: np.ndarray = spectra[:, int((wavelength_nm - 350) / 5)]
    return values


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(MATERIALS)),
    wavelengths_nm=st.lists(st.floats(350, 2500), min_size=1, max_size=40),
    data=st.data(),
)
def test_any_parameters_in_bounds_give_reflectance(
    name: str, wavelengths_nm: list[float], data: st.DataObject
) -> None:
    parameters = {
        key: data.draw(st.floats(low, high), label=key)
        for key, (low, high) in MATERIALS[name].bounds.items()
    }
    spectrum = MATERIALS[name].shape(np.array(wavelengths_nm), parameters)
    # The formula itself stays in bounds: clipping is for rounding only.
    assert np.all(spectrum >= 0)
    assert np.all(spectrum <= 1)
    np.testing.assert_array_equal(
        reflectance(name, wavelengths_nm, parameters), spectrum
    )


@pytest.mark.parametrize("name", GREEN)
def test_plants_have_green_peak_red_edge_and_water_bands(name: str) -> None:
    s = variants(name, FULL_RANGE, 8)
    nir, red = at(s, 860), at(s, 670)
    assert np.all((nir - red) / (nir + red) > 0.5)
    assert np.all(at(s, 550) > red)
    assert np.all(at(s, 550) > at(s, 480))
    assert np.all(at(s, 970) < at(s, 900))
    assert np.all(at(s, 1450) < 0.7 * at(s, 1650))
    assert np.all(at(s, 1940) < 0.7 * at(s, 1650))


def test_other_materials_have_their_marks() -> None:
    s = {name: variants(name, FULL_RANGE, 8) for name in MATERIALS}
    assert np.all(at(s["water"], 1000) < 0.03)
    assert np.all(at(s["water"], 560) > at(s["water"], 800))
    assert np.all(at(s["bright_soil"], 2205) < at(s["bright_soil"], 2150))
    assert np.all(at(s["bright_soil"], 800) > at(s["bright_soil"], 450))
    assert np.all(at(s["concrete"], 2340) < at(s["concrete"], 2250))
    assert np.all(at(s["red_tile"], 650) > 1.5 * at(s["red_tile"], 500))
    assert np.all(at(s["asphalt"], 2000) > at(s["asphalt"], 450))
    assert np.all(s["asphalt"] < 0.3)
    dip = at(s["dry_vegetation"], 2100) / at(s["dry_vegetation"], 2220)
    assert np.all(dip < 1)


def test_variants_differ_and_are_the_same_every_time() -> None:
    for name in MATERIALS:
        first = variants(name, [500.0, 900.0, 2100.0], 8)
        assert np.unique(first, axis=0).shape[0] == 8
        np.testing.assert_array_equal(first, variants(name, [500.0, 900.0, 2100.0], 8))

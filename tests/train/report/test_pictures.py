import base64
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageColor

from hsi_train.data.labelled_scene import UNLABELLED, LabelledData
from hsi_train.report import pictures

MakeData = Callable[..., LabelledData]

FINE = np.arange(400.0, 1000.0, 10.0)


def pixels_of(uri: str) -> NDArray[np.uint8]:
    data = base64.b64decode(uri.split(",")[1])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def with_wavelengths(
    data: LabelledData, centres: NDArray[np.float64], bands: NDArray[np.intp]
) -> LabelledData:
    info = replace(data.reference, wavelengths_nm=centres, bands=len(centres))
    return replace(data, scenes=[replace(data.scenes[0], info=info)], bands=bands)


def data_of(make_data: MakeData, bands: int = 5, **more: Any) -> LabelledData:
    return make_data(np.array([[1, 2, 0], [2, 1, 1]]), bands=bands, **more)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (pictures.TRUE_COLOUR_NM, [24, 15, 6]),
        (pictures.INFRARED_NM, [46, 25, 15]),
    ],
)
def test_bands_are_picked_by_wavelength(
    wanted: tuple[float, ...], expected: list[int]
) -> None:
    assert pictures.nearest_bands(FINE, wanted) == expected
    found = pictures.nearest_bands(FINE[::-1], wanted)  # falling wavelengths
    assert found == [len(FINE) - 1 - b for b in expected]


def test_a_band_that_is_far_stands_for_nothing() -> None:
    nearest = pictures.nearest_bands
    assert nearest(FINE[FINE < 800], pictures.TRUE_COLOUR_NM) is not None
    assert nearest(FINE[FINE < 800], pictures.INFRARED_NM) is None
    assert nearest(np.array([1200.0, 1600, 2200]), pictures.INFRARED_NM) is None
    # One band is the nearest to both red and green.
    assert nearest(np.array([460.0, 595.0]), pictures.TRUE_COLOUR_NM) is None


def test_both_composites_of_a_scene_with_wavelengths(make_data: MakeData) -> None:
    # Red is bad and not used: its neighbour at 650 nm stands in.
    centres = np.array([460.0, 550, 640, 650, 860])
    used = np.array([0, 1, 3, 4])
    data = with_wavelengths(data_of(make_data, bands=4), centres, used)
    found, said = pictures.composites(data)
    assert found == {"True colour": [2, 1, 0], "Colour infrared": [3, 2, 1]}
    assert said == ""


def test_what_the_spectrum_lacks_is_said(make_data: MakeData) -> None:
    centres = np.array([460.0, 550, 640, 700])
    data = with_wavelengths(data_of(make_data, bands=4), centres, np.arange(4))
    found, said = pictures.composites(data)
    assert list(found) == ["True colour"]
    assert "Colour infrared needs bands near 860, 650, 550 nm" in said
    assert "between 460 and 700 nm" in said


@pytest.mark.parametrize("bands", [1, 2, 5])
def test_without_wavelengths_it_is_said(make_data: MakeData, bands: int) -> None:
    data = data_of(make_data, bands=bands)
    found, said = pictures.composites(data)
    assert "no wavelengths" in said
    (chosen,) = found.values()
    assert len(chosen) == 3
    assert set(chosen) <= set(range(bands))


def test_composites_stretch_each_band(make_data: MakeData) -> None:
    valid = np.ones((2, 3), dtype=bool)
    valid[1, 2] = False
    cube = np.arange(18, dtype=np.float32).reshape(3, 2, 3)
    cube[0] *= 1000
    cube[1] = 7  # says nothing
    cube[:, 1, 2] = np.nan
    data = data_of(make_data, bands=3, valid=valid, cubes=[cube])
    picture = pictures.composite(data.scenes[0], [0, 1, 2])
    assert picture[1, 2].tolist() == [255, 255, 255]  # nodata
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[1, 1].tolist() == [255, 0, 255]
    assert picture[0, 2].tolist() == [128, 0, 128]
    # The lowest and the highest 2 % are cut off: 1 is 0.92 above what is black.
    assert picture[0, 1, 0] == round(255 * 0.92 / 3.84)


def test_a_scene_without_data_is_white(make_data: MakeData) -> None:
    data = data_of(make_data)
    empty = replace(data.scenes[0], valid=np.zeros((2, 3), dtype=bool))
    assert (pictures.composite(empty, [0, 1, 2]) == 255).all()


def test_painted_colours_are_exact() -> None:
    indices = np.array([[0, 1], [UNLABELLED, 0]])
    valid = np.array([[True, True], [True, False]])
    uri = pictures.painted(indices, ["#ff0000", "#00ff00"], valid, 10_000)
    factor = pictures.SMALL_SIDE // 2
    drawn = pixels_of(uri)
    assert drawn.shape == (2 * factor, 2 * factor, 3)
    nothing = ImageColor.getrgb(pictures.NOTHING)
    nodata = ImageColor.getrgb(pictures.NODATA)
    expected = np.array([[(255, 0, 0), (0, 255, 0)], [nothing, nodata]])
    np.testing.assert_array_equal(drawn, expected.repeat(factor, 0).repeat(factor, 1))


def test_large_maps_are_thinned_out() -> None:
    indices = np.zeros((900, 2000), dtype=np.int16)
    indices[:, 1000:] = 1
    valid = np.ones(indices.shape, dtype=bool)
    uri = pictures.painted(indices, ["#000000", "#ffffff"], valid, 200_000)
    drawn = pixels_of(uri)
    assert drawn.shape == (300, 667, 3)
    assert (drawn[:, :334] == 0).all()
    assert (drawn[:, 334:] == 255).all()


def test_rare_labels_survive_thinning_out() -> None:
    indices = np.full((400, 900), UNLABELLED)
    valid = np.ones(indices.shape, dtype=bool)
    indices[:, 450:] = 0
    at = [(10, 20), (11, 500), (211, 333), (399, 899)]
    for place in at:
        indices[place] = 1
    uri = pictures.painted(indices, ["#000000", "#ff0000"], valid, 40_000, rare=True)
    drawn = pixels_of(uri)
    assert drawn.shape == (134, 300, 3)
    red = np.argwhere((drawn == (255, 0, 0)).all(axis=2))
    assert red.tolist() == [[r // 3, c // 3] for r, c in at]


def test_shares_run_through_the_scale() -> None:
    shares = np.array([[0.0, 0.5, 1.0, np.nan]], dtype=np.float32)
    valid = np.ones(shares.shape, dtype=bool)
    drawn = pixels_of(pictures.painted_shares(shares, valid, 10_000))
    drawn = drawn[0, :: drawn.shape[1] // 4]
    colors = pictures.SHARE_COLORS
    steps = [colors[0], colors[len(colors) // 2], colors[-1], pictures.NOTHING]
    assert drawn.tolist() == [list(ImageColor.getrgb(c)) for c in steps]


def test_large_photographs_are_small_files() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (700, 700, 3), dtype=np.uint8)
    uri = pictures.photograph(picture, 500_000)
    assert uri.startswith("data:image/jpeg")
    assert len(uri) < picture.size
    small = pictures.photograph(picture[:20, :30], 500_000)
    assert small.startswith("data:image/png")
    factor = pictures.SMALL_SIDE // 30
    np.testing.assert_array_equal(
        pixels_of(small)[::factor, ::factor], picture[:20, :30]
    )

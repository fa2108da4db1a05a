from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from numpy.typing import NDArray

from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.report import spectra as report_spectra
from hsi_train.report.plots import plot_style
from hsi_train.report.spectra import SpectralAxis
from hsi_train.splitting import split

MakeData = Callable[..., LabelledData]
ReadPage = Callable[[str], Any]

# The second spectrometer starts before the first ends; 700 to 1500 is missing.
CENTRES = np.array([400.0, 500, 600, 700, 650, 1500, 1600, 1700, 1800, 9999])
USED = np.array([0, 1, 2, 3, 4, 5, 6, 8])


def data_of(make_data: MakeData, bands: int = len(USED)) -> LabelledData:
    rng = np.random.default_rng(0)
    return make_data(
        rng.integers(0, 4, (14, 19)), rng.integers(0, 4, (9, 8)), bands=bands
    )


def with_wavelengths(data: LabelledData) -> LabelledData:
    info = replace(data.reference, wavelengths_nm=CENTRES, bands=len(CENTRES))
    scenes = [replace(data.scenes[0], info=info), *data.scenes[1:]]
    return replace(data, scenes=scenes, bands=USED)


def axis_at(*places: float) -> SpectralAxis:
    count = sum(np.isfinite(places))
    broken = np.flatnonzero(np.isnan(places)) - np.arange(len(places) - count)
    return SpectralAxis(np.array(places), "nm", np.arange(count), broken)


def test_missing_bands_are_a_gap(make_data: MakeData) -> None:
    axis = report_spectra.spectral_axis(with_wavelengths(data_of(make_data)))
    assert axis.label == "wavelength [nm]"
    known = np.isfinite(axis.places)
    assert axis.places[known].tolist() == [400, 500, 600, 650, 700, 1500, 1600, 1800]
    assert np.flatnonzero(~known).tolist() == [5]  # between 700 and 1500
    spectrum = np.arange(8, dtype=np.float32)
    values = axis.values(spectrum)
    np.testing.assert_array_equal(values[known], [0, 1, 2, 4, 3, 5, 6, 7])
    assert np.isnan(values[5])


def test_without_wavelengths_bands_are_numbered_from_one(make_data: MakeData) -> None:
    data = replace(data_of(make_data), bands=np.array([0, 1, 2, 3, 5, 6, 7, 8]))
    axis = report_spectra.spectral_axis(data)
    assert axis.label == "band of the scene"
    assert axis.places.tolist() == [1, 2, 3, 4, 6, 7, 8, 9]


def test_one_band_is_drawn(make_data: MakeData) -> None:
    data = replace(data_of(make_data), bands=np.array([4]))
    axis = report_spectra.spectral_axis(data)
    assert axis.places.tolist() == [5]
    one = np.ones(1)
    report_spectra.draw_spectrum(axis, one, one, one, "#000000", (0, 2), "value")


def test_marks_show_what_a_line_cannot() -> None:
    assert axis_at(1, 2, 3).marks() == [0, 1, 2]  # few bands
    many = [float(n) for n in range(report_spectra.FEW_BANDS + 1)]
    assert axis_at(*many).marks() == []
    nan = float("nan")
    assert axis_at(-9, nan, *many, nan, 99).marks() == [0, len(many) + 3]


@pytest.mark.parametrize("role", [Role.TRAIN, Role.TEST])
def test_mean_and_spread_of_each_class(
    make_data: MakeData, monkeypatch: pytest.MonkeyPatch, role: Role
) -> None:
    monkeypatch.setattr(report_spectra, "ROWS_AT_ONCE", 4)
    data = split.per_class(data_of(make_data), 5, 0)
    found = report_spectra.class_spectra(data, role, np.full(len(USED), 500.0))
    for k in range(len(data.classes)):
        spectra = np.concatenate(
            [s.cube[:, (s.roles == role) & (s.classes == k)] for s in data.scenes],
            axis=1,
        ).astype(np.float64)
        assert found.pixels[k] == spectra.shape[1] > 0
        np.testing.assert_allclose(found.mean[k], spectra.mean(axis=1))
        np.testing.assert_allclose(found.std[k], spectra.std(axis=1), rtol=1e-6)


def test_large_values_keep_their_spread(make_data: MakeData) -> None:
    """The spread of values near 1e9 is lost if their squares are summed up."""
    codes = np.array([[1, 1, 2, 2]])
    cube = 1e9 + np.array([[[0.0, 2, 5, 5]]])
    data = make_data(codes, bands=1, cubes=[cube])
    data = data.divided([np.full(codes.shape, Role.TRAIN, dtype=np.uint8)])
    found = report_spectra.class_spectra(data, Role.TRAIN, np.array([1e9]))
    assert found.std.ravel().tolist() == [1, 0]


def test_a_class_without_pixels_is_unknown(make_data: MakeData) -> None:
    data = data_of(make_data)
    tested = data.scenes[0].classes == 1
    data.scenes[0].roles[tested] = Role.TEST
    found = report_spectra.class_spectra(data, Role.TEST, np.zeros(len(USED)))
    assert found.pixels.tolist() == [0, tested.sum(), 0]
    assert np.isnan(found.mean).all(axis=1).tolist() == [True, False, True]


def test_wild_bands_do_not_stretch_the_axis() -> None:
    values = np.tile(np.linspace(100.0, 200.0, 60), (3, 1))
    (low, high), cut = report_spectra.value_limits(values)
    assert (low, high) == pytest.approx((92, 208), abs=5)
    assert not cut
    values[1, 30:32] = 9000
    limits, cut = report_spectra.value_limits(values)
    assert limits == pytest.approx((low, high), abs=2)
    assert cut
    # A broad peak is no spike, nor is anything among few bands.
    values[1, 25:40] = 9000
    assert report_spectra.value_limits(values)[0][1] > 9000
    few = np.full((1, 8), 5.0)
    few[0, 3] = 9000
    assert report_spectra.value_limits(few)[0][1] > 9000


def test_lines_of_unknown_classes_do_not_count() -> None:
    values = np.array([[1.0, 2, 3], [np.nan] * 3])
    (low, high), cut = report_spectra.value_limits(values)
    assert low < 1 < 3 < high
    assert not cut
    assert report_spectra.value_limits(np.full((2, 3), 7.0))[0] == (6, 8)


def test_a_panel_shows_mean_spread_and_test(make_data: MakeData) -> None:
    axis = report_spectra.spectral_axis(with_wavelengths(data_of(make_data)))
    rng = np.random.default_rng(0)
    mean, std, test = rng.uniform(1, 9, (3, len(USED)))
    drawn = report_spectra.draw_spectrum(
        axis, mean, std, test, "#cc3311", (0, 20), "reflectance"
    )
    plot: Any = drawn.axes[0]
    assert plot.get_ylim() == (0, 20)
    assert (plot.get_xlabel(), plot.get_ylabel()) == ("wavelength [nm]", "reflectance")
    for line, values in zip(plot.lines, (mean, test), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), axis.places)
        np.testing.assert_array_equal(line.get_ydata(), axis.values(values))
    (shade,) = plot.collections
    assert shade.get_facecolor()[0].tolist() == pytest.approx(to_rgba("#cc3311", 0.55))
    paths = shade.get_paths()
    assert len(paths) == 2  # one on each side of the gap
    heights: NDArray[Any] = np.concatenate([p.vertices for p in paths])[:, 1]
    assert heights.max() == pytest.approx((mean + std).max())
    assert heights.min() == pytest.approx((mean - std).min())


@pytest.mark.parametrize("end", [2500.0, 204.0, 1e6])
@pytest.mark.parametrize("limits", [(0.0, 1.1), (-300.0, 65_000.0), (0.0, 3e7)])
def test_numbers_lie_within_a_panel(end: float, limits: tuple[float, float]) -> None:
    axis = axis_at(*np.linspace(0, end, 50))
    flat = np.full(50, limits[1] / 2)
    with plot_style():
        drawn = report_spectra.draw_spectrum(
            axis, flat, flat, flat, "#000000", limits, "unit"
        )
        drawn.draw_without_rendering()
        drawn.patch.set_visible(False)
        inked = drawn.get_tightbbox()  # inches
    width, height = drawn.get_size_inches()
    assert 0 <= inked.x0 < inked.x1 <= width
    assert 0 <= inked.y0 < inked.y1 <= height


def test_the_section_counts_pixels_and_names_units(
    make_data: MakeData, read_page: ReadPage
) -> None:
    data = split.per_class(with_wavelengths(data_of(make_data)), 5, 0)
    centre = np.full(len(USED), 500.0)
    section = report_spectra.spectra_section(
        data, centre, "reflectance", [1e-4] * len(USED)
    )
    page = read_page(section)
    tested = data.pixels_by_role()[:, Role.TEST]
    for info, pixels in zip(data.classes, tested, strict=True):
        assert f"{info.name}: 5 training, {pixels} test pixels" in page.text
    assert len(page.all("img")) == 3
    assert "Reflectance is the stored value times 0.0001." in page.text
    unknown = report_spectra.spectra_section(data, centre, "unknown", None)
    assert "stored value times" not in unknown

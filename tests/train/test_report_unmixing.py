from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from hsi_train import method as methods
from hsi_train import patches, predict, report_unmixing, split
from hsi_train.labelled_scene import LabelledData
from hsi_train.method import BaseMethod
from hsi_train.patches import Statistics

MakeData = Callable[..., LabelledData]
CPU = torch.device("cpu")
BANDS = 8


def data_of(make_data: MakeData, scenes: int = 1) -> LabelledData:
    rng = np.random.default_rng(0)
    valid = np.ones((14, 19), dtype=bool)
    valid[3, 5] = False
    codes = [rng.integers(0, 4, valid.shape) for _ in range(scenes)]
    return make_data(*codes, bands=BANDS, valid=valid)


def unmixer(data: LabelledData) -> tuple[BaseMethod, Statistics]:
    splits = split.per_class(data, 5, 0)
    torch.manual_seed(0)
    problem = patches.problem(data.scenes, splits, 3)
    method = methods.build("s2vnet", problem, {}).eval()
    return method, patches.statistics(data.scenes, splits)


def with_wavelengths(
    data: LabelledData, centres: NDArray[np.float64], bands: NDArray[np.intp]
) -> LabelledData:
    info = replace(data.reference, wavelengths_nm=centres, bands=len(centres))
    return replace(data, scenes=[replace(data.scenes[0], info=info)], bands=bands)


def test_endmembers_stand_over_their_wavelengths(make_data: MakeData) -> None:
    spectra = np.random.default_rng(1).random((3, BANDS), dtype=np.float32)
    # The second spectrometer starts before the first ends; 700 to 1500 is missing.
    centres = np.array([400.0, 500, 600, 700, 650, 1500, 1600, 1700, 1800, 9999])
    used = np.array([0, 1, 2, 3, 4, 5, 6, 8])
    data = with_wavelengths(data_of(make_data), centres, used)
    (axis,) = report_unmixing.draw_endmembers(spectra, data).axes
    assert axis.get_xlabel() == "wavelength [nm]"
    assert len(axis.lines) == 3
    for line, info, spectrum in zip(axis.lines, data.classes, spectra, strict=True):
        assert line.get_label() == info.name
        assert line.get_color() == info.color
        places, values = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        known = np.isfinite(places)
        assert places[known].tolist() == [400, 500, 600, 650, 700, 1500, 1600, 1800]
        order = [0, 1, 2, 4, 3, 5, 6, 7]
        np.testing.assert_array_equal(values[known], spectrum[order])
        assert np.flatnonzero(~known).tolist() == [5]  # between 700 and 1500


def test_without_wavelengths_bands_are_numbered_from_one(make_data: MakeData) -> None:
    data = replace(data_of(make_data), bands=np.array([0, 1, 2, 3, 5, 6, 7, 8]))
    spectra = np.ones((3, BANDS), dtype=np.float32)
    (axis,) = report_unmixing.draw_endmembers(spectra, data).axes
    assert axis.get_xlabel() == "band of the scene"
    assert np.asarray(axis.lines[0].get_xdata()).tolist() == [1, 2, 3, 4, 6, 7, 8, 9]


def test_one_band_is_drawn(make_data: MakeData) -> None:
    data = replace(data_of(make_data), bands=np.array([4]))
    figure = report_unmixing.draw_endmembers(np.ones((3, 1), dtype=np.float32), data)
    assert len(figure.axes[0].lines) == 3


def test_abundance_maps_show_shares_in_class_colours(make_data: MakeData) -> None:
    data = data_of(make_data)
    shares = np.zeros((3, 14, 19), dtype=np.float32)
    shares[1, 2, 7] = 1
    figure = report_unmixing.draw_abundances(shares, data.scenes[0], data)
    assert [a.get_title() for a in figure.axes] == [c.name for c in data.classes]
    image = figure.axes[1].get_images()[0]
    values = image.get_array()
    assert values is not None
    drawn = image.to_rgba(values)[..., :3]
    assert drawn[2, 7] == pytest.approx(to_rgb(data.classes[1].color), abs=0.01)
    assert drawn[0, 0] == pytest.approx(to_rgb("#f4f4f4"), abs=0.01)
    assert np.ma.getmaskarray(values)[3, 5]  # nodata


def test_many_classes_take_several_lines(make_data: MakeData) -> None:
    data = data_of(make_data)
    classes = [data.classes[0]] * 8
    figure = report_unmixing.draw_abundances(
        np.zeros((8, 14, 19), dtype=np.float32),
        data.scenes[0],
        replace(data, classes=classes),
    )
    assert len(figure.axes) == 2 * report_unmixing.COLUMNS
    assert sum(bool(a.get_images()) for a in figure.axes) == 8


def test_only_some_scenes_are_drawn(
    make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(make_data, report_unmixing.MAX_SCENES + 1)
    method, statistics = unmixer(data)
    found = report_unmixing.figures(method, data, statistics, CPU)
    assert len(found) == 1 + report_unmixing.MAX_SCENES
    monkeypatch.setattr(report_unmixing, "MAX_PIXELS", 10)
    assert len(report_unmixing.figures(method, data, statistics, CPU)) == 1


def test_figures_draw_the_methods_own_answers(
    make_data: MakeData, tmp_path: Path
) -> None:
    data = data_of(make_data)
    method, statistics = unmixer(data)
    spectra, maps = report_unmixing.figures(method, data, statistics, CPU)
    endmembers = method.endmembers()
    assert endmembers is not None
    lines = spectra.axes[0].lines
    for line, spectrum in zip(lines, endmembers.numpy(), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), spectrum)
    scene = data.scenes[0]
    expected = predict.output_maps(
        method, "abundances", scene, scene.valid, statistics.mean, CPU
    )
    drawn = maps.axes[2].get_images()[0].get_array()
    assert drawn is not None
    image = np.ma.filled(drawn, np.nan)
    np.testing.assert_array_equal(image[scene.valid], expected[2][scene.valid])
    for number, figure in enumerate((spectra, maps)):
        figure.savefig(tmp_path / f"{number}.png")

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spectra_files import CENTRES, braces, reflectances, write_library, write_table

from hsi_runtime.errors import BandMismatchError, SceneError
from hsi_runtime.scenes.scene import SceneInfo
from hsi_train.data.spectra import reading
from hsi_train.data.spectra.reading import Collected
from hsi_train.recipe import Data

MakeInfo = Callable[..., SceneInfo]


def read(
    *paths: Path,
    sensor: SceneInfo | None = None,
    named: dict[int, str] | None = None,
    **settings: Any,
) -> Collected:
    data = Data(spectra=tuple(map(str, paths)), **settings)
    return reading.read(data, sensor, named or {})


def test_library_is_a_scene_of_one_column(tmp_path: Path) -> None:
    found = read(write_library(tmp_path))
    assert found.cube.shape == (4, 5, 1)
    np.testing.assert_allclose(found.cube[:, :, 0].T, reflectances(), rtol=1e-6)
    assert found.codes[:, 0].tolist() == [2, 2, 1, 1, 1]
    assert found.table.names == {1: "grass", 2: "soil"}
    info = found.info
    assert (info.rows, info.cols, info.dtype.name) == (5, 1, "float32")
    assert info.scale is not None
    assert info.scale.tolist() == [1] * 4
    assert found.spectra.objects.tolist() == [0, 1, 2, 3, 4]
    assert not found.spectra.grouped


def test_units_are_converted_so_that_files_of_two_scales_fit(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    thousands = np.round(reflectances() * 9e3).astype("<i2")
    whole = write_library(
        tmp_path / "other", thousands, **{"reflectance scale factor": 10000}
    )
    found = read(write_library(tmp_path), whole)
    values = found.cube[:, :, 0].T
    np.testing.assert_allclose(values[5:], 0.9 * values[:5], atol=1e-4)
    with pytest.raises(SceneError, match=r"states a scale of 0\.0001, and --scale"):
        read(whole, scale=0.01)


def test_scale_is_for_files_that_state_none(tmp_path: Path) -> None:
    table = write_table(tmp_path / "p.csv", values=100 * reflectances())
    found = read(table, scale=0.01)
    np.testing.assert_allclose(found.cube[:, :, 0].T, reflectances(), rtol=1e-6)
    library = write_library(tmp_path, reflectance_scale_factor=None)
    with pytest.raises(SceneError, match="Give --scale 1"):
        read(library)
    assert read(library, scale=1.0).cube.shape == (4, 5, 1)


@pytest.mark.parametrize("scale", [100.0, 1e-5])
def test_values_that_are_no_reflectance(tmp_path: Path, scale: float) -> None:
    table = write_table(tmp_path / "p.csv")
    with pytest.raises(SceneError, match="are no reflectance"):
        read(table, scale=scale)
    assert read(table, scale=scale, quantity="radiance").cube.size


def test_missing_values_are_refused_by_name(tmp_path: Path) -> None:
    values = reflectances().astype("<f4")
    values[1, 2] = np.nan
    values[3, 0] = np.inf
    path = write_library(tmp_path, values)
    with pytest.raises(SceneError, match=r"in the spectra soil_2, grass_2\. "):
        read(path)
    path = write_library(tmp_path, values, bbl=braces([0, 1, 0, 1]))
    assert read(path).bands.tolist() == [1, 3]


def test_values_beyond_single_precision_are_missing(tmp_path: Path) -> None:
    values = reflectances()
    values[3, 0] = 1e37
    table = write_table(tmp_path / "p.csv", values=values)
    with pytest.raises(SceneError, match=r"missing in the spectra row 4\."):
        read(table, scale=100.0, quantity="radiance")
    assert read(table, scale=1.0, quantity="radiance").cube.max() < np.inf


def test_bands_without_any_value_are_left_out(tmp_path: Path) -> None:
    values = reflectances().astype("<f4")
    values[:, 2] = -9999
    found = read(write_library(tmp_path, values, data_ignore_value=-9999))
    assert found.bands.tolist() == [0, 1, 3]
    assert any("1 bands without any value" in text for text in found.messages)
    values[:] = np.nan
    with pytest.raises(SceneError, match="has no value in any good band"):
        read(write_library(tmp_path, values))


def test_no_wavelengths_are_refused(tmp_path: Path) -> None:
    path = write_library(tmp_path, wavelength=None)
    with pytest.raises(SceneError, match="states no wavelengths"):
        read(path)


def test_files_of_other_bands_are_refused(tmp_path: Path) -> None:
    library = write_library(tmp_path)
    moved = write_table(tmp_path / "p.csv", centres=[470, 570, 670, 770])
    with pytest.raises((SceneError, BandMismatchError), match=r"p\.csv"):
        read(library, moved, scale=1.0)


def test_equal_spectra_are_used_once(tmp_path: Path) -> None:
    values = reflectances()
    values[3] = values[2]
    table = write_table(tmp_path / "p.csv", values=values)
    found = read(table, scale=1.0)
    assert found.spectra.names == ["row 1", "row 2", "row 3", "row 5"]
    assert "1 spectra equal another one, and are used once." in found.messages
    table = write_table(tmp_path / "p.csv", ["s", "s", "", "g", "g"], values=values)
    assert read(table, scale=1.0).spectra.names == ["row 1", "row 2", "row 4", "row 5"]
    classes = ["soil", "soil", "grass", "tree", "grass"]
    table = write_table(tmp_path / "p.csv", classes, values=values)
    with pytest.raises(SceneError, match="row 4 and row 3 are equal spectra of diff"):
        read(table, scale=1.0)


def test_spectra_without_a_class(tmp_path: Path) -> None:
    table = write_table(tmp_path / "p.csv", ["soil", "", "grass", "grass", ""])
    found = read(table, scale=1.0)
    assert found.spectra.names == ["row 1", "row 3", "row 4"]
    assert "2 spectra have no class and are not used." in found.messages
    table = write_table(tmp_path / "p.csv", [""] * 5)
    with pytest.raises(SceneError, match="no spectrum has a class"):
        read(table, scale=1.0)


def test_class_file_gives_the_codes(tmp_path: Path) -> None:
    named = {7: "soil", 9: "water"}
    found = read(write_library(tmp_path), named=named)
    assert found.codes[:, 0].tolist() == [7, 7, 10, 10, 10]
    assert any("grass (10)" in text for text in found.messages)


def test_whole_numbers_are_codes(tmp_path: Path) -> None:
    table = write_table(tmp_path / "p.csv", ["4", "4", "12", "12", "12"])
    assert read(table, scale=1.0).codes[:, 0].tolist() == [4, 4, 12, 12, 12]


def test_codes_of_a_column_with_empty_cells(tmp_path: Path) -> None:
    """As pandas writes whole numbers where one is missing: 2.0."""
    table = write_table(tmp_path / "p.csv", ["10.0", "10.0", "2.0", "2.0", ""])
    assert read(table, scale=1.0).codes[:, 0].tolist() == [10, 10, 2, 2]
    named = {2: "grass", 10: "soil"}
    assert read(table, scale=1.0, named=named).codes[:, 0].tolist() == [10, 10, 2, 2]
    library = write_library(tmp_path, reflectances().astype("<f4") * 0.9)
    # Its classes are texts, so that codes become texts, too.
    assert read(library, table, scale=1.0).table.names == {
        1: "10",
        2: "2",
        3: "grass",
        4: "soil",
    }
    table = write_table(tmp_path / "p.csv", ["-1", "1", "2", "2", "2"])
    with pytest.raises(SceneError, match="class runs from -1 to 2"):
        read(table, scale=1.0)


@pytest.mark.parametrize("empty", ["NA", "nan", "NULL"])
def test_what_programs_write_for_nothing_is_no_class(
    tmp_path: Path, empty: str
) -> None:
    table = write_table(tmp_path / "p.csv", ["soil", empty, "grass", "grass", empty])
    found = read(table, scale=1.0)
    assert found.table.names == {1: "grass", 2: "soil"}
    assert "2 spectra have no class and are not used." in found.messages


def test_fill_values_that_are_few_are_named(tmp_path: Path) -> None:
    values = np.repeat(reflectances(), 50, axis=0) * np.linspace(0.8, 1.2, 250)[:, None]
    stored = np.round(values * 1e4).astype("<i2")
    stored[7, 2] = -9999
    path = write_library(
        tmp_path,
        stored,
        reflectance_scale_factor=10000,
        spectra_names=braces([f"{'ab'[n % 2]} {n}" for n in range(250)]),
    )
    with pytest.raises(SceneError, match="fill value -9999 stands in the spectra b 7"):
        read(path)
    assert read(path, quantity="radiance").cube.size


@pytest.mark.parametrize("path", [".", "/", ".."])
def test_a_folder_is_no_file_of_spectra(path: str) -> None:
    assert reading.files_of(path) == [path]
    with pytest.raises(SceneError, match="is a folder"):
        read(Path(path), scale=1.0)


def test_fields_that_are_not_there(tmp_path: Path) -> None:
    table = write_table(tmp_path / "p.csv")
    with pytest.raises(SceneError, match=r"there is no 'kind'\. Fields: class"):
        read(table, scale=1.0, label_field="kind")
    with pytest.raises(SceneError, match="no field 'site' for --group-field"):
        read(table, scale=1.0, group_field="site")
    with pytest.raises(SceneError, match="is a workbook"):
        read(tmp_path / "p.xlsx")


def test_objects_go_by_the_group_field(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    rows = [
        ",".join([kind, site, *map(str, row)])
        for kind, site, row in zip(
            "aabbb", ["x", "", "x", "z", ""], reflectances(), strict=True
        )
    ]
    path.write_text("\n".join(["class,site,450,550,650,750", *rows]))
    found = read(path, scale=1.0, group_field="site")
    one, two, three, four, five = found.spectra.objects.tolist()
    assert one == three
    assert len({one, two, four, five}) == 4
    assert found.spectra.grouped


@pytest.mark.parametrize("empty", ["NA", "nan", ""])
def test_what_has_no_group_is_an_object_of_its_own(tmp_path: Path, empty: str) -> None:
    path = tmp_path / "p.csv"
    sites = ["1.0", "1.0", empty, empty, "2.0"]
    rows = [
        ",".join([kind, site, *map(str, row)])
        for kind, site, row in zip("aabbb", sites, reflectances(), strict=True)
    ]
    path.write_text("\n".join(["class,site,450,550,650,750", *rows]))
    objects = read(path, scale=1.0, group_field="site").spectra.objects.tolist()
    assert objects[0] == objects[1]
    assert len(set(objects)) == 4


def fine_library(tmp_path: Path, step: float = 1.0) -> Path:
    centres = np.arange(430, 801, step)
    values = np.array([np.interp(centres, CENTRES, row) for row in reflectances()])
    return write_library(
        tmp_path, values.astype("<f4"), wavelength=braces(centres.tolist())
    )


def test_resampled_to_the_bands_of_a_scene(tmp_path: Path, make_info: MakeInfo) -> None:
    sensor = make_info(
        2,
        2,
        3,
        wavelengths_nm=np.array([500.0, 600.0, 900.0]),
        fwhm_nm=np.array([12.0, 12.0, 12.0]),
    )
    found = read(fine_library(tmp_path), sensor=sensor)
    assert found.bands.tolist() == [0, 1]
    assert found.info.bands == 3
    assert found.info.fwhm_nm is not None
    expected = (reflectances()[:, :2] + reflectances()[:, 1:3]) / 2
    np.testing.assert_allclose(found.cube[:, :, 0].T, expected, atol=1e-3)
    assert any("does not cover 1 of the 3 bands" in text for text in found.messages)
    with pytest.raises(SceneError, match="has no wavelengths"):
        read(fine_library(tmp_path), sensor=replace(sensor, wavelengths_nm=None))
    far = replace(sensor, wavelengths_nm=np.array([1500.0, 1600, 1700]))
    with pytest.raises(SceneError, match="covers no band of"):
        read(fine_library(tmp_path), sensor=far)


def test_fine_bands_are_told(tmp_path: Path) -> None:
    told = read(fine_library(tmp_path)).messages
    assert any("has bands 1 nm apart" in text for text in told)
    assert not read(fine_library(tmp_path, 5.0)).messages

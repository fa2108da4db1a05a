from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spectra_files import CENTRES, NAMES, braces, reflectances, write_library

from hsi_runtime.errors import ResourceError, SceneError
from hsi_train.data.spectra import envi_library
from hsi_train.data.spectra.library import BY_NAME


def read(path: Path, label: str | None = None, group: str | None = None) -> Any:
    return envi_library.read(str(path), label, group)


@pytest.mark.parametrize("given", ["library.sli", "library.hdr"])
def test_values_names_and_wavelengths(tmp_path: Path, given: str) -> None:
    write_library(tmp_path, bbl=braces([1, 1, 0, 1]), fwhm=braces([10] * 4))
    contents = read(tmp_path / given)
    np.testing.assert_allclose(contents.values, reflectances(), rtol=1e-6)
    assert contents.names == NAMES
    assert contents.columns[BY_NAME].tolist() == ["soil"] * 2 + ["grass"] * 3
    assert contents.axis.centres.tolist() == CENTRES
    assert contents.axis.widths.tolist() == [10] * 4
    assert contents.good.tolist() == [True, True, False, True]
    assert contents.scale == 1


def test_whole_numbers_of_the_other_byte_order_with_a_scale(tmp_path: Path) -> None:
    values = np.round(reflectances() * 1e4).astype(">i2")
    values[1, 2] = -99
    path = write_library(
        tmp_path,
        values,
        **{
            "byte order": 1,
            "reflectance scale factor": 10000,
            "data ignore value": -99,
        },
    )
    contents = read(path)
    assert contents.scale == pytest.approx(1e-4)
    assert np.isnan(contents.values[1, 2])
    assert contents.values[0].tolist() == [1000, 1500, 2000, 2500]


def test_gains_and_offsets_are_applied(tmp_path: Path) -> None:
    gain, offset = np.array([1e-4, 2e-4, 3e-4, 4e-4]), np.array([0.01, 0, 0.02, 0])
    stored = np.round((reflectances() - offset) / gain).astype("<i2")
    path = write_library(
        tmp_path,
        stored,
        reflectance_scale_factor=None,
        data_gain_values=braces(gain.tolist()),
        data_offset_values=braces(offset.tolist()),
    )
    contents = read(path)
    np.testing.assert_allclose(contents.values, reflectances(), atol=3e-4)
    assert contents.scale == 1


def test_bytes_beyond_the_library_are_told(tmp_path: Path) -> None:
    path = write_library(tmp_path, byte_order=None)
    path.write_bytes(path.read_bytes() + bytes(16))
    order, surplus = read(path).notes
    assert "taken as little endian" in order
    assert "16 bytes more than its header promises" in surplus


def test_micrometres(tmp_path: Path) -> None:
    path = write_library(
        tmp_path,
        wavelength=braces([0.45, 0.55, 0.65, 0.75]),
        wavelength_units="Micrometers",
    )
    np.testing.assert_allclose(read(path).axis.centres, CENTRES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("asphalt_01", "asphalt"),
        ("asphalt 2", "asphalt"),
        ("asphalt-3", "asphalt"),
        ("asphalt04", "asphalt"),
        ("asphalt (5)", "asphalt"),
        ("asphalt", "asphalt"),
        ("Löß #3", "Löß"),
        ("17", "17"),
    ],
)
def test_class_is_the_name_without_its_number(
    tmp_path: Path, name: str, expected: str
) -> None:
    path = write_library(tmp_path, spectra_names=braces([name, *NAMES[1:]]))
    assert read(path).columns[BY_NAME][0] == expected


def test_fields_come_from_the_table_beside_it_in_any_order(tmp_path: Path) -> None:
    path = write_library(tmp_path)
    rows = [f"{name},{name[:1]},{n}" for n, name in enumerate(NAMES)]
    table = tmp_path / "library.csv"
    table.write_text("\n".join(["spectrum,kind,site", *rows[::-1]]))
    columns = read(path, "kind", "site").columns
    assert columns["kind"].tolist() == ["s", "s", "g", "g", "g"]
    assert columns["site"].tolist() == ["0", "1", "2", "3", "4"]
    assert BY_NAME in read(path, None, "site").columns
    table.write_text("\n".join(["spectrum,kind,site", *rows[:-1]]))
    with pytest.raises(SceneError, match="no column with the names of all spectra"):
        read(path, "kind")
    table.write_text("\n".join(["spectrum,kind,site", *rows, rows[0]]))
    with pytest.raises(SceneError, match="spectrum holds 'soil_1' twice"):
        read(path, "kind")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"file_type": "ENVI Standard"}, "describes no spectral library"),
        ({"bands": 4}, "a spectral library has 1 band, not 4"),
        ({"lines": 500}, "is truncated"),
        ({"lines": 10**15}, "need at least|truncated"),
        ({"lines": -1}, "declares an empty cube"),
        ({"samples": "many"}, "samples is missing or not a whole number"),
        ({"data_type": 6}, "data type '6' is not supported"),
        ({"spectra_names": braces(NAMES[1:])}, "4 spectra names, 5 spectra"),
        ({"spectra_names": None}, "has no spectra names"),
        ({"spectra_names": "{soil"}, "has no closing brace"),
        ({"wavelength": braces([450, 550])}, "2 values of wavelength, 4 bands"),
        ({"wavelength": braces(["a"] * 4)}, "has a value that is no number"),
        ({"bbl": braces([1])}, "1 values of bbl, 4 bands"),
        ({"reflectance_scale_factor": 0}, "reflectance scale factor is 0.0"),
        ({"reflectance_scale_factor": "nan"}, "reflectance scale factor is nan"),
        ({"reflectance_scale_factor": "ten"}, "is not a number"),
        ({"data_ignore_value": "x"}, "data ignore value is not a number"),
    ],
)
def test_damaged_libraries_are_refused(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    path = write_library(tmp_path, **fields)
    with pytest.raises((SceneError, ResourceError), match=message):
        read(path)


def test_files_that_lack_each_other(tmp_path: Path) -> None:
    path = write_library(tmp_path)
    with pytest.raises(SceneError, match="has no table beside it"):
        read(path, "kind")
    (tmp_path / "library.hdr").rename(tmp_path / "other.hdr")
    with pytest.raises(SceneError, match="has no ENVI header beside it"):
        read(path)
    with pytest.raises(SceneError, match="has no data file beside it"):
        read(tmp_path / "other.hdr")
    with pytest.raises(SceneError, match="There is no file"):
        read(tmp_path / "none.sli")


def test_ignored_value_that_the_type_cannot_hold(tmp_path: Path) -> None:
    values = np.round(reflectances() * 1e4).astype("<i2")
    path = write_library(tmp_path, values, data_ignore_value=-1.23e34)
    assert np.isfinite(read(path).values).all()

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from spectra_files import CENTRES, reflectances, write_table

from hsi_runtime.errors import SceneError
from hsi_train.data.formats.vector_files import read_features
from hsi_train.data.spectra import tables


@pytest.mark.parametrize(
    "names",
    [
        CENTRES,
        ["450", "550", "650", "750"],
        ["450 nm", "550nm", "650.0 Nanometers", "750 nm"],
        ["X450", "X550.0", "x650", "X750"],
        ["0.45", "0.55", "0.65", "0.75"],
        ["0.45 um", "0.55 µm", "0.65 micrometers", "0.75um"],
        [f"band {n} ({nm} nm)" for n, nm in enumerate(CENTRES)],
    ],
)
def test_columns_named_by_a_wavelength(tmp_path: Path, names: list[object]) -> None:
    contents = tables.read(str(write_table(tmp_path / "p.csv", centres=names)))
    assert contents.axis.centres is not None
    np.testing.assert_allclose(contents.axis.centres, CENTRES)
    np.testing.assert_array_equal(contents.values, reflectances())
    assert list(contents.columns) == ["class"]
    assert contents.names[0] == "row 1"
    assert contents.scale is None


def test_semicolons_and_decimal_commas(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(
        "\ufeffKlasse;Name;450,5;550,5\r\nLöß;a, b;0,1;0,2\r\n\r\n"
        "Gras;c;0,3;\r\n".encode()
    )
    contents = tables.read(str(path))
    assert contents.axis.centres is not None
    assert contents.axis.centres.tolist() == [450.5, 550.5]
    np.testing.assert_array_equal(contents.values, [[0.1, 0.2], [0.3, np.nan]])
    assert contents.columns["Klasse"].tolist() == ["Löß", "Gras"]
    assert contents.names == ["a, b", "c"]


@pytest.mark.parametrize("delimiter", [";", "\t"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_decimal_commas_in_every_name(
    tmp_path: Path, delimiter: str, quote: str
) -> None:
    """The first line then has as many commas as delimiters."""
    head = ["class", "450,5", "550,5", "650,5"]
    lines = [head, ["a", "0,1", "0,2", "0,3"], ["b", "0,4", "0,5", "0,6"]]
    path = tmp_path / "p.csv"
    path.write_text(
        "\n".join(
            delimiter.join(f"{quote}{cell}{quote}" for cell in line) for line in lines
        )
    )
    contents = tables.read(str(path))
    assert contents.axis.centres is not None
    assert contents.axis.centres.tolist() == [450.5, 550.5, 650.5]
    np.testing.assert_array_equal(contents.values, [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])


@pytest.mark.parametrize(
    "text",
    [
        "\n\nclass;450;550\na;0,1;0,2\n",
        "class,450,550,\na,0.1,0.2,\n",
        "class,450,550\na,0.1,0.2,,\n",
        "class,450,550,,\na,0.1,0.2\n",
    ],
)
def test_empty_lines_and_columns_of_spreadsheets(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    contents = tables.read(str(path))
    np.testing.assert_array_equal(contents.values, [[0.1, 0.2]])
    assert list(contents.columns) == ["class"]


def test_columns_are_put_in_order_of_wavelength(tmp_path: Path) -> None:
    """As texts are sorted, 1000 comes before 450."""
    order = [3, 0, 1, 2]
    centres = np.array([450.0, 550.0, 650.0, 1000.0])
    path = write_table(
        tmp_path / "p.csv",
        centres=centres[order].tolist(),
        values=reflectances()[:, order],
    )
    contents = tables.read(str(path))
    assert contents.axis.centres is not None
    assert contents.axis.centres.tolist() == centres.tolist()
    np.testing.assert_array_equal(contents.values, reflectances())


@pytest.mark.parametrize(
    "names",
    [
        ["mean_450nm", "mean_550nm", "std_450nm", "std_550nm"],
        ["450", "450.0", "550", "650"],
    ],
)
def test_two_columns_of_one_wavelength(tmp_path: Path, names: list[object]) -> None:
    path = write_table(tmp_path / "p.csv", centres=names)
    with pytest.raises(SceneError, match="are of the same wavelength"):
        tables.read(str(path))


def test_an_index_of_two_bands_is_no_band(tmp_path: Path) -> None:
    names = ["450 nm", "550 nm", "650 nm", "ratio 800nm 670nm"]
    contents = tables.read(str(write_table(tmp_path / "p.csv", centres=names)))
    assert contents.values.shape == (5, 3)
    assert list(contents.columns) == ["class", "ratio 800nm 670nm"]


def write_points(path: Path, columns: dict[str, Any]) -> Path:
    count = len(next(iter(columns.values())))
    points = shapely.to_wkb(shapely.points(np.arange(count), np.arange(count)))
    pyogrio.raw.write(
        path,
        points,
        [np.array(c) for c in columns.values()],
        list(columns),
        geometry_type="Point",
        crs="EPSG:32633",
    )
    return path


@pytest.mark.parametrize("suffix", ["gpkg", "geojson"])
def test_points_with_a_field_for_each_band(tmp_path: Path, suffix: str) -> None:
    bands = dict(zip(["450", "550", "650", "750"], reflectances().T, strict=True))
    kinds = np.array([1, 1, 2, 2, 2])
    path = write_points(tmp_path / f"p.{suffix}", {"kind": kinds} | bands)
    contents = tables.read(str(path))
    np.testing.assert_allclose(contents.values, reflectances())
    assert contents.columns["kind"].tolist() == [1, 1, 2, 2, 2]


def test_a_table_without_geometry(tmp_path: Path) -> None:
    bands = dict(zip(["450", "550", "650", "750"], reflectances().T, strict=True))
    columns = {"kind": np.array([1, 1, 2, 2, 2])} | bands
    path = tmp_path / "table.gpkg"
    pyogrio.raw.write(
        path, None, [*columns.values()], [*columns], geometry_type=None, layer="spectra"
    )
    contents = tables.read(str(path))
    np.testing.assert_allclose(contents.values, reflectances())
    assert contents.columns["kind"].tolist() == [1, 1, 2, 2, 2]
    with pytest.raises(SceneError, match="0 layers with geometry"):
        read_features(str(path))


def profile(y: Any, x: Any = CENTRES, **more: Any) -> str:
    return json.dumps({"x": x, "y": y, "xUnit": "nm"} | more)


def test_points_with_spectra_as_json(tmp_path: Path) -> None:
    texts = [profile(y.tolist(), bbl=[1, 1, 0, 1]) for y in reflectances()]
    path = write_points(tmp_path / "p.gpkg", {"profiles": texts, "kind": list("ssggg")})
    contents = tables.read(str(path))
    np.testing.assert_allclose(contents.values, reflectances())
    assert contents.good.tolist() == [True, True, False, True]
    assert contents.axis.centres is not None
    assert contents.axis.centres.tolist() == CENTRES
    assert list(contents.columns) == ["kind"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (profile([1, 2], [450, 550]), "row 2 and row 1 have different bands"),
        (profile([1, 2, 3, 4], xUnit="um"), r"different bands \(xUnit\)"),
        (profile([1, 2, 3]), "no lists of numbers of one length"),
        (profile(["a"] * 4), "no lists of numbers"),
        (profile([10**400] * 4), "too large to convert"),
        (profile([], []), "of row 2 is no spectrum with x and y"),
        (profile(5), "of row 2 is no spectrum with x and y"),
        ("[1, 2]", "of row 2 is no spectrum"),
        ("{}", "of row 2 is no spectrum"),
        ("", "of row 2 is no spectrum"),
        ("{" * 50_000, "of row 2 is no spectrum"),
    ],
)
def test_spectra_as_json_that_do_not_fit(
    tmp_path: Path, second: str, message: str
) -> None:
    texts = [profile([1.0, 2, 3, 4]), second]
    path = write_points(tmp_path / "p.gpkg", {"profiles": texts, "kind": ["a", "b"]})
    with pytest.raises(SceneError, match=message):
        tables.read(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"class,450,550\n", "holds no spectrum"),
        (b"class,450,550\na,1\n", "row 1 has 2 cells, the first line has 3"),
        (b"sep=;\nclass;450;550\na;1;2\n", "name the columns in the first line"),
        (b"450,soil_1\n550,0.2\n", "Give each spectrum a row"),
        (b"class,450,550\na,1,x\n", "column 550 of row 1 holds 'x'"),
        (b"class,450,450\na,1,2\n", "'450', are given more than once"),
        (b"class,grey\na,1\n", "has 0 columns with spectra"),
        (b"class,450\na,1\n", "has 0 columns with spectra"),
        (b"class,450,550\n\xff\xfe,1,2\n", "is not UTF-8"),
        (b'class,450,550\n"a,1,2\n', "row 1 has 1 cells"),
        (b"class,450,550\na,1," + b"9" * 200_000 + b"\n", "is no CSV file"),
        (b"class,450 Hz,550 Hz\na,1,2\n", "has 0 columns with spectra"),
    ],
)
def test_damaged_tables_are_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(content)
    with pytest.raises(SceneError, match=message):
        tables.read(str(path))


def test_band_numbers_are_no_wavelengths(tmp_path: Path) -> None:
    path = write_table(tmp_path / "p.csv", centres=[1, 2, 3, 4])
    axis = tables.read(str(path)).axis
    assert axis.centres is None
    assert "band numbers" in axis.notes[0]

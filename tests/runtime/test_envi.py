import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS

from hsi_runtime.envi import EnviScene, parse_header
from hsi_runtime.errors import SceneError
from hsi_runtime.scene import Scene, open_scene

CODES = {"u1": 1, "i2": 2, "i4": 3, "f4": 4, "f8": 5, "u2": 12, "u4": 13}
AXES = {"bsq": (0, 1, 2), "bil": (1, 0, 2), "bip": (1, 2, 0)}


@pytest.fixture
def spectral() -> Any:
    return pytest.importorskip("spectral")


def header_text(**fields: Any) -> str:
    """Write a header of 3 bands, 4 lines, 5 samples; None leaves a field out."""
    known: dict[str, Any] = {
        "samples": 5,
        "lines": 4,
        "bands": 3,
        "header offset": 0,
        "data type": 12,
        "interleave": "bsq",
        "byte order": 0,
    }
    known |= {key.replace("_", " "): value for key, value in fields.items()}
    lines = [f"{key} = {value}" for key, value in known.items() if value is not None]
    return "\n".join(["ENVI", *lines]) + "\n"


def write(folder: Path, **fields: Any) -> Path:
    """Write ``scene.img`` with its header; 3 x 4 x 5 whole numbers by default."""
    values = fields.pop("values", np.arange(60, dtype="<u2").reshape(3, 4, 5))
    (folder / "scene.hdr").write_text(header_text(**fields), encoding="utf-8")
    data = folder / "scene.img"
    data.write_bytes(values.tobytes())
    return data


def everything(scene: Scene) -> NDArray[Any]:
    info = scene.info
    cube = scene.read((0, info.rows), (0, info.cols), np.arange(info.bands))
    scene.close()
    return cube


def test_header_fields_comments_and_braces(tmp_path: Path) -> None:
    path = tmp_path / "a.hdr"
    path.write_text(
        "ENVI\n"
        "; a comment = not a field\n"
        "description = {\n  First line,\n ; hidden = {1\n  a = b; c}\n"
        "  Wavelength   Units = Nanometers  \n"
        "wavelength = { 1.5 ,\n 2.5,\n3.5\n}\n"
        "map info = {UTM, 1, 1, 0, 0, 1, 1, 33, North, WGS-84, units=Meters}\n"
        "empty =\n"
        "lines=7\n"
    )
    header = parse_header(path)
    assert header["wavelength units"] == "Nanometers"
    assert [float(v) for v in header["wavelength"].split(",")] == [1.5, 2.5, 3.5]
    assert header["map info"].endswith("units=Meters")
    assert header["description"].endswith("a = b; c")
    assert "hidden" not in header["description"]
    assert header["empty"] == ""
    assert header["lines"] == "7"
    assert "a comment" not in header
    assert "a" not in header


def test_header_with_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.hdr"
    path.write_bytes(
        header_text(wavelength="{1,\n2,\n3}").replace("\n", "\r\n").encode()
    )
    header = parse_header(path)
    assert header["samples"] == "5"
    assert header["byte order"] == "0"
    assert [float(v) for v in header["wavelength"].split(",")] == [1, 2, 3]


@settings(max_examples=30)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,8}( [a-z]{1,8}){0,2}", fullmatch=True),
        st.lists(
            st.from_regex(r"[A-Za-z0-9.:=+-]{1,9}", fullmatch=True), min_size=1
        ).map(", ".join),
        max_size=6,
    )
)
def test_header_written_in_braces_reads_back(fields: dict[str, str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.hdr"
        braced = "".join(f"{k} = {{\n{v}}}\n" for k, v in fields.items())
        path.write_text("ENVI\n" + braced)
        assert parse_header(path) == fields
        path.write_text("ENVI\n" + "".join(f"{k}={v}\n" for k, v in fields.items()))
        assert parse_header(path) == fields


def test_header_cut_inside_a_list_is_damaged(tmp_path: Path) -> None:
    data = write(tmp_path, wavelength="{450, 550, 6")
    with pytest.raises(SceneError, match=r"wavelength.*brace"):
        open_scene(data)
    # An open list swallows the next one, which makes no list of numbers.
    data = write(tmp_path, wavelength="{450, 550, 650", fwhm="{10, 10, 10}")
    with pytest.raises(SceneError, match="wavelength has a value that is no number"):
        open_scene(data)


@pytest.mark.parametrize("layout", AXES)
@pytest.mark.parametrize(("dtype", "order"), list(product(CODES, "<>")))
def test_values_equal_those_of_gdal_and_spectral(
    layout: str, dtype: str, order: str, tmp_path: Path, spectral: Any
) -> None:
    random = np.random.default_rng(4)
    values = (random.normal(50, 30, (6, 7, 8)).clip(0, 255)).astype(order + dtype)
    data = write(
        tmp_path,
        values=np.ascontiguousarray(values.transpose(AXES[layout])),
        samples=8,
        lines=7,
        bands=6,
        data_type=CODES[dtype],
        interleave=layout,
        byte_order=int(order == ">"),
        map_info="{UTM, 1, 1, 4e5, 58e5, 1, 1, 33, North, WGS-84}",
    )
    scene = open_scene(data)
    assert scene.info.dtype == np.dtype(dtype)
    for bands in ([0, 1, 2, 3, 4, 5], [2, 3], [5], [4, 0, 3]):
        found = scene.read((2, 7), (1, 6), np.array(bands))
        assert found.dtype == np.dtype(dtype)
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, values[bands, 2:7, 1:6])
    with rasterio.open(data, driver="ENVI") as file:
        np.testing.assert_array_equal(everything(scene), file.read())
    oracle = spectral.open_image(str(tmp_path / "scene.hdr"))
    np.testing.assert_array_equal(
        oracle.load(dtype=np.float64).transpose(2, 0, 1), values.astype(np.float64)
    )


def test_header_offset_is_skipped(tmp_path: Path) -> None:
    values = np.arange(60, dtype="<u2")
    data = write(tmp_path, header_offset=7)
    data.write_bytes(b"7 bytes" + values.tobytes())
    np.testing.assert_array_equal(everything(open_scene(data)).ravel(), values)


@pytest.mark.parametrize(
    ("header", "data", "named"),
    [
        ("a.hdr", "a.img", "header"),
        ("a.hdr", "a.img", "data"),
        ("a.hdr", "a", "header"),
        ("a.hdr", "a", "data"),
        ("a.img.hdr", "a.img", "header"),
        ("a.img.hdr", "a.img", "data"),
        ("a.hdr", "a.bip", "header"),
        ("a.v2.hdr", "a.v2", "data"),
        ("a.v2.hdr", "a.v2.dat", "header"),
    ],
)
def test_header_and_data_find_each_other(
    header: str, data: str, named: str, tmp_path: Path
) -> None:
    write(tmp_path)
    (tmp_path / "scene.hdr").rename(tmp_path / header)
    (tmp_path / "scene.img").rename(tmp_path / data)
    scene = open_scene(tmp_path / (header if named == "header" else data))
    assert scene.info.path == tmp_path / data
    assert everything(scene).shape == (3, 4, 5)


def test_header_without_its_data(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "scene.hdr").rename(tmp_path / "scene.v2.hdr")
    # scene.img is another scene's.
    with pytest.raises(SceneError, match=r"data file is missing; .*scene\.v2\.img"):
        open_scene(tmp_path / "scene.v2.hdr")


def test_truncated_and_over_declared_files_are_refused_at_once(tmp_path: Path) -> None:
    data = write(tmp_path)
    whole = data.read_bytes()
    for length in (0, 1, 60, 119):
        data.write_bytes(whole[:length])
        with pytest.raises(
            SceneError, match=f"promises 120 bytes, the file has {length}"
        ):
            open_scene(data)
    data.write_bytes(whole + b"more")
    assert everything(open_scene(data)).shape == (3, 4, 5)
    for fields in ({"bands": 4}, {"lines": 10**9}, {"bands": 10**12}):
        with pytest.raises(SceneError, match="truncated"):
            open_scene(write(tmp_path, **fields))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"samples": None}, "samples is missing"),
        ({"lines": "many"}, "lines is missing or not a whole number"),
        ({"bands": 0}, "empty cube"),
        ({"bands": -3}, "empty cube"),
        ({"interleave": None}, "expected bsq, bil or bip"),
        ({"interleave": "bsx"}, "'bsx'; expected bsq, bil or bip"),
        ({"data_type": 6}, "'6' is not supported"),  # complex
        ({"data_type": 14}, "'14' is not supported"),  # int64
        ({"data_type": None}, "'' is not supported"),
        ({"file_compression": 1}, "gunzip"),
        ({"header_offset": -2}, "header offset"),
        ({"header_offset": "x"}, "header offset"),
        ({"wavelength": "{1, 2}"}, "2 values of wavelength, 3 bands"),
        ({"wavelength": "{1, 2, red}"}, "wavelength has a value that is no number"),
        ({"wavelength": "{0.4, 0.5, 650}"}, "without a unit"),
        ({"wavelength": "{0, 1, 2}"}, "positive"),
        ({"wavelength": "{1, 2, nan}", "wavelength_units": "nm"}, "positive"),
        ({"wavelength": "{1, 2, 3}", "wavelength_units": "GHz"}, "expected Nanometers"),
        ({"wavelength": "{450,550,650}", "fwhm": "{1}"}, "1 values of fwhm"),
        ({"bbl": "{1, 0}"}, "2 values of bbl"),
        ({"data_ignore_value": "none"}, "data ignore value is not a number"),
        ({"reflectance_scale_factor": "big"}, "reflectance scale factor"),
        ({"reflectance_scale_factor": "0"}, "reflectance scale factor"),
        ({"data_gain_values": "{1, 1}"}, "data gain values"),
    ],
)
def test_header_that_cannot_be_used(
    fields: dict[str, Any], match: str, tmp_path: Path
) -> None:
    with pytest.raises(SceneError, match=match):
        open_scene(write(tmp_path, **fields))


def test_text_that_is_no_header(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "scene.hdr").write_text("samples = 5\n")
    with pytest.raises(SceneError, match="neither a TIFF nor an ENVI"):
        open_scene(tmp_path / "scene.img")
    with pytest.raises(SceneError, match="first line must be ENVI"):
        EnviScene(tmp_path / "scene.hdr", tmp_path / "scene.img")


@pytest.mark.parametrize(
    ("unit", "values", "expected", "said"),
    [
        ("Nanometers", "450, 550, 650", [450, 550, 650], 0),
        ("Micrometers", "0.45, 0.55, 0.65", [450, 550, 650], 0),
        ("um", "0.45, 0.55, 0.65", [450, 550, 650], 0),
        ("µm", "0.45, 0.55, 0.65", [450, 550, 650], 0),
        ("NM", "450, 550, 650", [450, 550, 650], 0),
        (None, "450, 550, 650", [450, 550, 650], 1),
        (None, "0.45, 0.55, 0.65", [450, 550, 650], 1),
        ("Unknown", "0.45, 0.55, 0.65", [450, 550, 650], 1),
    ],
)
def test_wavelength_units(
    unit: str | None, values: str, expected: list[float], said: int, tmp_path: Path
) -> None:
    info = open_scene(
        write(tmp_path, wavelength=f"{{{values}}}", wavelength_units=unit)
    ).info
    assert info.wavelengths_nm is not None
    np.testing.assert_allclose(info.wavelengths_nm, expected)
    assert len(info.notes) == said


def test_widths_are_in_the_unit_of_the_centres(tmp_path: Path) -> None:
    fields = {"wavelength": "{0.45,0.55,0.65}", "fwhm": "{0.0055, 0.006, 0.007}"}
    info = open_scene(write(tmp_path, wavelength_units="Micrometers", **fields)).info
    assert info.fwhm_nm is not None
    np.testing.assert_allclose(info.fwhm_nm, [5.5, 6, 7])


def test_bad_bands_and_nodata(tmp_path: Path) -> None:
    info = open_scene(write(tmp_path, bbl="{1, 0, 1.0}", data_ignore_value="0.0")).info
    assert info.good.tolist() == [True, False, True]
    assert info.nodata.tolist() == [0, 0, 0]
    for unreachable in ("-9999", "inf", "0.5", "nan"):
        info = open_scene(write(tmp_path, data_ignore_value=unreachable)).info
        assert np.isnan(info.nodata).all()


@pytest.mark.parametrize(
    ("fields", "scale", "offset"),
    [
        ({}, None, None),
        ({"reflectance_scale_factor": "10000"}, [1e-4] * 3, [0] * 3),
        ({"reflectance_scale_factor": "1.0"}, None, None),
        ({"data_gain_values": "{2, 3, 4}"}, [2, 3, 4], [0] * 3),
        ({"data_offset_values": "{2, 3, 4}"}, [1] * 3, [2, 3, 4]),
        (
            {"data_gain_values": "{2,3,4}", "data_offset_values": "{5, 6, 7}"},
            [2, 3, 4],
            [5, 6, 7],
        ),
        (
            {"data_gain_values": "{2,3,4}", "reflectance_scale_factor": "100"},
            [2, 3, 4],
            [0] * 3,
        ),
    ],
)
def test_scale_and_offset(
    fields: dict[str, str],
    scale: list[float] | None,
    offset: list[float] | None,
    tmp_path: Path,
) -> None:
    info = open_scene(write(tmp_path, **fields)).info
    found = [None if v is None else v.tolist() for v in (info.scale, info.offset)]
    assert found == [scale, offset]


def test_missing_byte_order_is_said(tmp_path: Path) -> None:
    scene = open_scene(write(tmp_path, byte_order=None))
    assert "no byte order" in scene.info.notes[0]
    assert everything(scene)[0, 0, 1] == 1


@pytest.mark.parametrize("rotation", [0, 15, -66, 90, 180, -180])
def test_map_info_gives_gdals_transform(rotation: float, tmp_path: Path) -> None:
    place = "1, 1, 400000, 5800000, 2.5, 2.5"
    data = write(
        tmp_path,
        map_info=f"{{UTM, {place}, 33, South, WGS-84, rotation={rotation}}}",
    )
    info = open_scene(data).info
    assert info.crs is not None
    assert info.transform is not None
    with rasterio.open(data, driver="ENVI") as file:
        np.testing.assert_allclose(info.transform, file.transform.to_gdal(), atol=1e-6)
        assert CRS.from_wkt(info.crs).to_epsg() == file.crs.to_epsg() == 32733
    assert info.resolution_m == pytest.approx(2.5)


@pytest.mark.parametrize("rotation", [0, 15, -66, 90])
def test_reference_pixel_lies_where_map_info_says(
    rotation: float, tmp_path: Path
) -> None:
    # GDAL rotates about the corner of the grid instead, so it is no oracle here.
    place = "3.5, 2, 400000, 5800000, 2.5, 2.5"
    data = write(
        tmp_path, map_info=f"{{UTM, {place}, 33, North, WGS-84, rotation={rotation}}}"
    )
    info = open_scene(data).info
    assert info.transform is not None
    placed = rasterio.Affine.from_gdal(*info.transform) * (2.5, 1)
    np.testing.assert_allclose(placed, (400_000, 5_800_000), atol=1e-6)


def test_coordinate_systems(tmp_path: Path) -> None:
    place = "1, 1, 13.0, 52.5, 1e-4, 1e-4"
    info = open_scene(
        write(tmp_path, map_info=f"{{Geographic Lat/Lon, {place}, WGS-84}}")
    )
    assert info.info.crs is not None
    assert CRS.from_wkt(info.info.crs).to_epsg() == 4326
    assert info.info.resolution_m is None
    for form in ("WKT1_ESRI", "WKT1_GDAL", "WKT2_2019"):
        text = CRS.from_epsg(32633).to_wkt(version=form)
        data = write(tmp_path, coordinate_system_string=f"{{{text}}}")
        wkt = open_scene(data).info.crs
        assert wkt is not None
        assert CRS.from_wkt(wkt).to_epsg() == 32633, form


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"map_info": "{UTM, 1, 1, east, 2, 1, 1, 33, North, WGS-84}"}, "no numbers"),
        ({"map_info": "{UTM, 1, 1, 0, 0, 1, 1, 33, North, X, rotation=a}"}, "rotation"),
        ({"map_info": "{UTM, 1, 1, 0, 0, 1, 1, 33, North, NAD27}"}, "not understood"),
        ({"map_info": "{UTM, 1, 1, 0, 0, 1, 1, x, North, WGS-84}"}, "cannot be read"),
        ({"coordinate_system_string": "{PROJCS[nonsense}"}, "cannot be read"),
    ],
)
def test_georeference_that_cannot_be_read_is_said(
    fields: dict[str, str], match: str, tmp_path: Path
) -> None:
    notes = open_scene(write(tmp_path, **fields)).info.notes
    assert any(match in note for note in notes)


def test_arbitrary_map_info_is_no_coordinate_system(tmp_path: Path) -> None:
    data = write(tmp_path, map_info="{Arbitrary, 1, 1, 0, 0, 1, 1, 0, North}")
    info = open_scene(data).info
    assert info.crs is None
    assert info.notes == ()


def test_avirisng_crops_equal_gdal_and_spectral(data_dir: Path, spectral: Any) -> None:
    headers = sorted((data_dir / "envi" / "avirisng").glob("*.hdr"))
    assert headers
    for header in headers:
        scene = open_scene(header)
        info = scene.info
        values = everything(scene)
        with rasterio.open(info.path, driver="ENVI") as file:
            np.testing.assert_array_equal(values, file.read())
            assert info.transform is not None
            np.testing.assert_allclose(
                info.transform, file.transform.to_gdal(), rtol=1e-9, atol=1e-6
            )
            assert info.crs is not None
            assert CRS.from_wkt(info.crs).to_epsg() == file.crs.to_epsg()
        oracle = spectral.open_image(str(header))
        np.testing.assert_array_equal(
            values, np.array(oracle.load()).transpose(2, 0, 1)
        )
        assert info.wavelengths_nm is not None
        np.testing.assert_allclose(info.wavelengths_nm, oracle.bands.centers)


def test_real_headers_with_their_peculiarities(data_dir: Path, spectral: Any) -> None:
    corn = open_scene(data_dir / "envi" / "corn-kernel-hyperspectral.raw").info
    assert (corn.bands, corn.rows, corn.cols, corn.dtype.name) == (
        580,
        31,
        43,
        "uint16",
    )
    assert any("byte order" in note for note in corn.notes)
    assert corn.wavelengths_nm is not None
    assert corn.wavelengths_nm[:2].tolist() == [366.551, 367.656]
    cubus = open_scene(data_dir / "envi" / "cubus_gamsberg_subset")
    assert cubus.info.bands == 189
    oracle = spectral.open_image(str(data_dir / "envi" / "cubus_gamsberg_subset.hdr"))
    loaded = np.array(oracle.load()).transpose(2, 0, 1)
    np.testing.assert_array_equal(everything(cubus), loaded)
    with pytest.raises(SceneError, match="library"):
        open_scene(data_dir / "envi" / "library_berlin.sli")


def test_names_of_fields_may_repeat_inside_braces(tmp_path: Path) -> None:
    names = json.dumps(["samples = 9", "lines = 9"])[1:-1]
    scene = open_scene(write(tmp_path, band_names=f"{{{names},\nbands = 9}}"))
    assert (scene.info.bands, scene.info.rows, scene.info.cols) == (3, 4, 5)

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from envi_files import everything, header_text, write
from hypothesis import given, settings
from hypothesis import strategies as st

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.envi import EnviScene
from hsi_runtime.scenes.envi_header import read_header
from hsi_runtime.scenes.opening import open_scene


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
    header = read_header(path).fields
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
    header = read_header(path).fields
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
        assert read_header(path).fields == fields
        path.write_text("ENVI\n" + "".join(f"{k}={v}\n" for k, v in fields.items()))
        assert read_header(path).fields == fields


def test_header_in_the_letters_of_windows(tmp_path: Path) -> None:
    header = tmp_path / "s.hdr"
    header.write_bytes("ENVI\nspectra names = {Grünland, Öl}\n".encode("cp1252"))
    assert read_header(header).fields["spectra names"] == "Grünland, Öl"


def test_header_cut_inside_a_list_is_damaged(tmp_path: Path) -> None:
    data = write(tmp_path, wavelength="{450, 550, 6")
    with pytest.raises(SceneError, match=r"wavelength.*brace"):
        open_scene(data)
    # An open list swallows the next one, which makes no list of numbers.
    data = write(tmp_path, wavelength="{450, 550, 650", fwhm="{10, 10, 10}")
    with pytest.raises(SceneError, match="wavelength has a value that is no number"):
        open_scene(data)


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
        ({"wavelength": "{1, 2, red}"}, "has a value that is no number: 'red'"),
        ({"wavelength": "{0.4, 0.5, 650}"}, "without a unit"),
        ({"wavelength": "{0, 1, 3}"}, "positive"),
        ({"wavelength": "{1, 2, nan}", "wavelength_units": "nm"}, "positive"),
        ({"wavelengths": "{450, 550}"}, "2 values of wavelengths, 3 bands"),
        (
            {"wavelength": "{45, 55, 65}", "wavelength_units": "nm"},
            "from 45 to 65 nm, outside 200 to 20000",
        ),
        ({"wavelength": "{450,550,650}", "fwhm": "{1}"}, "1 values of fwhm"),
        ({"bbl": "{1, 0}"}, "2 values of bbl"),
        ({"data_ignore_value": "none"}, "data ignore value is not a number"),
        ({"reflectance_scale_factor": "big"}, "reflectance scale factor"),
        ({"reflectance_scale_factor": "0"}, "reflectance scale factor"),
        ({"reflectance_scale_factor": "nan"}, "reflectance scale factor"),
        ({"reflectance_scale_factor": "inf"}, "a scale of 0 and an offset of 0 for"),
        ({"reflectance_scale_factor": "1e300"}, "a scale of 1e-300 and an offset"),
        ({"data_gain_values": "{1, 0, 1}"}, "a scale of 0 and an offset of 0 for band"),
        ({"data_gain_values": "{1, 1, nan}"}, "a scale of nan .* for band 3"),
        ({"data_gain_values": "{1, 1, 1e39}"}, "a scale of 1e"),
        ({"data_offset_values": "{0, inf, 0}"}, "an offset of inf for band 2"),
        ({"data_gain_values": "{1, 1}"}, "data gain values"),
    ],
)
def test_header_that_cannot_be_used(
    fields: dict[str, Any], match: str, tmp_path: Path
) -> None:
    with pytest.raises(SceneError, match=match):
        open_scene(write(tmp_path, **fields))


def test_gains_of_bands_marked_bad_do_not_matter(tmp_path: Path) -> None:
    info = open_scene(
        write(tmp_path, data_gain_values="{1, 0, nan}", bbl="{1, 0, 0}")
    ).info
    assert info.good.tolist() == [True, False, False]


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
        said = f"declares nodata {unreachable}, which uint16 values never take"
        assert [said in note for note in info.notes] == [True] * (unreachable != "nan")


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


@pytest.mark.parametrize("mark", [";", "  ", " ,\n", "\t"])
def test_lists_may_be_separated_otherwise(mark: str, tmp_path: Path) -> None:
    fields = {"wavelength": f"{{450{mark}550{mark}650}}", "bbl": f"{{1{mark}0 1}}"}
    info = open_scene(write(tmp_path, **fields, wavelength_units="nm")).info
    assert info.wavelengths_nm is not None
    assert info.wavelengths_nm.tolist() == [450, 550, 650]
    assert info.good.tolist() == [True, False, True]


@pytest.mark.parametrize(("code", "dtype"), [(4, "<f4"), (5, "<f8")])
def test_a_factor_of_one_states_reflectance_in_decimal_numbers(
    code: int, dtype: str, tmp_path: Path
) -> None:
    values = np.ones((3, 4, 5), dtype)
    fields = {"data_type": code, "reflectance_scale_factor": "1.0"}
    info = open_scene(write(tmp_path, values=values, **fields)).info
    assert info.scale is not None
    assert info.scale.tolist() == [1, 1, 1]


def test_byte_order_mark_and_old_line_ends(tmp_path: Path) -> None:
    data = write(tmp_path, wavelength="{450,\n550,\n650}", wavelength_units="nm")
    header = tmp_path / "scene.hdr"
    text = header.read_text()
    for start, end in (("\ufeff", "\n"), ("", "\r"), ("\ufeff", "\r\n")):
        header.write_bytes((start + text.replace("\n", end)).encode())
        for named in (header, data):
            info = open_scene(named).info
            assert info.wavelengths_nm is not None
            assert info.wavelengths_nm.tolist() == [450, 550, 650]


@pytest.mark.parametrize(
    "hostile",
    [
        "\n" * 400_000,
        " " * 400_000,
        "a" * 400_000,
        "a = {" + "\n" * 400_000 + "}",
        "; x\n" * 200_000,
        " ;" * 200_000,
        "a {" * 200_000,
        "= {}\n" * 100_000,
    ],
)
@pytest.mark.timeout(60)  # seconds; in time that grows with the square, hours
def test_headers_are_read_in_linear_time(hostile: str, tmp_path: Path) -> None:
    data = write(tmp_path)
    header = tmp_path / "scene.hdr"
    text = header.read_text()
    header.write_text("ENVI\n" + hostile + "\n" + text.removeprefix("ENVI\n"))
    assert open_scene(data).info.bands == 3


KEYS = st.sampled_from(
    [
        *("samples", "lines", "bands", "header offset", "data type", "interleave"),
        *("byte order", "wavelength", "wavelengths", "fwhm", "wavelength units", "bbl"),
        *("data ignore value", "data gain values", "data offset values", "map info"),
        *("reflectance scale factor", "coordinate system string", "band names"),
        *("major frame offsets", "minor frame offsets", "geo points", "file type"),
    ]
)
VALUES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["1", "2", "0", "-1", "1e999", "nan", "9" * 5000, "bsq", "bip"]),
    st.lists(
        st.sampled_from(
            ["1", "450", "0.5", "x", "UTM", "WGS-84", "33", "North", "rotation=1e999"]
        )
    )
    .map(", ".join)
    .map("{{{}}}".format),
)


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """Alter a good header in some fields, or make one of any bytes."""
    changed = draw(st.dictionaries(KEYS, VALUES, max_size=6))
    text = header_text(samples=2, lines=2, bands=2)
    text += "".join(f"{key} = {value}\n" for key, value in changed.items())
    raw = text.encode("utf-8", "replace")
    cut = draw(st.integers(0, 3 * len(raw)))
    return raw[:cut] + draw(st.binary(max_size=6)) + raw[cut:]


def open_or_refuse(folder: Path, header: bytes) -> None:
    path = folder / "fuzzed.img"
    path.write_bytes(bytes(64))
    (folder / "fuzzed.hdr").write_bytes(header)
    try:
        scene = open_scene(path)
    except SceneError:
        return
    info = scene.info
    cube = scene.read((0, info.rows), (0, info.cols), np.arange(info.bands))
    assert cube.shape == (info.bands, info.rows, info.cols)
    scene.close()


@settings(max_examples=200)
@given(headers())
def test_any_header_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, header: bytes
) -> None:
    open_or_refuse(tmp_path_factory.getbasetemp(), header)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=100_000)
@given(headers())
def test_many_headers_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, header: bytes
) -> None:
    open_or_refuse(tmp_path_factory.getbasetemp(), header)


def test_missing_byte_order_is_said(tmp_path: Path) -> None:
    scene = open_scene(write(tmp_path, byte_order=None))
    assert "no byte order" in scene.info.notes[0]
    assert everything(scene)[0, 0, 1] == 1


def test_byte_order_in_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="byte order is 'big'; expected 0"):
        open_scene(write(tmp_path, byte_order="big"))


def test_names_of_fields_may_repeat_inside_braces(tmp_path: Path) -> None:
    names = json.dumps(["samples = 9", "lines = 9"])[1:-1]
    scene = open_scene(write(tmp_path, band_names=f"{{{names},\nbands = 9}}"))
    assert (scene.info.bands, scene.info.rows, scene.info.cols) == (3, 4, 5)

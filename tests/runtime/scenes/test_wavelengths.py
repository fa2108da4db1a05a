"""Where wavelengths stand in a file and beside it, and in which units."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from envi_files import header_text
from envi_files import write as write_envi
from hypothesis import example, given
from hypothesis import strategies as st

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.array_scene import ArrayScene
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.scene import SceneInfo
from hsi_runtime.scenes.wavelengths import Place, Spectrum, choose, name_place

WriteTiff = Callable[..., Path]
CENTRES = (450.25, 550.5, 650.0, 850.75)


def chosen(
    centres: list[float], unit: str, widths: list[float] | None = None
) -> Spectrum:
    place = Place(
        "",
        [repr(c) for c in centres],
        [repr(w) for w in widths or []] or [""] * len(centres),
        [unit] * len(centres),
    )
    return choose("s", [place])


@pytest.mark.parametrize(
    ("centres", "unit", "factor"),
    [
        ([450.0, 2500.0], "Nanometers", 1),
        ([450.0, 2500.0], "nanometre", 1),
        ([450.0, 2500.0], "NM", 1),
        ([0.45, 2.5], "Micrometers", 1000),
        ([0.45, 2.5], " microns ", 1000),
        ([0.45, 2.5], "micron", 1000),
        ([0.45, 2.5], "µm", 1000),
        ([4500.0, 25_000.0], "Angstroms", 0.1),
        ([4.5e-4, 2.5e-3], "mm", 1e6),
        ([4.5e-5, 2.5e-4], "cm", 1e7),
        ([4.5e-7, 2.5e-6], "m", 1e9),
        ([4.5e-7, 2.5e-6], "Meters", 1e9),
        ([0.45, 2.5], "", 1000),
        ([450.0, 2500.0], "Unknown", 1),
        ([450.0, 2500.0], "n", 1),
    ],
)
def test_lengths(centres: list[float], unit: str, factor: float) -> None:
    found = chosen(centres, unit, [0.01, 0.02])
    assert found.centres is not None
    assert found.widths is not None
    np.testing.assert_allclose(found.centres, np.array(centres) * factor)
    np.testing.assert_allclose(found.widths, np.array([0.01, 0.02]) * factor)
    assert bool(found.notes) == (unit in ("", "Unknown", "n"))


@pytest.mark.parametrize("unit", ["Index", "Wavenumber", "GHz", "cm-1", "eV"])
def test_units_that_are_no_lengths_are_not_used(unit: str) -> None:
    found = chosen([450.0, 550.0, 680.0], unit)
    assert found.centres is None
    (note,) = found.notes
    assert f"wavelengths in {unit.lower()!r} are no lengths; not used" in note


@pytest.mark.parametrize("first", [0.0, 1.0])
@pytest.mark.parametrize("count", [3, 20, 30, 425])
@pytest.mark.parametrize("unit", ["", "Nanometers", "Micrometers", "Unknown"])
def test_band_numbers_are_no_wavelengths(first: float, count: int, unit: str) -> None:
    found = chosen([first + n for n in range(count)], unit)
    assert found.centres is None
    assert "are band numbers; not used" in found.notes[0]


@pytest.mark.parametrize(
    ("centres", "unit", "factor", "said"),
    [
        ([0.4, 2.5], "Nanometers", 1000, "cannot be in 'nanometers'; taken as microm"),
        ([400.0, 2500.0], "Micrometers", 1, "cannot be in 'micrometers'; taken as nm"),
        ([400.0, 2500.0], "m", 1, "cannot be in 'm'; taken as nm"),
    ],
)
def test_units_that_cannot_be_are_corrected_with_a_note(
    centres: list[float], unit: str, factor: float, said: str
) -> None:
    found = chosen(centres, unit, [5.0, 6.0])
    assert found.centres is not None
    assert found.widths is not None
    np.testing.assert_allclose(found.centres, np.array(centres) * factor)
    np.testing.assert_allclose(found.widths, np.array([5.0, 6.0]) * factor)
    (note,) = found.notes
    assert said in note


@pytest.mark.parametrize(
    ("centres", "unit", "match"),
    [
        ([4.0, 30.0], "Nanometers", "from 4 to 30 nm, outside 200 to 20000"),
        ([100.0, 2500.0], "nm", "outside 200"),
        ([0.1, 2.5], "um", "outside 200"),
        ([0.4, 650.0], "", "without a unit that is known"),
        ([0.4, 650.0], "foo", "without a unit that is known"),
        ([-450.0, 650.0], "nm", "positive"),
        ([450.0, np.inf], "nm", "positive"),
    ],
)
def test_wavelengths_that_cannot_be(
    centres: list[float], unit: str, match: str
) -> None:
    with pytest.raises(SceneError, match=match):
        chosen(centres, unit)
    cube = np.ones((2, 2, 2), np.uint16)
    if unit == "nm":
        with pytest.raises(SceneError, match=match):
            ArrayScene(cube, wavelengths_nm=centres)


def test_wavelengths_of_an_array_are_checked_as_those_of_a_file() -> None:
    cube = np.ones((3, 2, 2), np.uint16)
    info = ArrayScene(cube, wavelengths_nm=[0.4, 1.0, 2.5]).info
    assert info.wavelengths_nm is not None
    np.testing.assert_allclose(info.wavelengths_nm, [400, 1000, 2500])
    assert "taken as micrometres" in info.notes[0]
    info = ArrayScene(cube, wavelengths_nm=[1, 2, 3]).info
    assert info.wavelengths_nm is None
    assert "band numbers" in info.notes[0]
    with pytest.raises(SceneError, match="a value of the wavelengths is not a number"):
        ArrayScene(cube, wavelengths_nm=["a", "b", "c"])


ANY = st.floats(allow_nan=True, allow_infinity=True)


@given(
    st.lists(st.tuples(ANY, ANY), min_size=1, max_size=8),
    st.sampled_from(["", "nm", "um", "Index", "m", "foo", "Angstroms"]),
)
@example([(1e306, 1.0)], "")
@example([(450.0, 1e306)], "m")
def test_any_wavelengths_are_plausible_or_none_or_refused(
    pairs: list[tuple[float, float]], unit: str
) -> None:
    try:
        found = chosen([c for c, _ in pairs], unit, [w for _, w in pairs])
    except SceneError:
        return
    if found.centres is not None:
        known = found.centres
        assert ((known >= 200 - 1e-6) & (known <= 20_000 + 1e-6)).all()
    if found.widths is not None:
        assert (np.isfinite(found.widths) & (found.widths > 0)).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("band 7 (712.3 Nanometers)", 712.3),
        ("Band 1: 0.4 Micrometers", 400),
        ("Red 665 nm", 665),
        ("665nm", 665),
        ("B4 (0.665 µm)", 665),
        ("Band 12", None),
        ("nm", None),
        ("1e3 nm", None),
        ("10 m resolution", None),
        ("x" * 300 + "665 nm", None),
    ],
)
def test_lengths_in_names(name: str, expected: float | None) -> None:
    found = choose("s", [name_place([name])]).centres
    assert (None if found is None else found[0]) == (
        expected and pytest.approx(expected)
    )


@pytest.fixture
def tiff(tmp_path: Path, write_scene_tiff: WriteTiff) -> Path:
    cube = np.ones((4, 5, 6), np.uint16)
    return write_scene_tiff(tmp_path / "s.tif", cube, wavelengths=None)


def info_of(path: Path) -> SceneInfo:
    scene = open_scene(path)
    scene.close()
    return scene.info


def tagged(path: Path, ns: str | None = None, **columns: Any) -> None:
    """Tag the bands; of each column one value a band, None leaves a band out."""
    with rasterio.open(path, "r+") as file:
        for key, values in columns.items():
            for band, value in enumerate(values, start=1):
                if value is not None:
                    file.update_tags(band, ns=ns, **{key: str(value)})


@pytest.mark.parametrize(
    ("ns", "columns", "said"),
    [
        (None, {"wavelength": CENTRES, "wavelength_units": ["nm"] * 4}, 0),
        (None, {"Wavelength": CENTRES, "Wavelength_Units": ["Nanometers"] * 4}, 0),
        (None, {"WAVELENGTH": CENTRES, "WAVELENGTH_UNITS": ["nm"] * 4}, 0),
        ("ENVI", {"wavelength": CENTRES, "wavelength_units": ["nm"] * 4}, 1),
        ("ENVI", {"Wavelength": CENTRES, "wavelength units": ["nm"] * 4}, 1),
        (
            "IMAGERY",
            {"CENTRAL_WAVELENGTH_UM": [c / 1000 for c in CENTRES]},
            0,
        ),
    ],
)
def test_tags_of_bands(
    ns: str | None, columns: dict[str, Any], said: int, tiff: Path
) -> None:
    tagged(tiff, ns, **columns)
    info = info_of(tiff)
    assert info.wavelengths_nm is not None
    np.testing.assert_allclose(info.wavelengths_nm, CENTRES)
    assert len(info.notes) == said
    assert all("those of the ENVI domain" in note for note in info.notes)


def test_lists_of_the_data_set(tiff: Path) -> None:
    with rasterio.open(tiff, "r+") as file:
        listed = "{" + ", ".join(map(str, CENTRES)) + "}"
        file.update_tags(
            ns="ENVI", wavelength=listed, wavelength_units="Nanometers", bbl="{1,0,1,1}"
        )
    info = info_of(tiff)
    assert info.wavelengths_nm is not None
    assert info.wavelengths_nm.tolist() == list(CENTRES)
    assert info.good.tolist() == [True, False, True, True]


def test_names_of_bands_serve_last(tiff: Path) -> None:
    with rasterio.open(tiff, "r+") as file:
        for band, centre in enumerate(CENTRES, start=1):
            file.set_band_description(band, f"band {band} ({centre} Nanometers)")
    info = info_of(tiff)
    assert info.wavelengths_nm is not None
    assert info.wavelengths_nm.tolist() == list(CENTRES)
    assert "those of the names of the bands" in info.notes[0]
    tagged(tiff, wavelength=[c + 1 for c in CENTRES], wavelength_units=["nm"] * 4)
    info = info_of(tiff)
    assert info.wavelengths_nm is not None
    assert info.wavelengths_nm.tolist() == [c + 1 for c in CENTRES]
    assert info.notes == ()


def test_widths_are_kept_wherever_they_stand(tiff: Path) -> None:
    tagged(tiff, wavelength=CENTRES, wavelength_units=["nm"] * 4)
    tagged(tiff, "IMAGERY", FWHM_UM=[0.01] * 4)
    info = info_of(tiff)
    assert info.wavelengths_nm is not None
    assert info.wavelengths_nm.tolist() == list(CENTRES)
    assert info.fwhm_nm is not None
    np.testing.assert_allclose(info.fwhm_nm, 10)
    tagged(tiff, fwhm=[8, 8, 8, 9])
    info = info_of(tiff)
    assert info.fwhm_nm is not None
    assert info.fwhm_nm.tolist() == [8, 8, 8, 9]


def test_widths_of_some_bands_are_not_used(tiff: Path) -> None:
    tagged(tiff, wavelength=CENTRES, wavelength_units=["nm"] * 4, fwhm=[8, None, 0, 9])
    info = info_of(tiff)
    assert info.fwhm_nm is None
    assert "band widths are incomplete; not used" in info.notes[0]


def test_band_without_a_wavelength_does_not_drop_the_others(tiff: Path) -> None:
    tagged(tiff, wavelength=[450, None, 650, 850], wavelength_units=["nm"] * 4)
    scene = open_scene(tiff)
    info = scene.info
    assert info.bands == 3
    assert info.wavelengths_nm is not None
    assert info.wavelengths_nm.tolist() == [450, 650, 850]
    (note,) = info.notes
    assert "band 2 has no wavelength, which the others have; left out" in note
    assert scene.read((0, 5), (0, 6), np.arange(3)).shape == (3, 5, 6)
    scene.close()


def test_one_band_with_a_wavelength_does_not_drop_the_others(tiff: Path) -> None:
    tagged(tiff, wavelength=[450, None, None, None])
    info = info_of(tiff)
    assert info.bands == 4
    assert info.wavelengths_nm is None
    assert "only 1 of 4 bands have a wavelength in their tags" in info.notes[0]


def test_header_beside_a_tiff(tiff: Path) -> None:
    fields: dict[str, Any] = {"samples": 6, "lines": 5, "bands": 4}
    fields |= {
        "wavelength": "{" + ", ".join(map(str, CENTRES)) + "}",
        "wavelength_units": "Nanometers",
        "fwhm": "{7, 7, 7, 8}",
        "bbl": "{1, 1, 0, 1}",
        "data_gain_values": "{2, 2, 2, 3}",
        "data_ignore_value": 0,
    }
    with rasterio.open(tiff, "r+") as file:
        file.scales = (1.0,) * 4
    for name in ("s.hdr", "s.HDR", "s.tif.hdr"):
        header = tiff.with_name(name)
        header.write_text(header_text(**fields))
        info = info_of(tiff)
        assert info.driver == "GTiff"
        assert info.wavelengths_nm is not None
        assert info.wavelengths_nm.tolist() == list(CENTRES)
        assert info.fwhm_nm is not None
        assert info.fwhm_nm.tolist() == [7, 7, 7, 8]
        assert info.good.tolist() == [True, True, False, True]
        assert info.scale is not None
        assert info.scale.tolist() == [2, 2, 2, 3]
        assert info.nodata.tolist() == [0] * 4
        assert info.files == (tiff, header)
        taken = f"taken from {name}: nodata, scale and offset, bad bands."
        assert any(taken in note for note in info.notes)
        header.unlink()
    # Of another type, its numbers do not fit; of another size, nothing does.
    header.write_text(header_text(**fields, data_type=4))
    info = info_of(tiff)
    assert info.wavelengths_nm is not None
    assert info.scale is None
    assert np.isnan(info.nodata).all()
    header.write_text(header_text(**fields | {"lines": 6}))
    info = info_of(tiff)
    assert info.wavelengths_nm is None
    assert "describes another cube; it is not read" in info.notes[0]
    assert info.files == (tiff,)


def test_key_and_names_of_an_envi_header(tmp_path: Path) -> None:
    info = info_of(write_envi(tmp_path, wavelengths="{450, 550, 650}"))
    assert info.wavelengths_nm is not None
    names = "{b1 (450 nm), b2 (550.5 nm), b3 (650 nm)}"
    info = info_of(write_envi(tmp_path, band_names=names))
    assert info.wavelengths_nm is not None
    assert info.wavelengths_nm.tolist() == [450, 550.5, 650]
    assert "those of the names of the bands" in info.notes[0]
    names = "{b1 (450 nm), b2, b3 (650 nm)}"
    assert info_of(write_envi(tmp_path, band_names=names)).wavelengths_nm is None


@pytest.mark.parametrize(
    ("name", "centres", "widths", "bad"),
    [
        ("enmapbox_envidomain_bandlevel.tif", [400, 500], None, [0]),
        ("enmapbox_envidomain_dslevel.tif", [400, 500], None, [0]),
        ("envi_wl_fwhm.bsq", [400, 500], [10, 20], [0]),
        ("envi_wl_fwhm.hdr", [400, 500], [10, 20], [0]),
        ("envi_wl_implicit_nm.bsq", [400, 500], None, []),
        ("envi_wl_implicit_nm.hdr", [400, 500], None, []),
        ("envi_wl_implicit_um.bsq", [400, 500], None, []),
        ("envi_wl_implicit_um.hdr", [400, 500], None, []),
        ("gdal_no_info.tif", None, None, []),
        ("gdal_wl_fwhm.tif", [400, 500], [10, 20], []),
        ("gdal_wl_only.tif", [400, 500], None, []),
        ("staclike.tif", None, None, []),
    ],
)
def test_ways_of_writing_wavelengths(
    name: str,
    centres: list[float] | None,
    widths: list[float] | None,
    bad: list[int],
    data_dir: Path,
) -> None:
    info = info_of(data_dir / "products" / "wavelength" / name)
    for found, expected in ((info.wavelengths_nm, centres), (info.fwhm_nm, widths)):
        assert (None if found is None else found.tolist()) == expected
    assert np.flatnonzero(~info.good).tolist() == bad


def test_specim_fenix(data_dir: Path) -> None:
    folder = data_dir / "products" / "specim_fenix"
    scene = open_scene(folder / "Radiometric_8x2_1x1.hdr")
    info = scene.info
    assert (info.bands, info.rows, info.cols) == (363, 1, 384)
    assert info.wavelengths_nm is not None
    assert 370 < info.wavelengths_nm.min() < info.wavelengths_nm.max() < 2600
    assert any("no unit; taken as nm" in note for note in info.notes)
    assert scene.read((0, 1), (0, 384), np.arange(363)).shape == (363, 1, 384)
    scene.close()


@pytest.mark.parametrize(
    "tags",
    [
        {"wavelengths": "450.25, 550.5, 650, 850.75", "wavelength_units": "nm"},
        {"Wavelengths_nm": "[450.25, 550.5, 650, 850.75]"},
        {"wavelengths": "[450.25 550.5\n  650.   850.75]"},  # as numpy prints them
        {"wavelengths": "450.25; 550.5; 650; 850.75"},
        {"center wavelength": "{0.45025,0.5505,.65,.85075}", "wavelength_units": "um"},
        {f"Band_{n}": f"band {n} ({w} Nanometers)" for n, w in enumerate(CENTRES, 1)},
    ],
)
def test_lists_among_the_usual_tags_of_a_tiff(
    tags: dict[str, str], tmp_path: Path, write_scene_tiff: WriteTiff
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", np.ones((4, 2, 3), np.uint16), None)
    with rasterio.open(path, "r+") as file:
        file.update_tags(**tags)
    np.testing.assert_allclose(np.array(info_of(path).wavelengths_nm), CENTRES)


@pytest.mark.parametrize("key", ["wavelength_nm", "center_wavelength"])
def test_other_names_of_a_band_s_tag(
    key: str, tmp_path: Path, write_scene_tiff: WriteTiff
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", np.ones((4, 2, 3), np.uint16), None)
    with rasterio.open(path, "r+") as file:
        for band, centre in enumerate(CENTRES, start=1):
            file.update_tags(band, **{key: centre})
    np.testing.assert_allclose(np.array(info_of(path).wavelengths_nm), CENTRES)


def test_length_after_an_underscore_in_a_name() -> None:
    assert name_place(["B7_712.3nm", "x1450nm"]).centres == ["712.3", ""]

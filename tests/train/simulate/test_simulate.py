import json
import tracemalloc
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import rasterio
from msgspec.structs import replace

from hsi_runtime import command_line
from hsi_runtime.errors import OutputError, ResourceError, SceneError
from hsi_train.simulate import (
    DomainShift,
    SceneSpec,
    band_centres,
    class_colors,
    class_names,
    shift_cube,
    simulate_window,
    truth_labels,
    write_scene,
)
from hsi_train.simulate import files as scene_files
from hsi_train.simulate.__main__ import command
from hsi_train.simulate.files import Layout
from hsi_train.simulate.landscape import SHADOW_LIGHT, Landscape
from hsi_train.simulate.materials import MATERIALS

SMALL = SceneSpec(rows=150, cols=170, wavelengths_nm=band_centres(7), seed=3)
LAYOUTS = get_args(Layout)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        cube: np.ndarray = file.read()
    return cube


def test_same_spec_same_scene_other_seed_or_place_another() -> None:
    cube, abundances, _ = simulate_window(SMALL, 0, 40)
    again, shares, _ = simulate_window(SMALL, 0, 40)
    np.testing.assert_array_equal(cube, again)
    np.testing.assert_array_equal(abundances, shares)
    for other in (replace(SMALL, seed=4), replace(SMALL, origin_row=5000)):
        _, shares, _ = simulate_window(other, 0, 40)
        assert (shares.argmax(0) != abundances.argmax(0)).mean() > 0.3


@pytest.mark.parametrize("mixing", [True, False])
def test_window_does_not_depend_on_its_neighbours(mixing: bool) -> None:
    whole: tuple[Any, ...]
    spec = replace(SMALL, mixing=mixing, nodata_border=True)
    whole = simulate_window(spec, 0, spec.rows)
    for row0, rows in ((0, 1), (1, 63), (97, 53)):
        for part, full in zip(simulate_window(spec, row0, rows), whole, strict=True):
            np.testing.assert_array_equal(part, full[..., row0 : row0 + rows, :])
    moved = simulate_window(replace(spec, origin_row=20, nodata_border=False), 0, 30)
    np.testing.assert_array_equal(moved[1], whole[1][:, 20:50])


def test_chunk_size_has_no_influence(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _, _ = simulate_window(SMALL, 0, SMALL.rows)
    monkeypatch.setattr("hsi_train.simulate.sensor.CHUNK_PIXELS", 1)
    single, _, _ = simulate_window(SMALL, 0, SMALL.rows)
    np.testing.assert_array_equal(whole, single)


def test_landscape_is_a_function_of_the_point() -> None:
    land = Landscape(1, tuple(MATERIALS))
    y, x = np.arange(0.5, 90), np.arange(0.5, 400)
    whole = land.cover(y, x)
    part = land.cover(y[31:57], x[203:])
    for name in whole._fields:
        np.testing.assert_array_equal(
            getattr(part, name), getattr(whole, name)[31:57, 203:]
        )


def test_every_layout_and_strip_height_holds_the_same_cube(tmp_path: Path) -> None:
    expected, _, _ = simulate_window(SMALL, 0, SMALL.rows)
    for layout in LAYOUTS:
        for strip_rows in (37, 128):
            path = tmp_path / f"{layout}{strip_rows}.img"
            write_scene(SMALL, path, layout=layout, strip_rows=strip_rows)
            np.testing.assert_array_equal(read(path), expected)
        if not layout.startswith("tiff"):
            other = tmp_path / f"{layout}37.img"
            assert path.read_bytes() == other.read_bytes()
    assert not list(tmp_path.glob("*.part*"))
    assert not list(tmp_path.glob("*.aux.xml"))


def test_envi_files_are_laid_out_as_named(tmp_path: Path) -> None:
    expected, _, _ = simulate_window(SMALL, 0, SMALL.rows)
    orders = {"bsq": (0, 1, 2), "bil": (1, 0, 2), "bip": (1, 2, 0)}
    layout: Any
    for layout, order in orders.items():
        path = tmp_path / f"scene.{layout}"
        write_scene(SMALL, path, layout=layout, overwrite=True)
        stored = expected.transpose(order)
        raw = np.memmap(path, "<u2", "r", shape=stored.shape)
        np.testing.assert_array_equal(raw, stored)


@pytest.mark.parametrize("layout", ["tiff-band", "tiff-pixel", "bil"])
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_files_say_what_they_hold(tmp_path: Path, layout: Any, dtype: Any) -> None:
    spec = SceneSpec(
        rows=40,
        cols=50,
        wavelengths_nm=(450.125, 500.0, 560.0),
        dtype=dtype,
        resolution_m=0.5,
        origin_row=100,
    )
    path = tmp_path / "scene.dat"
    write_scene(spec, path, layout=layout)
    with rasterio.open(path) as file:
        assert file.driver == ("ENVI" if layout == "bil" else "GTiff")
        assert file.crs.to_epsg() == 32633
        assert file.transform.a == 0.5
        assert file.transform.e == -0.5
        assert file.transform.f == pytest.approx(5_800_000 - 50)
        assert file.nodata == {"uint16": 0, "int16": -32768, "float32": -9999}[dtype]
        assert file.dtypes == (dtype,) * 3
        tags = [file.tags(band) for band in (1, 2, 3)]
        assert [float(t["wavelength"]) for t in tags] == list(spec.wavelengths_nm)
        assert {t["wavelength_units"] for t in tags} == {"Nanometers"}
        values = file.read(1) * file.scales[0]
        if layout == "bil":
            header = path.with_suffix(".hdr").read_text()
            assert ("reflectance scale factor = 10000" in header) == (
                dtype != "float32"
            )
            assert "fwhm = {49.875, 54.938, 60}" in header
            if dtype != "float32":
                values = file.read(1) / 10000
        else:
            assert [float(t["fwhm"]) for t in tags] == [49.875, 54.938, 60.0]
            assert file.descriptions[1] == "500 nm"
            interleaving = "PIXEL" if layout == "tiff-pixel" else "BAND"
            assert file.interleaving.value == interleaving
    assert 0 < np.median(values) < 0.5


@pytest.mark.parametrize("compress", ["deflate", "lzw", "zstd"])
def test_compression_is_lossless(tmp_path: Path, compress: str) -> None:
    path = tmp_path / "scene.tif"
    write_scene(SMALL, path, compress=compress)
    expected, _, _ = simulate_window(SMALL, 0, SMALL.rows)
    np.testing.assert_array_equal(read(path), expected)
    with rasterio.open(path) as file:
        assert file.compression.value.lower() == compress


def test_truth_and_abundances_files(tmp_path: Path) -> None:
    spec = replace(SMALL, nodata_border=True)
    truth, shares = tmp_path / "truth.tif", tmp_path / "abundances.tif"
    write_scene(spec, tmp_path / "scene.tif", truth=truth, abundances=shares)
    _, abundances, valid = simulate_window(spec, 0, spec.rows)
    with rasterio.open(truth) as file:
        labels = file.read(1)
        names = json.loads(file.tags(1)["CLASS_NAMES"])
        colours = file.colormap(1)
        assert file.nodata == 0
    np.testing.assert_array_equal(labels, truth_labels(abundances, valid))
    assert names == {str(code): name for code, name in class_names(spec).items()}
    assert all(colours[code][:3] == rgb for code, rgb in class_colors(spec).items())
    with rasterio.open(shares) as file:
        assert file.descriptions == spec.materials
        stored = file.read()
    np.testing.assert_array_equal(stored[:, valid], abundances[:, valid])
    assert np.all(stored[:, ~valid] == -1)


def test_abundances_are_shares_and_truth_the_largest() -> None:
    _, abundances, valid = simulate_window(SMALL, 0, SMALL.rows)
    assert abundances.min() >= 0
    np.testing.assert_allclose(abundances.sum(axis=0), 1, rtol=1e-6)
    assert 0.02 < (abundances.max(axis=0) < 0.99).mean() < 0.5
    np.testing.assert_array_equal(
        truth_labels(abundances, valid), abundances.argmax(axis=0) + 1
    )
    _, pure, _ = simulate_window(replace(SMALL, mixing=False), 0, SMALL.rows)
    assert set(np.unique(pure)) == {0.0, 1.0}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_material_occurs(seed: int) -> None:
    spec = SceneSpec(
        rows=400,
        cols=400,
        wavelengths_nm=(550.0,),
        seed=seed,
        materials=tuple(MATERIALS),
    )
    _, abundances, valid = simulate_window(spec, 0, 400)
    counts = np.bincount(truth_labels(abundances, valid).ravel(), minlength=14)[1:]
    assert counts.min() >= 200, dict(zip(MATERIALS, counts, strict=True))


@pytest.mark.parametrize("name", sorted(MATERIALS))
def test_one_material_alone_is_a_scene(name: str) -> None:
    spec = replace(SMALL, materials=(name,), rows=20)
    cube, abundances, _ = simulate_window(spec, 0, 20)
    assert np.all(abundances == 1)
    assert cube.min() >= 1


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_border_is_nodata_in_all_bands_and_nothing_else_is(dtype: Any) -> None:
    spec = replace(SMALL, nodata_border=True, dtype=dtype)
    cube, abundances, valid = simulate_window(spec, 0, spec.rows)
    nodata = {"uint16": 0, "int16": -32768, "float32": -9999}[dtype]
    assert 0.05 < (~valid).mean() < 0.2
    np.testing.assert_array_equal((cube == nodata).all(axis=0), ~valid)
    np.testing.assert_array_equal((cube == nodata).any(axis=0), ~valid)
    np.testing.assert_array_equal(truth_labels(abundances, valid) == 0, ~valid)
    # Slanted: the left edge moves right on the way down.
    first = valid.argmax(axis=1)
    assert first[0] < 2 < 15 < first[-1]


def test_noise_scales_and_is_worst_in_water_vapour() -> None:
    spec = replace(SMALL, wavelengths_nm=(860.0, 1385.0), dtype="float32", rows=60)
    clean, _, _ = simulate_window(replace(spec, noise=0), 0, 60)
    once = simulate_window(spec, 0, 60)[0] - clean
    twice = simulate_window(replace(spec, noise=2), 0, 60)[0] - clean
    np.testing.assert_allclose(twice, 2 * once, atol=1e-6)
    assert abs(once.mean()) < 1e-3
    assert once[1].std() > 5 * once[0].std()


def test_domain_shift_does_what_it_says() -> None:
    w = np.array([500.0, 700.0, 720.0, 1500.0])
    plain = SceneSpec(
        rows=10,
        cols=60,
        wavelengths_nm=tuple(w),
        fwhm_nm=10.0,
        noise=0,
        dtype="float32",
    )
    shift = DomainShift(gain=0.9, gain_slope=0.1, offset=0.01, haze=0.03)
    before, _, _ = simulate_window(plain, 0, 10)
    after, _, _ = simulate_window(replace(plain, shift=shift), 0, 10)
    w = w[:, None, None]
    expected = (0.9 + 0.1 * (w - 1000) / 1000) * before + 0.01 + 0.03 * (550 / w) ** 2
    np.testing.assert_allclose(after, expected, rtol=1e-5)
    moved = replace(plain, shift=DomainShift(spectral_shift_nm=20.0))
    np.testing.assert_allclose(
        simulate_window(moved, 0, 10)[0][1], before[2], rtol=1e-6
    )


def test_shift_of_a_cube_is_the_shift_of_a_scene() -> None:
    spec = SceneSpec(
        rows=6, cols=30, wavelengths_nm=(500.0, 700.0, 1500.0), noise=0, dtype="float32"
    )
    shift = DomainShift(gain=0.9, gain_slope=-0.2, offset=0.01, haze=0.03)
    cube, _, _ = simulate_window(spec, 0, 6)
    expected, _, _ = simulate_window(replace(spec, shift=shift), 0, 6)
    found = shift_cube(cube, np.array(spec.wavelengths_nm), shift, 1.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_shift_of_a_cube_interpolates_between_unsorted_bands() -> None:
    centres = np.array([700.0, 500.0, 600.0])
    cube = np.array([70, 50, 60], dtype=np.int16)[:, None, None]
    moved = shift_cube(cube, centres, DomainShift(spectral_shift_nm=20.0), 1e4)
    assert moved[:, 0, 0].tolist() == [70, 52, 62]  # constant beyond the last band
    back = shift_cube(cube, centres, DomainShift(spectral_shift_nm=-30.0), 1e4)
    assert back[:, 0, 0].tolist() == [67, 50, 57]


def test_shift_of_a_cube_keeps_off_nodata_and_saturation() -> None:
    cube = np.array([[[0, 30_000]]], dtype=np.int16)
    wide = shift_cube(cube, np.array([1000.0]), DomainShift(gain=2, offset=-4), 1e4)
    assert wide.dtype == np.int16
    assert wide[0, 0].tolist() == [-32767, 20_000]
    high = shift_cube(cube, np.array([1000.0]), DomainShift(gain=2), 1e4)
    assert high[0, 0].tolist() == [0, 32766]


@pytest.mark.parametrize("layout", ["tiff-band", "bsq"])
def test_memory_is_bounded_by_a_strip(tmp_path: Path, layout: Any) -> None:
    peaks = []
    for rows in (300, 3000):
        spec = SceneSpec(rows=rows, cols=48, wavelengths_nm=band_centres(20))
        path = tmp_path / f"{rows}.img"
        tracemalloc.start()
        write_scene(spec, path, layout=layout, truth=tmp_path / f"{rows}.tif")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2


def test_existing_outputs_are_kept(tmp_path: Path) -> None:
    spec = replace(SMALL, rows=5)
    for name in ("scene.img", "scene.hdr", "truth.tif"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(OutputError, match="exists"):
            write_scene(
                spec,
                tmp_path / "scene.img",
                layout="bil",
                truth=tmp_path / "truth.tif",
            )
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    write_scene(spec, tmp_path / "scene.tif")
    write_scene(replace(spec, seed=9), tmp_path / "scene.tif", overwrite=True)
    expected, _, _ = simulate_window(replace(spec, seed=9), 0, 5)
    np.testing.assert_array_equal(read(tmp_path / "scene.tif"), expected)


def test_outputs_that_cannot_be_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tif = tmp_path / "scene.tif"
    with pytest.raises(OutputError, match="There is no folder"):
        write_scene(SMALL, tmp_path / "absent" / "scene.tif")
    with pytest.raises(OutputError, match="Two outputs would be written"):
        write_scene(SMALL, tif, truth=tif)
    with pytest.raises(OutputError, match="Two outputs would be written"):
        write_scene(SMALL, tmp_path / "scene.hdr", layout="bsq")
    with pytest.raises(OutputError, match="neither compressed"):
        write_scene(SMALL, tif, layout="bsq", compress="deflate")
    with pytest.raises(OutputError, match="No compression"):
        write_scene(SMALL, tif, compress="rar")
    layout: Any = "zip"
    with pytest.raises(OutputError, match="No layout"):
        write_scene(SMALL, tif, layout=layout)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(ResourceError, match="GB free"):
        write_scene(SMALL, tif)
    assert not list(tmp_path.iterdir())


def test_failure_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, cube: object, row0: int) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(scene_files.EnviCube, "write", fail)
    with pytest.raises(OutputError, match="disk gone"):
        write_scene(SMALL, tmp_path / "s.img", layout="bip", truth=tmp_path / "t.tif")
    assert not list(tmp_path.iterdir())


def test_sparse_files_omit_empty_tiles(tmp_path: Path) -> None:
    # Wide enough that whole tiles lie outside the flight line.
    spec = SceneSpec(
        rows=256, cols=3000, wavelengths_nm=(500.0, 600.0), nodata_border=True
    )
    write_scene(spec, tmp_path / "full.tif")
    write_scene(spec, tmp_path / "sparse.tif", sparse=True)
    np.testing.assert_array_equal(
        read(tmp_path / "full.tif"), read(tmp_path / "sparse.tif")
    )
    full, sparse = (
        (tmp_path / f"{name}.tif").stat().st_size for name in ("full", "sparse")
    )
    assert sparse < full


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 0}, "rows is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "below 2"),
        ({"materials": ("grass", "lava")}, "lava"),
        ({"materials": ("grass", "grass")}, "only once"),
        ({"wavelengths_nm": ()}, "at least one"),
        ({"wavelengths_nm": (300.0, 400.0)}, "350..2500"),
        ({"wavelengths_nm": (500.0, 400.0)}, "do not rise"),
        ({"dtype": "int8"}, "int8"),
        ({"fwhm_nm": 0.0}, "fwhm_nm"),
        ({"resolution_m": 0.0}, "resolution_m"),
        ({"resolution_m": float("inf")}, "resolution_m is inf"),
        ({"resolution_m": float("nan")}, "resolution_m is nan"),
        ({"noise": float("inf")}, "noise is inf"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"fwhm_nm": float("nan")}, "fwhm_nm is nan"),
        ({"rows": 2**31}, "rows is 2147483648"),
        ({"shift": DomainShift(gain=float("nan"))}, "numbers must be finite"),
    ],
)
def test_contradictory_specs_are_refused(change: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"rows": 9, "cols": 9, "wavelengths_nm": (500.0,)}
    with pytest.raises(SceneError, match=message):
        SceneSpec(**(fields | change))


@pytest.mark.parametrize("count", [0, -1, 65_536, 10**9])
def test_a_number_of_bands_that_no_file_holds_is_refused(count: int) -> None:
    with pytest.raises(SceneError, match=r"ask for 1 to 65535"):
        band_centres(count)


@pytest.mark.parametrize("sides", [{"cols": 2**31 - 1}, {"rows": 128, "cols": 10**9}])
def test_a_strip_larger_than_the_memory_is_refused(
    tmp_path: Path, sides: dict[str, int]
) -> None:
    fields: dict[str, Any] = {"rows": 9, "wavelengths_nm": band_centres(60), **sides}
    spec = SceneSpec(**fields)
    with pytest.raises(ResourceError, match="ask for fewer columns or bands"):
        write_scene(spec, tmp_path / "a.tif", compress="deflate")
    assert not any(tmp_path.iterdir())


def test_rows_outside_the_scene_are_refused() -> None:
    with pytest.raises(SceneError, match="ask for rows inside"):
        simulate_window(SMALL, 140, 20)


def run(arguments: list[str]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["simulate", *arguments])
        with pytest.raises(SystemExit) as stopped:
            command_line.run(command)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene, truth = tmp_path / "scene.tif", tmp_path / "truth.tif"
    arguments = [str(scene), "--rows", "30", "--cols", "40", "--bands", "5"]
    arguments += ["--truth", str(truth), "--shift", "haze=0.02", "--border"]
    assert run(arguments) == 0
    assert read(scene).shape == (5, 30, 40)
    assert run(arguments) == OutputError.exit_code
    assert "exists" in capsys.readouterr().err
    assert run([str(scene), "--shift", "fog=1"]) == 2
    assert "haze" in capsys.readouterr().err


def test_shade_is_a_material_where_it_is_named() -> None:
    covers = ("grass", "broadleaf", "red_tile", "asphalt")
    at = np.arange(400, dtype=np.float64)
    plain = Landscape(5, covers).cover(at, at)
    shaded = Landscape(5, (*covers, "shade")).cover(at, at)
    dark = shaded.material == len(covers)
    assert 0.005 < dark.mean() < 0.1
    np.testing.assert_array_equal(shaded.material[~dark], plain.material[~dark])
    # Its own spectrum is dark: it is lit like the ground around it.
    assert (plain.light[dark] <= shaded.light[dark] * SHADOW_LIGHT * 1.0001).all()

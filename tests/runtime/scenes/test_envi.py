import errno
import mmap
import os
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from envi_files import everything, write
from rasterio.crs import CRS

from hsi_runtime import machine
from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.opening import open_scene

CODES = {"u1": 1, "i2": 2, "i4": 3, "f4": 4, "f8": 5, "u2": 12, "u4": 13}
AXES = {"bsq": (0, 1, 2), "bil": (1, 0, 2), "bip": (1, 2, 0)}


@pytest.fixture
def spectral() -> Any:
    return pytest.importorskip("spectral")


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
    for fields in ({"bands": 4}, {"lines": 10**9}, {"bands": 10**12}):
        with pytest.raises(SceneError, match="truncated"):
            open_scene(write(tmp_path, **fields))


@pytest.mark.parametrize("layout", AXES)
def test_file_that_shrinks_between_two_reads(layout: str, tmp_path: Path) -> None:
    data = write(tmp_path, interleave=layout)
    scene = open_scene(data)
    everywhere = (0, 4), (0, 5), np.arange(3)
    scene.read(*everywhere)
    os.truncate(data, 60)
    with pytest.raises(SceneError, match="promises 120 bytes, the file has 60"):
        scene.read(*everywhere)
    os.truncate(data, 120)
    scene.read(*everywhere)
    scene.close()


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOMEM, errno.ENODEV])
def test_file_that_cannot_be_mapped(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:  # stands for a full or strange system
        raise OSError(number, os.strerror(number))

    data = write(tmp_path)
    monkeypatch.setattr(mmap, "mmap", fail)
    said = rf"scene\.img cannot be read: {os.strerror(number)}\."
    with pytest.raises(SceneError, match=said):
        open_scene(data)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_data_that_may_not_be_read(tmp_path: Path) -> None:
    write(tmp_path).chmod(0)
    with pytest.raises(SceneError, match=r"scene\.img cannot be read: Permission"):
        open_scene(tmp_path / "scene.hdr")


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


@pytest.mark.parametrize("surplus", [1, 60, 5000])
def test_bytes_that_the_header_leaves_out_are_named(
    surplus: int, tmp_path: Path
) -> None:
    data = write(tmp_path)
    data.write_bytes(data.read_bytes() + bytes(surplus))
    scene = open_scene(data)
    assert f"has {surplus} bytes more than its header promises" in scene.info.notes[0]
    assert everything(scene).shape == (3, 4, 5)


@pytest.mark.parametrize("layout", AXES)
@pytest.mark.parametrize(
    ("major", "minor"), [((16, 0), (0, 0)), ((0, 3), (0, 0)), ((5, 2), (1, 4))]
)
def test_frame_offsets_are_skipped(
    layout: str, major: tuple[int, int], minor: tuple[int, int], tmp_path: Path
) -> None:
    cube = np.arange(60, dtype="<u2").reshape(3, 4, 5)
    stored = b"head"
    for frame in cube.transpose(AXES[layout]):
        lines = [
            b"\xff" * minor[0] + line.tobytes() + b"\xff" * minor[1] for line in frame
        ]
        stored += b"\xfe" * major[0] + b"".join(lines) + b"\xfe" * major[1]
    fields = {"interleave": layout, "header_offset": 4}
    data = write(
        tmp_path,
        major_frame_offsets=f"{{{major[0]}, {major[1]}}}",
        minor_frame_offsets=f"{{{minor[0]}, {minor[1]}}}",
        **fields,
    )
    data.write_bytes(stored)
    scene = open_scene(data)
    assert scene.info.notes == ()
    np.testing.assert_array_equal(everything(scene), cube)
    data.write_bytes(stored + b"x")
    with pytest.raises(SceneError, match="1 bytes more than its header promises with"):
        open_scene(data)
    data.write_bytes(stored[:-1])
    with pytest.raises(SceneError, match="truncated"):
        open_scene(data)


def test_one_frame_offset_stands_for_both_ends(tmp_path: Path) -> None:
    cube = np.arange(60, dtype="<u2").reshape(3, 4, 5)
    data = write(tmp_path, major_frame_offsets="2")
    data.write_bytes(b"".join(b"ab" + band.tobytes() + b"cd" for band in cube))
    np.testing.assert_array_equal(everything(open_scene(data)), cube)


@pytest.mark.parametrize("text", ["{-1, 0}", "{1, 2, 3}", "{a, b}"])
def test_frame_offsets_that_make_no_sense(text: str, tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="major frame offsets are"):
        open_scene(write(tmp_path, major_frame_offsets=text))


@pytest.mark.parametrize(
    ("datum", "code"),
    [
        ("ETRS-89", 25833),
        ("ETRS 1989", 25833),
        ("North America 1983", 26933),
        ("NAD-83", 26933),
        ("NAD27", 26733),
        ("WGS-84", 32633),
    ],
)
def test_datums_of_utm(datum: str, code: int, tmp_path: Path) -> None:
    zone = code % 100 if code > 30000 or code < 26000 else 17
    place = f"{{UTM, 1, 1, 4e5, 58e5, 2, 2, {zone}, North, {datum}, units=Meters}}"
    info = open_scene(write(tmp_path, map_info=place)).info
    assert info.crs is not None
    assert CRS.from_wkt(info.crs).to_epsg() == code - code % 100 + zone
    assert info.resolution_m == 2
    assert info.notes == ()


def test_geo_points_are_gdals_control_points(tmp_path: Path) -> None:
    corners = "1, 1, 52.1, 13.1, 5, 1, 52.1, 13.2, 1, 4, 52, 13.1, 5, 4, 52, 13.2"
    data = write(tmp_path, geo_points=f"{{{corners}}}")
    info = open_scene(data).info
    with rasterio.open(data, driver="ENVI") as file:
        expected = [(p.row, p.col, p.x, p.y, p.z) for p in file.gcps[0]]
    assert info.control is not None
    assert list(info.control.points) == expected
    assert CRS.from_wkt(info.control.crs or "").to_epsg() == 4326
    assert info.transform is None
    # Where there is a map info, it places the scene.
    place = "{UTM, 1, 1, 4e5, 58e5, 2, 2, 33, North, WGS-84}"
    info = open_scene(write(tmp_path, geo_points=f"{{{corners}}}", map_info=place)).info
    assert info.control is None
    assert info.transform is not None


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
        ({"map_info": "{UTM, 1, 1, 0, 0, 1, 1, 33, North, ED50}"}, "not understood"),
        ({"map_info": "{UTM, 1, 1, 0, 0, 1, 1, 33, South, NAD83}"}, "not understood"),
        ({"map_info": "{UTM, 1, 1, 0, 0, 1, 1, 61, North, WGS-84}"}, "not understood"),
        (
            {"map_info": "{UTM, 1, 1, 0, 0, 1, 1, 33, North, WGS-84, units=Feet}"},
            "units=Feet' is not understood",
        ),
        ({"map_info": "{Arbitrary, 1, 1, nan, 0, 1, 1}"}, "places no pixels"),
        ({"map_info": "{Arbitrary, 1, 1, 0, 0, 0, 1}"}, "places no pixels"),
        ({"map_info": "{UTM, 1, 1, 0, 0, 1, 1, rotation=1e999}"}, "places no pixels"),
        ({"geo_points": "{1, 1, 52}"}, "geo points are not four numbers each"),
        ({"rpc_info": "{1, 2}"}, "rpc info are not read"),
        ({"map_info": "{UTM, 1, 1, 0, 0, 1, 1, x, North, WGS-84}"}, "cannot be read"),
        ({"coordinate_system_string": "{PROJCS[nonsense}"}, "cannot be read"),
    ],
)
def test_georeference_that_cannot_be_read_is_said(
    fields: dict[str, str], match: str, tmp_path: Path
) -> None:
    notes = open_scene(write(tmp_path, **fields)).info.notes
    assert any(match in note for note in notes)


def test_unreadable_coordinate_system_does_not_reach_the_next_raster(
    tmp_path: Path, write_scene_tiff: Any, cube: Any
) -> None:
    tiff = write_scene_tiff(tmp_path / "next.tif", cube)
    with rasterio.open(tiff) as file:
        open_scene(write(tmp_path, coordinate_system_string="{PROJCS[nonsense}"))
        assert len(file.colorinterp) == 4


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


def test_memory_does_not_grow_with_what_was_read(tmp_path: Path) -> None:
    bands, rows, cols = 8, 4096, 1024  # 64 MB of zeros, which take no disk
    with (tmp_path / "s.bil").open("wb") as file:
        file.truncate(bands * rows * cols * 2)
    (tmp_path / "s.hdr").write_text(
        f"ENVI\nsamples = {cols}\nlines = {rows}\nbands = {bands}\n"
        "data type = 12\ninterleave = bil\nbyte order = 0\nheader offset = 0\n"
    )
    scene = open_scene(tmp_path / "s.bil")
    out = np.empty((bands, 64, cols), np.uint16)
    scene.read((0, 64), (0, cols), np.arange(bands), out)
    before = machine.held_bytes()
    for row in range(0, rows, 64):
        scene.read((row, row + 64), (0, cols), np.arange(bands), out)
    assert machine.held_bytes() - before < 16e6
    scene.close()

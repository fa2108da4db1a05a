import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.geotiff import GeoTiffScene
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.tiff_tags import declared_nodata

WriteTiff = Callable[..., Path]
CENTRES = (450.0, 550.0, 650.0, 850.0)
LAYOUTS: tuple[dict[str, Any], ...] = (
    {},
    {"interleave": "pixel"},
    {"blockysize": 5},
    {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"},
    {"tiled": True, "blockxsize": 16, "blockysize": 16, "interleave": "pixel"},
    {"tiled": True, "blockxsize": 16, "blockysize": 16, "interleave": "band"},
    {"compress": "zstd", "predictor": 2},
    {"BIGTIFF": "YES", "ENDIANNESS": "BIG"},
)


@pytest.mark.parametrize("options", LAYOUTS)
def test_windows_of_any_layout_read_like_rasterio(
    options: dict[str, Any],
    tmp_path: Path,
    write_scene_tiff: WriteTiff,
    cube: NDArray[Any],
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", cube, **options)
    scene = GeoTiffScene(path)
    info = scene.info
    assert (info.bands, info.rows, info.cols, info.dtype.name) == (4, 23, 31, "uint16")
    bands = np.array([3, 1, 0])
    for rows, cols in (((0, 23), (0, 31)), ((4, 5), (30, 31)), ((15, 18), (14, 19))):
        found = scene.read(rows, cols, bands)
        np.testing.assert_array_equal(found, cube[bands, slice(*rows), slice(*cols)])
    with rasterio.open(path) as file:
        assert info.block == file.block_shapes[0]
    scene.close()


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "uint32", "int32", "float32", "float64"]
)
def test_dtypes(
    dtype: str, tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    values = (cube // 80).astype(dtype)
    scene = open_scene(write_scene_tiff(tmp_path / "s.tif", values))
    assert scene.info.dtype == dtype
    found = scene.read((0, 23), (0, 31), np.arange(4))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)
    scene.close()


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "int64", "uint64"])
def test_types_that_float32_cannot_hold_are_refused(
    dtype: str, tmp_path: Path, write_scene_tiff: WriteTiff
) -> None:
    values = np.ones((2, 3, 3), dtype=dtype)
    path = write_scene_tiff(tmp_path / "s.tif", values, wavelengths=None, scale=None)
    with pytest.raises(SceneError, match=f"{dtype}; expected one of uint8"):
        open_scene(path)


@pytest.mark.parametrize(
    ("unit", "factor"), [("Nanometers", 1), ("nm", 1), ("Micrometers", 1e-3), ("", 1)]
)
def test_wavelength_tags_of_bands(
    unit: str, factor: float, tmp_path: Path, write_scene_tiff: WriteTiff
) -> None:
    path = write_scene_tiff(
        tmp_path / "s.tif", np.ones((4, 2, 2), np.uint8), wavelengths=None
    )
    with rasterio.open(path, "r+") as file:
        for band, centre in enumerate(CENTRES, start=1):
            tags = {"wavelength": str(centre * factor), "fwhm": str(10.5 * factor)}
            file.update_tags(band, **tags, wavelength_units=unit)
    info = open_scene(path).info
    assert info.wavelengths_nm is not None
    assert info.fwhm_nm is not None
    np.testing.assert_allclose(info.wavelengths_nm, CENTRES)
    np.testing.assert_allclose(info.fwhm_nm, 10.5)
    assert bool(info.notes) == (unit == "")


@pytest.mark.parametrize("form", ["{} nm", "{}nm", " {} ", "{} Nanometers"])
@pytest.mark.parametrize("mark", [".", ","])
def test_wavelength_tags_with_a_unit_or_a_decimal_comma(
    form: str, mark: str, tmp_path: Path, write_scene_tiff: WriteTiff
) -> None:
    ones = np.ones((4, 2, 2), np.uint8)
    path = write_scene_tiff(tmp_path / "s.tif", ones, wavelengths=None)
    with rasterio.open(path, "r+") as file:
        for band, centre in enumerate(CENTRES, start=1):
            text = form.format(centre + 0.25).replace(".", mark)
            file.update_tags(band, wavelength=text)
    info = open_scene(path).info
    assert info.wavelengths_nm is not None
    np.testing.assert_array_equal(info.wavelengths_nm, np.add(CENTRES, 0.25))
    assert bool(info.notes) == (form == " {} ")


def test_further_images_of_a_tiff_are_not_passed_over_in_silence(
    tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", cube)
    assert open_scene(path).info.notes == ()
    write_scene_tiff(path, cube[:1], CENTRES[:1], APPEND_SUBDATASET=True)
    (note,) = open_scene(path).info.notes
    assert note == (
        "s.tif holds 2 images, of which only the first is read; it has 4 bands. If the "
        "others are further bands, put all into one image."
    )


def test_scale_of_some_bands_only_is_said(
    tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", cube)
    with rasterio.open(path, "r+") as file:
        file.scales = (1e-4, 1, 1e-4, 1e-4)
    info = open_scene(path).info
    assert info.scale is not None
    assert info.scale.tolist() == [1e-4, 1, 1e-4, 1e-4]
    assert info.notes == (
        "s.tif declares a scale of 0.0001 for 3 of 4 bands; that of band 2 counts as "
        "1. If their values are alike, declare it for every band.",
    )
    beside = write_scene_tiff(tmp_path / "b.tif", cube, scale=None)
    band = '<PAMRasterBand band="{}"><Scale>0.5</Scale></PAMRasterBand>'
    text = "".join(map(band.format, (1, 3)))
    Path(f"{beside}.aux.xml").write_text(f"<PAMDataset>{text}</PAMDataset>")
    assert (
        "0.5 for 2 of 4 bands; that of 2 bands counts"
        in open_scene(beside).info.notes[0]
    )


def test_imagery_tags_serve_only_where_bands_have_no_own(
    tmp_path: Path, write_scene_tiff: WriteTiff
) -> None:
    path = write_scene_tiff(
        tmp_path / "s.tif", np.ones((4, 2, 2), np.uint8), wavelengths=None
    )
    with rasterio.open(path, "r+") as file:
        for band, centre in enumerate(CENTRES, start=1):
            tags = {"CENTRAL_WAVELENGTH_UM": f"{centre / 1000:.3f}", "FWHM_UM": "0.010"}
            file.update_tags(band, ns="IMAGERY", **tags)
    info = open_scene(path).info
    assert info.wavelengths_nm is not None
    np.testing.assert_allclose(info.wavelengths_nm, CENTRES)
    with rasterio.open(path, "r+") as file:
        for band in range(1, 5):
            file.update_tags(
                band, wavelength=str(500.25 + band), wavelength_units="Nanometers"
            )
    info = open_scene(path).info
    assert info.wavelengths_nm is not None
    np.testing.assert_allclose(info.wavelengths_nm, 500.25 + np.arange(1, 5))


def test_bands_without_tags_have_no_wavelengths(
    tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    info = open_scene(write_scene_tiff(tmp_path / "a.tif", cube, None, None)).info
    assert info.wavelengths_nm is None
    assert info.scale is None
    assert info.good.all()


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        ({"wavelength": "red"}, {"wavelength": "650"}, "band 1 is not a number: 'red'"),
        (
            {"wavelength": "450", "wavelength_units": "nm"},
            {"wavelength": "0.65", "wavelength_units": "um"},
            "disagree on units",
        ),
        ({"wavelength": "450"}, {"wavelength": "0.65"}, "without a unit"),
        ({"wavelength": "-5"}, {"wavelength": "0.65"}, "positive"),
        ({"wavelength": "nan"}, {"wavelength": "650"}, "wavelengths"),
    ],
)
def test_wavelength_tags_that_make_no_sense(
    first: dict[str, str],
    second: dict[str, str],
    match: str,
    tmp_path: Path,
    write_scene_tiff: WriteTiff,
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", np.ones((2, 2, 2), np.uint8), None)
    with rasterio.open(path, "r+") as file:
        file.update_tags(1, **first)
        file.update_tags(2, **second)
    with pytest.raises(SceneError, match=match):
        open_scene(path)


def test_bad_band_tags_nodata_scale_and_offset(
    tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", cube, nodata=0)
    with rasterio.open(path, "r+") as file:
        file.update_tags(2, bbl="0")
        file.update_tags(3, bbl="1.0")
        file.offsets = (0.5, 0, 0, 0)
    info = open_scene(path).info
    assert info.good.tolist() == [True, False, True, True]
    assert info.nodata.tolist() == [0] * 4
    assert info.scale is not None
    assert info.offset is not None
    assert info.scale.tolist() == [1e-4] * 4
    assert info.offset.tolist() == [0.5, 0, 0, 0]


@pytest.mark.parametrize("nodata", [np.nan, -9999.0, 1e39])
def test_nodata_of_float_scenes(
    nodata: float, tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", cube.astype(np.float32))
    # GDAL writes a nodata value that the type cannot hold only as a tag by hand.
    with rasterio.open(path, "r+") as file:
        file.nodata = nodata if abs(nodata) < 1e38 else None
    info = open_scene(path).info
    expected = nodata if nodata == -9999 else np.nan
    np.testing.assert_equal(info.nodata, np.full(4, expected))


@pytest.mark.parametrize(
    "transform",
    [
        Affine(2, 0, 400_000, 0, -2, 5_800_000),
        Affine(2, 0, 400_000, 0, 2, 5_800_000),  # south up
        Affine(1.5, 0.7, 400_000, 0.7, -1.5, 5_800_000),  # rotated
    ],
)
def test_georeference_is_kept_as_it_is(
    transform: Affine, tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", cube, transform=transform)
    info = open_scene(path).info
    assert info.transform == transform.to_gdal()
    assert info.crs is not None
    assert rasterio.crs.CRS.from_wkt(info.crs).to_epsg() == 32633
    assert info.resolution_m is not None
    assert info.resolution_m**2 == pytest.approx(abs(transform.determinant))


@pytest.mark.parametrize(
    ("crs", "metres"),
    [("EPSG:32633", 2.0), ("EPSG:2263", 0.6096), ("EPSG:4326", None), (None, None)],
)
def test_resolution_in_metres(
    crs: str | None,
    metres: float | None,
    tmp_path: Path,
    write_scene_tiff: WriteTiff,
    cube: NDArray[Any],
) -> None:
    info = open_scene(write_scene_tiff(tmp_path / "s.tif", cube, crs=crs)).info
    assert info.resolution_m == (metres and pytest.approx(metres, rel=1e-4))
    assert (info.crs is None) == (crs is None)


def test_resolution_needs_a_transform(
    tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    info = open_scene(write_scene_tiff(tmp_path / "s.tif", cube, transform=None)).info
    assert info.crs is not None
    assert info.transform is None
    assert info.resolution_m is None


def test_no_georeference_is_none(
    tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", cube, crs=None, transform=None)
    info = open_scene(path).info
    assert info.transform is None
    assert info.crs is None


@pytest.mark.parametrize("options", LAYOUTS)
def test_truncation_is_an_error_wherever_it_is(
    options: dict[str, Any], tmp_path: Path, write_scene_tiff: WriteTiff, cube: Any
) -> None:
    whole = write_scene_tiff(tmp_path / "whole.tif", cube, **options).read_bytes()
    path = tmp_path / "cut.tif"
    for step in range(30):
        path.write_bytes(whole[: 8 + (len(whole) - 9) * step // 29])

        def read_all() -> None:
            scene = open_scene(path)
            try:
                scene.read((0, 23), (0, 31), np.arange(4))
            finally:
                scene.close()

        with pytest.raises(SceneError, match=r"cut\.tif"):
            read_all()


def test_damaged_block_is_named_by_its_place(
    tmp_path: Path, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    path = write_scene_tiff(tmp_path / "s.tif", cube, compress="deflate", blockysize=1)
    data = bytearray(path.read_bytes())
    start = data.index(b"\x78", len(data) // 2)  # a block's deflate header
    data[start : start + 60] = bytes(60)
    path.write_bytes(data)
    scene = open_scene(path)
    with pytest.raises(SceneError, match=r"rows 0-23, columns 0-31: .*complete\?"):
        scene.read((0, 23), (0, 31), np.arange(4))
    scene.close()


@pytest.fixture
def listener() -> Any:
    """Accept connections on this machine and note that there was one."""
    server = socket.create_server(("127.0.0.1", 0))
    hits: list[int] = []

    def accept() -> None:
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return
            hits.append(1)

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1], hits
    server.close()


def test_vrt_named_tif_reaches_nothing_it_refers_to(
    tmp_path: Path, listener: Any
) -> None:
    port, hits = listener
    path = tmp_path / "scene.tif"
    path.write_text(
        '<VRTDataset rasterXSize="2" rasterYSize="2"><VRTRasterBand dataType="Byte" '
        'band="1"><SimpleSource><SourceFilename>/vsicurl/http://127.0.0.1:'
        f"{port}/a.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
        "</VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(SceneError, match="a VRT, which names other files"):
        open_scene(path)
    with pytest.raises(SceneError, match="not a readable TIFF"):
        GeoTiffScene(path)
    assert not hits


def test_hostile_side_cars_open_nothing(
    tmp_path: Path, listener: Any, write_scene_tiff: WriteTiff, cube: NDArray[Any]
) -> None:
    port, hits = listener
    path = write_scene_tiff(tmp_path / "s.tif", cube)
    url = f"/vsicurl/http://127.0.0.1:{port}/a.tif"
    bands = "".join(
        f'<PAMRasterBand band="{b}"><NoDataValue>7</NoDataValue><Metadata>'
        '<MDI key="wavelength">1</MDI></Metadata></PAMRasterBand>'
        for b in range(1, 5)
    )
    side_car = tmp_path / "s.tif.aux.xml"
    side_car.write_text(
        f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{url}</MDI>'
        f"</Metadata><SRS>EPSG:4326</SRS>{bands}</PAMDataset>"
    )
    (tmp_path / "s.tif.ovr").write_text("<VRTDataset/>")
    (tmp_path / "s.tfw").write_text("9\n0\n0\n9\n0\n0\n")
    scene = open_scene(path)
    info = scene.info
    assert info.nodata.tolist() == [7] * 4
    assert info.wavelengths_nm is not None
    assert info.wavelengths_nm.tolist() == list(CENTRES)
    assert info.resolution_m == 2
    found = scene.read((0, 23), (0, 31), np.arange(4))
    np.testing.assert_array_equal(found, cube)
    scene.close()
    assert not hits
    assert side_car.read_text().startswith("<PAMDataset>")


def test_file_stays_open_while_a_thread_reads_it(
    tmp_path: Path, write_scene_tiff: Callable[..., Path], cube: NDArray[Any]
) -> None:
    scene = GeoTiffScene(write_scene_tiff(tmp_path / "s.tif", cube))
    with scene._busy:  # as in a read
        scene.close()
        assert not scene._dataset.closed
    scene.close()
    assert scene._dataset.closed


@pytest.mark.parametrize(
    ("scale", "offset", "match"),
    [
        (0.0, 0.0, "a scale of 0 and an offset of 0 for band 3"),
        (np.nan, 0.0, "a scale of nan"),
        (np.inf, 0.0, "a scale of inf"),
        (1e300, 0.0, "a scale of 1e"),
        (1e-300, 0.0, "a scale of 1e-300"),
        (1.0, np.nan, "an offset of nan"),
        (1e-4, -np.inf, "an offset of -inf"),
    ],
)
def test_scale_and_offset_that_give_no_quantity_are_refused(
    scale: float,
    offset: float,
    match: str,
    tmp_path: Path,
    write_scene_tiff: Callable[..., Path],
    cube: NDArray[np.uint16],
) -> None:
    path = write_scene_tiff(tmp_path / "zero.tif", cube)
    with rasterio.open(path, "r+") as file:
        file.scales = (1e-4, 1e-4, scale, 1e-4)
        file.offsets = (0.0, 0.0, offset, 0.0)
    with pytest.raises(SceneError, match=match):
        open_scene(path)
    with rasterio.open(path, "r+") as file:
        file.update_tags(3, bbl=0)
    assert not open_scene(path).info.good[2]


def retyped(path: Path) -> Path:
    """Turn a TIFF of int16 into one of uint16, whatever its nodata is."""
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[4:8], "little")
    for at in range(start + 2, start + 2 + 12 * data[start], 12):
        if int.from_bytes(data[at : at + 2], "little") == 339:  # SampleFormat
            count = int.from_bytes(data[at + 4 : at + 8], "little")
            place = int.from_bytes(data[at + 8 : at + 12], "little")
            place = place if count > 2 else at + 8
            data[place : place + 2 * count] = b"\1\0" * count
    path.write_bytes(data)
    return path


def test_nodata_that_the_type_cannot_hold_is_said(
    tmp_path: Path, write_scene_tiff: WriteTiff
) -> None:
    for name, value in (("a.tif", -9999), ("b.tif", -1)):  # beside and inside the tag
        ones = np.ones((4, 5, 6), np.int16)
        path = retyped(write_scene_tiff(tmp_path / name, ones, nodata=value))
        info = open_scene(path).info
        assert info.dtype == np.uint16
        assert np.isnan(info.nodata).all()
        assert (
            f"declares nodata {value}, which uint16 values never take"
            in (info.notes[0])
        )


def altered(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    """Set bytes of a small TIFF, most of them in its tags."""
    start = int.from_bytes(data[4:8], "little")
    length = 2 + 12 * data[start] + 4
    places = [*range(16), *range(start, min(start + length + 200, len(data)))]
    out = bytearray(data)
    for place, value in changes:
        out[places[place % len(places)]] = value
    return bytes(out)


def open_or_refuse(folder: Path, data: bytes, changes: list[tuple[int, int]]) -> None:
    path = folder / "fuzzed.tif"
    path.write_bytes(altered(data, changes))
    try:
        open_scene(path).close()
    except SceneError:
        return


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 2000), st.sampled_from([0, 1, 2, 3, 4, 16, 127, 128, 255])
    ),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module")
def small(
    tmp_path_factory: pytest.TempPathFactory, write_scene_tiff: WriteTiff
) -> bytes:
    path = tmp_path_factory.mktemp("small") / "s.tif"
    return write_scene_tiff(path, np.ones((4, 3, 2), np.uint16), nodata=0).read_bytes()


# rasterio cannot log a message of GDAL that quotes bytes of the file.
UNLOGGED = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. 'rasterio._env.log_error'"
)


@UNLOGGED
@settings(max_examples=150, derandomize=True)  # libtiff is no parser of ours
@given(CHANGES)
@example([(518, 0)])
def test_tiff_with_any_tags_is_opened_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    small: bytes,
    changes: list[tuple[int, int]],
) -> None:
    open_or_refuse(tmp_path_factory.getbasetemp(), small, changes)


@UNLOGGED
@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=50_000)
@given(CHANGES)
def test_many_tiffs_with_any_tags_are_opened_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    small: bytes,
    changes: list[tuple[int, int]],
) -> None:
    open_or_refuse(tmp_path_factory.getbasetemp(), small, changes)


@pytest.mark.timeout(60)
def test_directories_without_end_are_refused(
    tmp_path: Path, write_scene_tiff: WriteTiff
) -> None:
    path = tmp_path / "s.tif"
    write_scene_tiff(path, np.ones((1, 2, 2), np.uint8), None)
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[4:8], "little")
    following = start + 2 + 12 * data[start]
    count = 1_000_001
    empty = np.zeros(count, [("tags", "<u2"), ("next", "<u4")])  # directories of none
    first = len(data)
    empty["next"][:-1] = first + 6 * np.arange(1, count)
    data[following : following + 4] = first.to_bytes(4, "little")
    path.write_bytes(bytes(data) + empty.tobytes())
    with pytest.raises(SceneError, match="more tags than any TIFF"):
        declared_nodata(path)

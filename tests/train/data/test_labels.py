from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from masks import add_mask
from rasterio.crs import CRS
from scipy.io import savemat

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.scene import SceneInfo
from hsi_train.data.classes import MAX_CODE
from hsi_train.data.labels import open_labels, read_codes

WriteTif = Callable[..., Path]
MakeInfo = Callable[..., SceneInfo]

CODES = np.array([[0, 1, 1, 2], [2, 2, 0, 14], [14, 0, 1, 1]])
GRID = (400_000.0, 1.0, 0.0, 5_800_000.0, 0.0, -1.0)


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "int16", "int32", "int64", "uint64", "float32"]
)
def test_raster_codes_are_read_whatever_their_type(
    tmp_path: Path, write_tif: WriteTif, make_info: MakeInfo, dtype: str
) -> None:
    path = write_tif(tmp_path / "labels.tif", CODES.astype(dtype))
    values, _ = read_codes(str(path), make_info(3, 4, 2, transform=GRID))
    assert values.dtype == np.int64
    np.testing.assert_array_equal(values, CODES)


def test_matlab_labels_are_read(tmp_path: Path, make_info: MakeInfo) -> None:
    savemat(tmp_path / "gt.mat", {"gt": CODES.astype(np.uint8)})
    values, table = read_codes(str(tmp_path / "gt.mat"), make_info(3, 4, 2))
    np.testing.assert_array_equal(values, CODES)
    assert table.names == {}


def test_matlab_labels_of_half_precision(tmp_path: Path, make_info: MakeInfo) -> None:
    with h5py.File(tmp_path / "gt.mat", "w") as file:
        file["gt"] = CODES.T.astype(np.float16)
    values, _ = read_codes(str(tmp_path / "gt.mat"), make_info(3, 4, 2))
    np.testing.assert_array_equal(values, CODES)


def test_nodata_and_nan_mean_unlabelled(
    tmp_path: Path, write_tif: WriteTif, make_info: MakeInfo
) -> None:
    info = make_info(3, 4, 2)
    for fill, dtype in ((-1, "int16"), (255, "uint8"), (-9999, "float32")):
        path = write_tif(
            tmp_path / "labels.tif",
            np.where(CODES == 0, fill, CODES).astype(dtype),
            nodata=fill,
        )
        np.testing.assert_array_equal(read_codes(str(path), info)[0], CODES)
    holes = np.where(CODES == 0, np.nan, CODES).astype("float32")
    path = write_tif(tmp_path / "nan.tif", holes)
    np.testing.assert_array_equal(read_codes(str(path), info)[0], CODES)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
@pytest.mark.parametrize("nodata", [None, 77])
def test_masked_labels_mean_unlabelled(
    dtype: str,
    nodata: int | None,
    tmp_path: Path,
    write_tif: WriteTif,
    make_info: MakeInfo,
) -> None:
    path = write_tif(tmp_path / "labels.tif", CODES.astype(dtype), nodata=nodata)
    add_mask(path, CODES != 2)
    values, _ = read_codes(str(path), make_info(3, 4, 2))
    np.testing.assert_array_equal(values, np.where(CODES == 2, 0, CODES))


def test_raster_without_georeference_is_read_silently(
    tmp_path: Path, write_tif: WriteTif, make_info: MakeInfo
) -> None:
    path = write_tif(tmp_path / "labels.tif", CODES.astype("uint8"), origin=None)
    values, _ = read_codes(str(path), make_info(3, 4, 2))
    np.testing.assert_array_equal(values, CODES)


@pytest.mark.parametrize("value", [-1, 0.5, MAX_CODE + 1, 1e30])
def test_values_that_are_no_codes_are_refused(
    tmp_path: Path, write_tif: WriteTif, make_info: MakeInfo, value: float
) -> None:
    codes = CODES.astype("float64")
    codes[0, 1] = value
    path = write_tif(tmp_path / "labels.tif", codes)
    with pytest.raises(SceneError, match=r"whole label codes from 0 .* to 65534"):
        read_codes(str(path), make_info(3, 4, 2))


def test_largest_code_is_accepted(
    tmp_path: Path, write_tif: WriteTif, make_info: MakeInfo
) -> None:
    path = write_tif(tmp_path / "labels.tif", np.full((3, 4), MAX_CODE, "uint16"))
    assert read_codes(str(path), make_info(3, 4, 2))[0].max() == MAX_CODE


def test_other_size_is_refused_with_both_sizes(
    tmp_path: Path, write_tif: WriteTif, make_info: MakeInfo
) -> None:
    path = write_tif(tmp_path / "labels.tif", CODES.astype("uint8"))
    with pytest.raises(SceneError, match=r"3 x 4 pixels.* 3 x 5.*scene's grid"):
        read_codes(str(path), make_info(3, 5, 2))


@pytest.mark.parametrize(
    ("origin", "step"),
    [
        ((400_001.0, 5_800_000.0), 1.0),
        ((400_000.0, 5_799_999.5), 1.0),
        ((400_000.0, 5_800_000.0), 1.1),
    ],
)
def test_same_size_elsewhere_is_refused(
    tmp_path: Path,
    write_tif: WriteTif,
    make_info: MakeInfo,
    origin: tuple[float, float],
    step: float,
) -> None:
    path = write_tif(
        tmp_path / "labels.tif", CODES.astype("uint8"), origin=origin, step=step
    )
    with pytest.raises(SceneError, match=r"grid lies elsewhere.*400000.*rio warp"):
        read_codes(str(path), make_info(3, 4, 2, transform=GRID))


def test_another_reference_system_is_refused(
    tmp_path: Path, write_tif: WriteTif, make_info: MakeInfo
) -> None:
    path = write_tif(tmp_path / "labels.tif", CODES.astype("uint8"), crs="EPSG:32633")
    info = make_info(3, 4, 2, transform=GRID)
    scene = replace(info, crs=CRS.from_epsg(32634).to_wkt())
    with pytest.raises(SceneError, match="another coordinate reference system"):
        read_codes(str(path), scene)


def test_rounding_of_the_origin_is_no_other_place(
    tmp_path: Path, write_tif: WriteTif, make_info: MakeInfo
) -> None:
    path = write_tif(
        tmp_path / "labels.tif",
        CODES.astype("uint8"),
        origin=(400_000.0001, 5_800_000.0),
    )
    read_codes(str(path), make_info(3, 4, 2, transform=GRID))


def test_labels_of_several_bands_are_refused(
    tmp_path: Path, write_tif: WriteTif, make_info: MakeInfo
) -> None:
    path = write_tif(tmp_path / "labels.tif", np.stack([CODES] * 3).astype("uint8"))
    with pytest.raises(SceneError, match="has 3 bands; labels have one"):
        read_codes(str(path), make_info(3, 4, 2))


def test_one_raster_for_each_scene(
    tmp_path: Path, write_tif: WriteTif, make_info: MakeInfo
) -> None:
    one = write_tif(tmp_path / "a.tif", CODES.astype("uint8"))
    two = write_tif(tmp_path / "b.tif", CODES.T.astype("uint8").copy())
    labels = open_labels([str(one), str(two)], 2)
    np.testing.assert_array_equal(labels.codes(1, make_info(4, 3, 2)), CODES.T)
    np.testing.assert_array_equal(labels.codes(0, make_info(3, 4, 2)), CODES)
    with pytest.raises(SceneError, match=r"2 label raster\(s\) for 3 scene\(s\)"):
        open_labels([str(one), str(two)], 3)


def test_label_field_needs_a_vector_file(tmp_path: Path, write_tif: WriteTif) -> None:
    one = write_tif(tmp_path / "a.tif", CODES.astype("uint8"))
    with pytest.raises(SceneError, match=r"--label-field needs polygons or points"):
        open_labels([str(one)], 1, "genus")


def test_vector_files_do_not_mix(tmp_path: Path, write_tif: WriteTif) -> None:
    one = write_tif(tmp_path / "a.tif", CODES.astype("uint8"))
    for paths in ([str(one), "b.gpkg"], ["a.gpkg", "b.GPKG"]):
        with pytest.raises(
            SceneError, match=r"2 label files, .* expected one\s+vector"
        ):
            open_labels(paths, 2)


def test_missing_files_are_named(make_info: MakeInfo, tmp_path: Path) -> None:
    for name in ("no.gpkg", "no.tif", "no.mat"):
        with pytest.raises(SceneError, match=f"There is no file .*{name}"):
            open_labels([str(tmp_path / name)], 1).codes(0, make_info(3, 4, 2))


def test_colours_and_names_of_the_raster(
    tmp_path: Path, write_tif: WriteTif, make_info: MakeInfo
) -> None:
    import rasterio

    path = write_tif(tmp_path / "labels.tif", CODES.astype("uint8"))
    with rasterio.open(path, "r+") as raster:
        raster.write_colormap(1, {1: (255, 0, 0, 255), 2: (0, 128, 255, 255)})
        raster.update_tags(1, CLASS_NAMES='{"1": "roof", "14": "tree"}')
    labels = open_labels([str(path)], 1)
    labels.codes(0, make_info(3, 4, 2))
    table = labels.class_table()
    assert table.names == {1: "roof", 14: "tree"}
    assert (table.colors[1], table.colors[2]) == ("#ff0000", "#0080ff")


def test_category_names_of_the_side_car(
    tmp_path: Path, write_tif: WriteTif, make_info: MakeInfo
) -> None:
    path = write_tif(tmp_path / "labels.tif", CODES.astype("uint8"))
    side_car = tmp_path / "labels.tif.aux.xml"
    names = "".join(
        f"<Category>{n}</Category>" for n in ("", "roof", "water &amp; ice")
    )
    side_car.write_text(
        "<PAMDataset><PAMRasterBand band='1'><CategoryNames>"
        f"{names}</CategoryNames></PAMRasterBand></PAMDataset>"
    )
    labels = open_labels([str(path)], 1)
    labels.codes(0, make_info(3, 4, 2))
    assert labels.class_table().names == {1: "roof", 2: "water & ice"}
    side_car.write_text("<PAMDataset><broken")
    labels = open_labels([str(path)], 1)
    with pytest.raises(SceneError, match=r"it may declare nodata of labels\.tif"):
        labels.codes(0, make_info(3, 4, 2))


@pytest.mark.parametrize("tag", ["no json", "[1, 2]", '{"one": "roof"}', "7"])
def test_damaged_class_names_are_no_reason_to_stop(
    tmp_path: Path, write_tif: WriteTif, make_info: MakeInfo, tag: str
) -> None:
    path = write_tif(
        tmp_path / "labels.tif", CODES.astype("uint8"), tags=[{"CLASS_NAMES": tag}]
    )
    _, table = read_codes(str(path), make_info(3, 4, 2))
    assert table.names == {}


def test_labels_read_in_place_leave_no_side_car(
    tmp_path: Path, write_tif: WriteTif
) -> None:
    path = write_tif(tmp_path / "labels.tif", CODES.astype("uint8"))
    scene = open_scene(path)
    info = scene.info
    scene.close()
    read_codes(str(path), info)
    assert [p.name for p in tmp_path.iterdir()] == ["labels.tif"]


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_numpys_own_integers_in_envi(
    tmp_path: Path, make_info: MakeInfo, dtype: str
) -> None:
    path = tmp_path / "labels.img"
    path.write_bytes(CODES.astype(dtype).tobytes())
    kind = {"int64": 14, "uint64": 15}[dtype]
    path.with_suffix(".hdr").write_text(
        "ENVI\nsamples = 4\nlines = 3\nbands = 1\ninterleave = bsq\nbyte order = 0\n"
        f"data type = {kind}\n"
    )
    values, _ = read_codes(str(path), make_info(3, 4, 2))
    np.testing.assert_array_equal(values, CODES)
    with pytest.raises(SceneError, match=r"data type '1[45]' is not supported"):
        open_scene(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.npy", "NumPy array; save it as a GeoTIFF"),
        ("a.CSV", "a table; .* GeoPackage"),
        ("a.kml", "not read; save it as a GeoPackage"),
        ("a.gdb", "not read; save it as a GeoPackage"),
        ("a.zip", "an archive; unpack it"),
        ("a.dbf", r"part of a Shapefile; name its \.shp"),
    ],
)
def test_files_that_are_no_labels_are_refused_with_a_way_out(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / name).write_bytes(b"content")
    with pytest.raises(SceneError, match=rf"Labels .*{name}: this is .*{message}"):
        open_labels([str(tmp_path / name)], 1)


def test_transposed_labels_are_called_so(
    tmp_path: Path, write_tif: WriteTif, make_info: MakeInfo
) -> None:
    savemat(tmp_path / "gt.mat", {"gt": CODES.T})
    write_tif(tmp_path / "gt.tif", CODES.T.astype("uint8").copy(), origin=None)
    for name in ("gt.mat", "gt.tif"):
        with pytest.raises(SceneError, match="rows and columns are exchanged"):
            read_codes(str(tmp_path / name), make_info(3, 4, 2))


@pytest.mark.parametrize("named", [{}, {255: "snow"}])
def test_255_without_declared_nodata_is_counted(
    tmp_path: Path, write_tif: WriteTif, make_info: MakeInfo, named: dict[int, str]
) -> None:
    codes = np.where(CODES == 0, 255, CODES).astype("uint8")
    path = write_tif(tmp_path / "labels.tif", codes)
    labels = open_labels([str(path)], 1, named=named)
    np.testing.assert_array_equal(labels.codes(0, make_info(3, 4, 2)), codes)
    messages = labels.warnings()
    assert len(messages) == (0 if named else 1)
    assert all("3 pixels have code 255" in m for m in messages)


@pytest.mark.parametrize("others", [[254, 255], [1, 255, 256], [1, 2]])
def test_255_among_other_large_codes_is_a_class(
    tmp_path: Path, write_tif: WriteTif, make_info: MakeInfo, others: list[int]
) -> None:
    codes = np.resize(others, (3, 4)).astype("uint16")
    labels = open_labels([str(write_tif(tmp_path / "labels.tif", codes))], 1)
    labels.codes(0, make_info(3, 4, 2))
    assert labels.warnings() == []

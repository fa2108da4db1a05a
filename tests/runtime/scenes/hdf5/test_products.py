"""Every product as its generator writes it, and the traps of its layout."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from rasterio.crs import CRS

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.scene import SceneInfo, valid_pixels
from hsi_train.simulate.products import prisma
from hsi_train.simulate.products.emit import BAD_NM, EmitWriter, Swath
from hsi_train.simulate.products.neon import WATER_NM, NeonWriter
from hsi_train.simulate.products.tanager import good as good_tanager
from hsi_train.simulate.spec import NODATA

Make = Callable[..., Any]
STEP = 0.000542232520256367  # degrees
GRIDDED = ("neon", "tanager", "aviris3", "prisma")
KINDS = {
    "neon": "NEON AOP reflectance",
    "tanager": "Tanager ortho",
    "aviris3": "AVIRIS-3 or AVIRIS-5 orthorectified reflectance",
    "prisma": "PRISMA L2D",
    "emit": "EMIT L2A reflectance",
}


def describe(path: Path) -> SceneInfo:
    with contextlib.closing(open_scene(path)) as scene:
        return scene.info


def whole(path: Path) -> tuple[SceneInfo, NDArray[Any]]:
    """Describe a scene and read it, with its bands in rising order."""
    with contextlib.closing(open_scene(path)) as scene:
        info = scene.info
        assert info.wavelengths_nm is not None
        order = np.argsort(info.wavelengths_nm)
        return info, scene.read((0, info.rows), (0, info.cols), order)


def edit(path: Path) -> Any:
    return h5py.File(path, "r+")


@pytest.mark.parametrize("product", GRIDDED)
def test_gridded_product_is_what_was_written(product: str, make: Make) -> None:
    made = make(product)
    info, cube = whole(made.path)
    spec = made.spec
    assert (info.bands, info.rows, info.cols) == made.cube.shape
    assert info.driver == "HDF5"
    assert info.product is not None
    assert info.product.kind == KINDS[product]
    assert info.wavelengths_nm is not None
    assert info.fwhm_nm is not None
    order = np.argsort(info.wavelengths_nm)
    assert info.wavelengths_nm[order].tolist() == list(spec.wavelengths_nm)
    assert info.fwhm_nm[order].tolist() == list(spec.fwhm_nm)
    # Corner of the first pixel, as `grid_profile` places it.
    side = spec.resolution_m
    assert info.transform == (400_000.0, side, 0.0, 5_800_000.0, 0.0, -side)
    assert CRS.from_wkt(info.crs) == CRS.from_epsg(32633)
    assert info.resolution_m == side
    assert info.ground is info
    assert info.notes == ()
    assert cube.dtype == made.cube.dtype
    fill = NODATA[spec.dtype]
    empty = made.cube == fill
    assert empty.any()
    np.testing.assert_array_equal(valid_pixels(cube, info.nodata), ~empty.any(axis=0))
    good = info.good[order]
    expected = np.where(empty, info.nodata[0], made.cube)
    np.testing.assert_array_equal(cube[good], expected[good])


@pytest.mark.parametrize("product", [*GRIDDED, "emit"])
def test_windows_and_lists_of_bands_are_parts_of_the_whole(
    product: str, make: Make
) -> None:
    made = make(product)
    with contextlib.closing(open_scene(made.path)) as scene:
        info = scene.info
        every = scene.read((0, info.rows), (0, info.cols), np.arange(info.bands))
        for rows, cols, bands in (
            ((0, 1), (0, 1), [0]),
            ((3, 40), (7, 31), [5, 4, 3, 11, 12, 13]),
            ((info.rows - 1, info.rows), (0, info.cols), [info.bands - 1, 0, 2]),
        ):
            part = scene.read(rows, cols, np.array(bands))
            np.testing.assert_array_equal(
                part, every[bands][:, slice(*rows), slice(*cols)]
            )
            strided = np.empty(part.shape[::-1], part.dtype).T
            assert scene.read(rows, cols, np.array(bands), strided) is strided
            np.testing.assert_array_equal(strided, part)


def test_renamed_or_alone_in_a_folder_it_is_the_same_product(make: Make) -> None:
    made = make("neon")
    folder = made.path.parent / "downloads"
    folder.mkdir()
    made.path.rename(folder / "whatever.tif")
    assert describe(folder).path == folder / "whatever.tif"


def test_two_products_in_a_folder_are_refused(make: Make) -> None:
    made = make("neon")
    (made.path.parent / "second.h5").write_bytes(made.path.read_bytes())
    with pytest.raises(SceneError, match="holds 2 products"):
        open_scene(made.path.parent)


def test_neon_water_windows_are_bad_bands(make: Make) -> None:
    info = describe(make("neon", bands=80).path)
    assert info.wavelengths_nm is not None
    inside = [
        (info.wavelengths_nm >= a) & (info.wavelengths_nm <= b) for a, b in WATER_NM
    ]
    assert 0 < np.count_nonzero(~info.good) < 80
    np.testing.assert_array_equal(info.good, ~np.any(inside, axis=0))


@pytest.mark.parametrize("revision", ["001", "002"])
def test_neon_revisions_scale_and_nodata(revision: str, make: Make) -> None:
    made = make("neon", NeonWriter, revision=revision)
    info = describe(made.path)
    assert info.interleave == "bip"  # the attribute says BSQ
    assert info.scale is not None
    assert set(info.scale.tolist()) == {1 / 10_000}
    assert set(info.nodata.tolist()) == {-9999}
    assert info.block == made.cube.shape[1:]  # one chunk of up to 64 rows holds all


def test_neon_rotated_grid(make: Make) -> None:
    made = make("neon")
    with edit(made.path) as file:
        system = file["SIMU/Reflectance/Metadata/Coordinate_System"]
        text = system["Map_Info"][0].decode()
        system["Map_Info"][0] = text.replace("Meters, 0", "Meters, rotation=90")
    info = describe(made.path)
    assert info.transform is not None
    np.testing.assert_allclose(info.transform[1:3], (0, 1), atol=1e-12)


def test_neon_radiance_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "radiance.h5"
    with h5py.File(path, "w") as file:
        file.create_group("SITE/Radiance/RadianceIntegerPart")
    with pytest.raises(SceneError, match="NEON AOP radiance, split into integer"):
        open_scene(path)


def test_prisma_joins_two_descending_cubes(make: Make) -> None:
    made = make("prisma", bands=234)
    info = describe(made.path)
    assert info.wavelengths_nm is not None
    # Each spectrometer from long to short; bands that were not acquired are gone.
    (turn,) = np.flatnonzero(np.diff(info.wavelengths_nm) > 0)
    assert info.bands == 234
    assert (info.wavelengths_nm > 0).all()
    with h5py.File(made.path) as file:
        stored = file[f"{prisma.FIELDS}/VNIR_Cube"].shape[1]
    assert stored == turn + 1 + prisma.EMPTY["Vnir"] == 66
    assert info.wavelengths_nm[0] > info.wavelengths_nm[-1]  # the two overlap
    assert info.good.all()


def test_prisma_keeps_stored_values_and_declares_units_for_each_band(
    make: Make,
) -> None:
    limits = {"Vnir": (-0.01, 1.25), "Swir": (0.0, 0.875)}
    made = make("prisma", prisma.PrismaWriter, bands=60, limits=limits)
    info, cube = whole(made.path)
    assert cube.dtype == np.uint16
    assert info.scale is not None
    assert info.offset is not None
    assert info.wavelengths_nm is not None
    order = np.argsort(info.wavelengths_nm)
    vnir = np.isin(np.array(made.spec.wavelengths_nm), prisma.VNIR_NM)
    for name, its in (("Vnir", vnir), ("Swir", ~vnir)):
        least, most = limits[name]
        assert set(info.scale[order][its].tolist()) == {(most - least) / 65_535}
        assert set(info.offset[order][its].tolist()) == {least}
    quantity = cube * info.scale[order][:, None, None]
    quantity += info.offset[order][:, None, None]
    real = (made.cube > 200) & (made.cube < 8000)  # within both limits
    apart = np.abs(quantity - made.cube * 1e-4)[real]
    assert apart.max() <= 1.26 / 65_535
    # A stored 0 is nodata in whichever band it stands.
    assert (info.nodata == 0).all()
    cube[3, 30, 26] = 0
    assert not valid_pixels(cube, info.nodata)[30, 26]


def test_prisma_flags_mark_bad_bands(make: Make) -> None:
    made = make("prisma", bands=60)
    with edit(made.path) as file:
        flags = file.attrs["List_Cw_Swir_Flags"]
        flags[4] = 0
        file.attrs["List_Cw_Swir_Flags"] = flags
        missed = file.attrs["List_Cw_Swir"][4]
    info = describe(made.path)
    assert info.wavelengths_nm is not None
    assert info.wavelengths_nm[~info.good].tolist() == [missed]


def test_prisma_corners_are_centres_of_pixels(make: Make) -> None:
    made = make("prisma")
    with h5py.File(made.path) as file:
        east = file.attrs["Product_ULcorner_easting"]
        north = file.attrs["Product_LRcorner_northing"]
    info = describe(made.path)
    assert info.transform is not None
    assert info.transform[0] == east - 15
    assert info.transform[3] + info.rows * info.transform[5] == north - 15


def test_prisma_corners_that_make_other_pixels_are_told(make: Make) -> None:
    made = make("prisma")
    with edit(made.path) as file:  # as if they were edges
        file.attrs["Product_LRcorner_easting"] += 30
    (note,) = describe(made.path).notes
    assert "instead of 30 m; its place may be off by half a pixel" in note


def test_tanager_sentinel_bands_are_bad(make: Make) -> None:
    made = make("tanager", bands=80)
    info, cube = whole(made.path)
    good = good_tanager(np.array(made.spec.wavelengths_nm))
    np.testing.assert_array_equal(info.good, good)
    valid = valid_pixels(cube[good], info.nodata[good])
    assert (cube[~good][:, valid] == np.float32(-0.01)).all()
    assert [layer.name for layer in info.quality] == [
        "beta_cloud_mask",
        "beta_cirrus_mask",
    ]


@pytest.mark.parametrize(("zone", "code"), [(33, 32633), (-33, 32733)])
def test_tanager_zone_of_either_hemisphere(zone: int, code: int, make: Make) -> None:
    made = make("tanager")
    with edit(made.path) as file:
        del file["HDFEOS/GRIDS/HYP/Data Fields/surface_reflectance"].attrs["epsg_code"]
        name = "HDFEOS INFORMATION/StructMetadata.0"
        text = file[name][()].decode().replace("ZoneCode=33", f"ZoneCode={zone}")
        del file[name]
        file[name] = np.bytes_(text)
    assert CRS.from_wkt(describe(made.path).crs) == CRS.from_epsg(code)


def test_tanager_without_a_grid_is_incomplete(make: Make) -> None:
    made = make("tanager")
    with edit(made.path) as file:
        del file["HDFEOS INFORMATION"]
    with pytest.raises(SceneError, match=r"has no grid in StructMetadata\.0"):
        open_scene(made.path)


def test_aviris_coordinates_are_centres(make: Make) -> None:
    made = make("aviris3")
    info = describe(made.path)
    with edit(made.path) as file:
        assert file["easting"][0] == 400_002.5
        del file["transverse_mercator"].attrs["GeoTransform"]
    assert describe(made.path).transform == info.transform


def test_aviris_georeference_that_disagrees_is_told(make: Make) -> None:
    made = make("aviris3")
    with edit(made.path) as file:  # half a pixel, as if it were a centre
        numbers = (400_002.5, 5.0, 0.0, 5_799_997.5, 0.0, -5.0)
        file["transverse_mercator"].attrs["GeoTransform"] = " ".join(map(str, numbers))
    info = describe(made.path)
    assert info.transform == (400_000.0, 5.0, 0.0, 5_800_000.0, 0.0, -5.0)
    (note,) = info.notes
    assert "its GeoTransform and its coordinates disagree" in note


def test_emit_in_the_geometry_of_its_sensor(make: Make) -> None:
    made = make("emit", bands=60)
    info, cube = whole(made.path)
    spec, swath = made.spec, Swath(made.spec.rows, made.spec.cols)
    assert (info.rows, info.cols) == (swath.lines, swath.samples)
    assert info.wavelengths_nm is not None
    assert info.wavelengths_nm.tolist() == list(spec.wavelengths_nm)
    assert info.fwhm_nm is not None
    assert info.fwhm_nm.tolist() == list(spec.fwhm_nm)
    centres = np.array(spec.wavelengths_nm)
    bad = np.any([(centres > a) & (centres < b) for a, b in BAD_NM], axis=0)
    np.testing.assert_array_equal(info.good, ~bad)
    assert info.transform is None
    assert info.ground.transform == (14.25, STEP, 0.0, 52.5, 0.0, -STEP)
    assert (info.ground.rows, info.ground.cols) == (spec.rows, spec.cols)
    assert CRS.from_wkt(info.ground.crs) == CRS.from_epsg(4326)
    # The sentinel is not the fill value, and not in a good band.
    valid = valid_pixels(cube[~bad], info.nodata[~bad])
    assert (cube[bad][:, valid] == np.float32(-0.01)).all()
    # The spectrum of a pixel is that of the first of its cells.
    assert info.placement is not None
    cells = info.placement.read((0, spec.rows), (0, spec.cols))
    for row, col in ((0, 0), (10, 20), (40, 30)):
        line, sample = swath.line(row), swath.table(row)[col] - 1
        assert (cells.rows[row, col], cells.cols[row, col]) == (line, sample)
        first = next(r for r in range(spec.rows) if swath.line(r) == line)
        there = made.cube[~bad, first, swath.first_cells(first)[sample]]
        np.testing.assert_array_equal(cube[~bad, line, sample], there)


def test_emit_takes_geotransform_not_the_named_extent(make: Make) -> None:
    made = make("emit")
    with edit(made.path) as file:  # exchanged, as in real files
        file.attrs["easternmost_longitude"] = [1.0]
        file.attrs["westernmost_longitude"] = [2.0]
    assert describe(made.path).ground.transform == (14.25, STEP, 0, 52.5, 0, -STEP)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("sensor_band_parameters/good_wavelengths", "has no sensor_band_parameters"),
        ("location/glt_y", "has no data set location/glt_y"),
        ("geotransform", "has no attribute geotransform"),
    ],
)
def test_emit_that_is_incomplete(damage: str, message: str, make: Make) -> None:
    made = make("emit")
    with edit(made.path) as file:
        del (file if "/" in damage else file.attrs)[damage]
    with pytest.raises(SceneError, match=message):
        open_scene(made.path)


@pytest.mark.parametrize("index", [-3, 10_000])
def test_lookup_table_that_leads_out_of_the_swath(index: int, make: Make) -> None:
    made = make("emit")
    with edit(made.path) as file:
        file["location/glt_x"][5, 5] = index
    info = describe(made.path)
    assert info.placement is not None
    with pytest.raises(SceneError, match="glt_x names pixels outside 1 to"):
        info.placement.read((0, 10), (0, 10))


def test_emit_writer_has_cells_of_several_and_of_no_pixel(make: Make) -> None:
    made = make("emit", EmitWriter)
    info = describe(made.path)
    assert info.placement is not None
    cells = info.placement.read((0, info.ground.rows), (0, info.ground.cols))
    inside = cells.rows >= 0
    assert 0.5 < inside.mean() < 0.9
    pixels = np.unique(cells.rows[inside] * info.cols + cells.cols[inside])
    assert len(pixels) == info.rows * info.cols  # each stands somewhere
    assert inside.sum() > 1.4 * len(pixels)


@pytest.mark.parametrize("product", [*GRIDDED, "emit"])
def test_a_list_of_another_length_is_refused(product: str, make: Make) -> None:
    made = make(product)
    with edit(made.path) as file:
        if product == "prisma":
            file.attrs["List_Fwhm_Swir"] = np.ones(5)
        elif product == "tanager":
            cube = file["HDFEOS/GRIDS/HYP/Data Fields/surface_reflectance"]
            cube.attrs["wavelengths"] = np.linspace(400, 500, 5)
            cube.attrs["good_wavelengths"] = np.ones(5)
            cube.attrs["fwhm"] = np.ones(5)
        else:
            name = {
                "neon": "SIMU/Reflectance/Metadata/Spectral_Data/FWHM",
                "aviris3": "reflectance/fwhm",
                "emit": "sensor_band_parameters/fwhm",
            }[product]
            del file[name]
            file[name] = np.ones(5)
    with pytest.raises(SceneError, match="but its lists of them have"):
        open_scene(made.path)

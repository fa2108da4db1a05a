import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from envi_files import everything
from products import Delivered

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.opening import open_raster, open_scene
from hsi_runtime.scenes.scene import SceneInfo

pytest.importorskip("hsi_train.simulate")
LEVELS = [(p, level) for p in ("enmap", "desis") for level in ("", "L1C")]
Deliver = Callable[..., Delivered]
Copy = Callable[..., Path]


def info_of(path: Path) -> SceneInfo:
    scene = open_scene(path)
    scene.close()
    return scene.info


def one(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def xml_of(folder: Path) -> Path:
    return next(p for p in folder.iterdir() if p.suffix.lower() == ".xml")


def edit(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in changes:
        text, count = re.subn(old, new, text, flags=re.DOTALL)
        assert count, old
    path.write_text(text)


@pytest.mark.parametrize(("product", "level"), LEVELS)
def test_scene_is_what_was_written(
    product: str, level: str, delivered: Deliver
) -> None:
    made = delivered(product, level=level)
    scene = open_scene(made.path)
    info, spec = scene.info, made.spec
    assert (info.bands, info.rows, info.cols) == made.cube.shape
    assert info.wavelengths_nm is not None
    assert info.fwhm_nm is not None
    assert info.scale is not None
    assert info.offset is not None
    assert info.wavelengths_nm.tolist() == list(spec.wavelengths_nm)
    assert info.fwhm_nm.tolist() == list(spec.fwhm_nm)
    if level:
        assert len(set(info.scale.tolist())) == info.bands
        assert len(set(info.offset.tolist())) == info.bands
    else:
        assert info.scale.tolist() == [1e-4] * info.bands
        assert info.offset.tolist() == [0] * info.bands
    assert info.dtype == "int16"
    fill = 0 if (product, level) == ("enmap", "L1C") else -32768
    assert info.nodata.tolist() == [fill] * info.bands
    assert info.transform == (400_000, 30, 0, 5_800_000, 0, -30)
    assert info.crs is not None
    assert rasterio.crs.CRS.from_wkt(info.crs).to_epsg() == 32633
    assert info.product is not None
    names = {"enmap": "EnMAP", "desis": "DESIS"}
    assert info.product.kind == f"{names[product]} {level or 'L2A'}"
    assert info.product.name == xml_of(made.path).name[: -len("-METADATA.XML")]
    assert info.product.time.startswith(("2024-06-30T10:11", "2020-01-01T10:11"))
    assert info.notes == ()
    assert set(info.files) == {info.path, xml_of(made.path)}
    values = everything(scene)
    scene.close()
    expected = np.where((made.cube == fill) & made.valid, fill + 1, made.cube)
    expected = np.where(made.valid, expected, fill)
    np.testing.assert_array_equal(values[info.good], expected[info.good])
    np.testing.assert_array_equal((values != fill)[0], made.valid)


def test_bad_bands_of_enmap_are_those_without_a_value(delivered: Deliver) -> None:
    made = delivered("enmap")
    scene = open_scene(made.path)
    info = scene.info
    assert np.flatnonzero(~info.good).tolist() == [130, 131, 132, 133, 134, 135]
    assert (everything(scene)[~info.good] == -32768).all()
    scene.close()
    assert info.wavelengths_nm is not None
    steps = np.diff(info.wavelengths_nm)
    assert steps.min() > 0  # two spectrometers, in order of wavelength
    overlap = (info.wavelengths_nm > 902) & (info.wavelengths_nm < 994)
    assert steps[overlap[1:]].max() < 6.5 < steps.max()


@pytest.mark.parametrize("product", ["enmap", "desis"])
def test_any_file_of_a_product_stands_for_it(product: str, delivered: Deliver) -> None:
    made = delivered(product, bands=20)
    expected = info_of(made.path)
    for member in made.path.iterdir():
        info = info_of(member)
        assert info.path == expected.path, member
        assert info.product == expected.product
    quality = {layer.name: layer.place for layer in expected.quality}
    cloud = "cloud" if product == "enmap" else "quality-2"
    assert (made.path / quality[cloud]).is_file()


def test_a_file_can_be_opened_by_itself(delivered: Deliver) -> None:
    made = delivered("enmap", bands=20)
    layer = open_raster(one(made.path, "*QL_QUALITY_CLASSES.TIF"))
    assert (layer.info.bands, layer.info.product) == (1, None)
    layer.close()


@pytest.mark.parametrize("product", ["enmap", "desis"])
def test_renamed_files_are_recognised(
    product: str, delivered: Deliver, copied: Copy
) -> None:
    folder = copied(delivered(product, bands=20).path)
    expected = info_of(folder)
    for number, path in enumerate(sorted(folder.iterdir())):
        if path.suffix != ".hdr":
            path.rename(folder / f"{number}{path.suffix.swapcase()}")
    (header,) = [*folder.glob("*.hdr"), None][:1]
    if header is not None:
        header.unlink()
    info = info_of(folder)
    assert info.wavelengths_nm is not None
    assert expected.wavelengths_nm is not None
    assert info.wavelengths_nm.tolist() == expected.wavelengths_nm.tolist()
    assert info.product is not None
    assert expected.product is not None
    assert info.product.kind == expected.product.kind
    assert info_of(info.path).product == info.product
    assert info_of(xml_of(folder)).path == info.path


@pytest.mark.parametrize("name", ["metadata.xml", "Metadata.Xml", "M.XML", "text"])
def test_metadata_of_any_name_are_read(
    name: str, delivered: Deliver, copied: Copy
) -> None:
    folder = copied(delivered("enmap", bands=20).path)
    described = xml_of(folder).rename(folder / name)
    assert info_of(folder).scale is not None
    assert info_of(described).scale is not None
    if name != "text":  # what describes a raster beside it ends in .xml or .json
        assert info_of(one(folder, "*SPECTRAL*")).scale is not None


def test_cloud_optimised_names_are_known(delivered: Deliver, copied: Copy) -> None:
    folder = copied(delivered("enmap", bands=20).path)
    cube = one(folder, "*SPECTRAL_IMAGE.TIF")
    cog = cube.rename(cube.with_name(cube.name.replace(".TIF", "_COG.TIF")))
    assert info_of(folder).path == cog
    assert info_of(cog).scale is not None


@pytest.mark.parametrize("product", ["enmap", "desis"])
def test_missing_cube_is_named(product: str, delivered: Deliver, copied: Copy) -> None:
    folder = copied(delivered(product, bands=20).path)
    cube = one(folder, "*SPECTRAL_IMAGE.[tT]*")
    cube.unlink()
    for given in (
        folder,
        xml_of(folder),
        one(folder, "*QL_QUALITY-2.tif")
        if product == "desis"
        else one(folder, "*QL_PIXELMASK.TIF"),
    ):
        with pytest.raises(SceneError, match=r"its cube .*SPECTRAL_IMAGE.* 20 bands"):
            open_scene(given)


def test_missing_metadata_leave_a_plain_raster(
    delivered: Deliver, copied: Copy
) -> None:
    folder = copied(delivered("enmap", bands=20).path)
    xml_of(folder).unlink()
    info = info_of(one(folder, "*SPECTRAL_IMAGE.TIF"))
    assert (info.product, info.wavelengths_nm, info.scale) == (None, None, None)
    with pytest.raises(SceneError, match="folder without a sensor product"):
        open_scene(folder)


def test_folder_of_two_products_is_refused(delivered: Deliver, copied: Copy) -> None:
    folder = copied(delivered("enmap", bands=20).path)
    for path in delivered("desis", bands=20).path.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(
        SceneError, match=r"holds 2 products, described by DESIS-.*ENMAP"
    ):
        open_scene(folder)
    for pattern, kind in (("ENMAP*SPECTRAL*", "EnMAP L2A"), ("DESIS*XML", "DESIS L2A")):
        pattern = pattern.replace("XML", "xml")
        info = info_of(one(folder, pattern))
        assert info.product is not None
        assert info.product.kind == kind


def test_two_rasters_that_may_be_the_cube_are_named(
    delivered: Deliver, copied: Copy
) -> None:
    folder = copied(delivered("enmap", bands=20).path)
    cube = one(folder, "*SPECTRAL_IMAGE.TIF").rename(folder / "a.tif")
    (folder / "b.tif").write_bytes(cube.read_bytes())
    for given in (folder, cube):
        with pytest.raises(
            SceneError, match=r"a\.tif and b\.tif may be its cube of 20"
        ):
            open_scene(given)


def test_other_rasters_of_the_folder_stay_themselves(
    delivered: Deliver, copied: Copy
) -> None:
    folder = copied(delivered("enmap", bands=20).path)
    cube = one(folder, "*SPECTRAL_IMAGE.TIF")
    mine = folder / "corrected.tif"
    mine.write_bytes(cube.read_bytes())
    assert info_of(mine).product is None
    assert info_of(folder).path == cube
    classes = cube.with_name(cube.stem + "_classes.tif")
    classes.write_bytes(one(folder, "*QL_QUALITY_CLASSES.TIF").read_bytes())
    assert info_of(classes).path == classes


def test_mask_beside_the_cube_is_refused(delivered: Deliver, copied: Copy) -> None:
    folder = copied(delivered("enmap", bands=20).path)
    cube = one(folder, "*SPECTRAL_IMAGE.TIF")
    cube.with_name(cube.name + ".msk").touch()
    with pytest.raises(SceneError, match="has its mask in another file"):
        open_scene(folder)


def test_cube_that_is_not_what_is_described(delivered: Deliver, copied: Copy) -> None:
    folder = copied(delivered("enmap", bands=20).path)
    other = delivered("enmap", bands=21).path
    cube = one(folder, "*SPECTRAL_IMAGE.TIF")
    cube.write_bytes(one(other, "*SPECTRAL_IMAGE.TIF").read_bytes())
    with pytest.raises(SceneError, match="is not a GeoTIFF of 20 bands"):
        open_scene(folder)


@pytest.mark.parametrize("product", ["enmap", "desis"])
def test_sensor_geometry_is_refused(
    product: str, delivered: Deliver, copied: Copy
) -> None:
    folder = copied(delivered(product, bands=20).path)
    edit(xml_of(folder), ("L2A</(level|productType)>", r"L1B</\1>"))
    with pytest.raises(SceneError, match="L1B: it is in the geometry of the sensor"):
        open_scene(folder)


def test_channels_that_are_not_expected_are_bad(
    delivered: Deliver, copied: Copy
) -> None:
    folder = copied(delivered("enmap", bands=20).path)
    path = xml_of(folder)
    edit(path, (r"(expectedChannelsList>)1,2,", r"\1"))
    assert np.flatnonzero(~info_of(folder).good)[:2].tolist() == [0, 1]
    edit(path, (r"(expectedChannelsList>)[\d,]*", r"\g<1>"))
    assert info_of(folder).good[0]
    edit(path, (r"(expectedChannelsList>)", r"\g<1>300,301"))
    info = info_of(folder)
    assert info.good[0]
    assert any("does not count the cube's bands" in note for note in info.notes)


def test_bands_of_another_element_are_not_counted(
    delivered: Deliver, copied: Copy
) -> None:
    folder = copied(delivered("desis", bands=20).path)
    assert xml_of(folder).read_text().count("<band>") == 40
    assert info_of(folder).bands == 20


def test_bands_in_any_order_of_the_file(delivered: Deliver, copied: Copy) -> None:
    folder = copied(delivered("desis", bands=3, level="L1C").path)
    expected = info_of(folder)
    one(folder, "*.hdr").unlink()
    path = xml_of(folder)
    text = path.read_text()
    head, tail = text.split("<bandCharacterisation>")
    bands, tail = tail.split("</bandCharacterisation>")
    parts = re.findall(r"<band>.*?</band>", bands, re.DOTALL)
    shuffled = "".join(reversed(parts))
    path.write_text(
        f"{head}<bandCharacterisation>{shuffled}</bandCharacterisation>{tail}"
    )
    info = info_of(folder)
    for name in ("wavelengths_nm", "fwhm_nm", "scale", "offset"):
        assert getattr(info, name).tolist() == getattr(expected, name).tolist()


def test_header_and_metadata_that_differ_are_named(
    delivered: Deliver, copied: Copy
) -> None:
    folder = copied(delivered("desis", bands=3).path)
    edit(one(folder, "*.hdr"), (r"(data gain values = \{)[^,]*", r"\g<1>0.5"))
    info = info_of(folder)
    assert info.scale is not None
    assert info.scale.tolist() == [1e-4] * 3
    assert any("differ in scale and offset" in note for note in info.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("<GainOfBand>.*?<", "<GainOfBand>much<"), "is not a number"),
        (('number="2"', 'number="3"'), "described twice"),
        (('number="2"', 'number="900"'), "only 20 of them"),
        (('number="2"', ""), "no band number"),
        (("</level_X>", ""), "cannot be read"),
        (("<level_X>", "<!DOCTYPE level_X><level_X>"), "document type"),
        (
            ("(wavelengthCenterOfBand>).*?<", r"\g<1>-1<"),
            "wavelengths must be positive",
        ),
    ],
)
def test_damaged_metadata_are_refused(
    change: tuple[str, str], message: str, delivered: Deliver, copied: Copy
) -> None:
    folder = copied(delivered("enmap", bands=20).path)
    edit(xml_of(folder), change)
    cube = one(folder, "*SPECTRAL_IMAGE.TIF")
    for given in (folder, xml_of(folder), cube):
        with pytest.raises(SceneError, match=message):
            open_scene(given)
    # The raster by itself, as labels are opened, needs none of it.
    open_raster(cube).close()


def test_a_product_without_gains_declares_no_scale(
    delivered: Deliver, copied: Copy
) -> None:
    folder = copied(delivered("enmap", bands=20).path)
    edit(xml_of(folder), (r"<GainOfBand>.*?</GainOfBand>", ""))
    assert info_of(folder).scale is None


def test_nodata_of_the_metadata_serve_a_cube_that_states_none(
    delivered: Deliver, copied: Copy
) -> None:
    for product, level, fill in (
        ("enmap", "", -32768),
        ("enmap", "L1C", 7),
        ("desis", "", 7),
    ):
        made = delivered(product, bands=20, level=level)
        folder = copied(made.path, f"{product}{level}")
        with rasterio.open(one(folder, "*SPECTRAL_IMAGE.[tT]*"), "r+") as file:
            file.nodata = None
        for header in folder.glob("*.hdr"):
            header.unlink()
        edit(xml_of(folder), ("(backgroundValue>)[-0-9]*<", r"\g<1>7<"))
        assert info_of(folder).nodata.tolist() == [fill] * 20


def test_time_is_that_of_the_scene(delivered: Deliver, copied: Copy) -> None:
    folder = copied(delivered("enmap", bands=20).path)
    edit(xml_of(folder), ("<base>", "<orbit><startTime>1999</startTime></orbit><base>"))
    product = info_of(folder).product
    assert product is not None
    assert product.time == "2024-06-30T10:11:12.123456Z"


def test_foreign_xml_beside_a_raster_is_left_alone(
    delivered: Deliver, copied: Copy
) -> None:
    folder = copied(delivered("enmap", bands=20).path)
    xml_of(folder).write_text("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>")
    assert info_of(one(folder, "*SPECTRAL_IMAGE.TIF")).product is None

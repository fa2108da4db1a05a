import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from masks import add_mask
from scipy.io import savemat

from hsi_runtime.errors import BandMismatchError, SceneError
from hsi_runtime.scenes.scene import valid_pixels
from hsi_train.data import loading
from hsi_train.data.labelled_scene import (
    UNLABELLED,
    LabelledData,
    on_ground,
    places_of,
)
from hsi_train.data.loading import expand_scenes
from hsi_train.data.roles import Role
from hsi_train.simulate import SceneSpec, band_centres, write_scene

WriteTif = Callable[..., Path]

ROWS, COLS, BANDS = 20, 24, 4


def some_codes() -> np.ndarray:
    codes = np.zeros((ROWS, COLS), dtype=np.uint8)
    codes[8:11, 10:13] = 3
    codes[12, 9:15] = 7
    return codes


def some_cube(dtype: str = "int16") -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(1, 5000, (BANDS, ROWS, COLS)).astype(dtype)


def wavelength_tags(*centres: float, **more: str) -> list[dict[str, str]]:
    return [
        {"wavelength": str(c), "wavelength_units": "Nanometers", **more}
        for c in centres
    ]


CENTRES = (450.0, 550.0, 650.0, 850.0)


@pytest.fixture
def files(tmp_path: Path, write_tif: WriteTif) -> Callable[..., tuple[str, str]]:
    def write(
        cube: np.ndarray | None = None,
        codes: np.ndarray | None = None,
        name: str = "scene",
        tags: list[dict[str, str]] | None = None,
        **profile: Any,
    ) -> tuple[str, str]:
        scene = write_tif(
            tmp_path / f"{name}.tif",
            some_cube() if cube is None else cube,
            tags=wavelength_tags(*CENTRES) if tags is None else tags,
            **profile,
        )
        labels = write_tif(
            tmp_path / f"{name}_gt.tif", some_codes() if codes is None else codes
        )
        return str(scene), str(labels)

    return write


Files = Callable[..., tuple[str, str]]


def load(*pairs: tuple[str, str], halo: int = 2, **options: Any) -> LabelledData:
    scenes, labels = zip(*pairs, strict=True)
    return loading.load(scenes, labels, halo, **options)


@pytest.mark.parametrize("halo", [0, 2, 9])
def test_places_on_the_ground_are_the_same_for_every_context(
    files: Files, halo: int
) -> None:
    other = np.zeros_like(some_codes())
    other[0, 3] = 7
    data = load(files(), files(codes=other, name="other"), halo=halo)
    trained = [
        np.where(s.classes != UNLABELLED, Role.TRAIN, Role.NONE) for s in data.scenes
    ]
    scenes = data.divided([roles.astype(np.uint8) for roles in trained]).scenes
    places, _ = places_of(scenes, Role.TRAIN)
    expected = [(0, *place) for place in np.argwhere(some_codes())] + [(1, 0, 3)]
    np.testing.assert_array_equal(on_ground(scenes, places), expected)
    # Parts of one scene have one number.
    halves = on_ground([scenes[0], *scenes], places + np.array([1, 0, 0]))
    np.testing.assert_array_equal(halves[:, 0], [0] * (len(places) - 1) + [2])


@pytest.mark.parametrize("halo", [0, 2, 9, 100])
def test_crop_holds_the_labels_and_their_context(files: Files, halo: int) -> None:
    cube, codes = some_cube(), some_codes()
    (scene,) = load(files(cube, codes), halo=halo).scenes
    top, left = max(8 - halo, 0), max(9 - halo, 0)
    bottom, right = min(13 + halo, ROWS), min(15 + halo, COLS)
    assert (scene.row, scene.col) == (top, left)
    np.testing.assert_array_equal(scene.cube, cube[:, top:bottom, left:right])
    expected = np.full((ROWS, COLS), UNLABELLED)
    expected[codes == 3], expected[codes == 7] = 0, 1
    np.testing.assert_array_equal(scene.classes, expected[top:bottom, left:right])
    assert scene.valid.all()


def test_windows_of_the_crop_are_those_of_the_whole_scene(files: Files) -> None:
    from hsi_train.data.cutting import cut_cube

    cube, codes = some_cube(), some_codes()
    codes[0, 0], codes[ROWS - 1, 3] = 3, 7  # labels at the edges are mirrored
    halo = 3
    (scene,) = load(files(cube, codes), halo=halo).scenes
    padded = np.pad(cube, ((0, 0), (halo, halo), (halo, halo)), mode="reflect")
    fill = np.zeros((BANDS, 1, 1), dtype=np.float32)
    for row, col in np.argwhere(codes > 0):
        at = (row - scene.row, col - scene.col)
        window = cut_cube(
            scene,
            scene.valid,
            fill,
            (at[0] - halo, at[0] + halo + 1),
            (at[1] - halo, at[1] + halo + 1),
        )
        expected = padded[:, row : row + 2 * halo + 1, col : col + 2 * halo + 1]
        np.testing.assert_array_equal(window, expected)


def about_labels(data: LabelledData) -> list[str]:
    """The warnings without those about what the scene does not declare."""
    return [w for w in data.warnings if "declares no" not in w]


@pytest.mark.parametrize("layout", ["tiff-band", "tiff-pixel", "bsq", "bil", "bip"])
def test_every_layout_gives_the_same_data(tmp_path: Path, layout: Any) -> None:
    spec = SceneSpec(rows=30, cols=20, wavelengths_nm=band_centres(5), seed=2)
    write_scene(spec, tmp_path / "one.tif", truth=tmp_path / "gt.tif")
    write_scene(spec, tmp_path / f"two_{layout}", layout=layout)
    labels = str(tmp_path / "gt.tif")
    first = load((str(tmp_path / "one.tif"), labels))
    second = load((str(tmp_path / f"two_{layout}"), labels))
    np.testing.assert_array_equal(first.scenes[0].cube, second.scenes[0].cube)
    assert first.classes == second.classes
    ours, theirs = (d.reference.wavelengths_nm for d in (first, second))
    assert ours is not None
    assert theirs is not None
    np.testing.assert_allclose(ours, theirs)


def test_classes_are_in_order_of_their_code(files: Files) -> None:
    data = load(files())
    assert [c.code for c in data.classes] == [3, 7]
    assert data.counts() == [9, 6]
    assert about_labels(data) == []


def test_class_file_names_win(files: Files, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('{"3": "roof"}')
    data = load(files(), class_file=str(tmp_path / "classes.json"))
    assert [c.name for c in data.classes] == ["roof", "7"]
    assert any("without a name" in w for w in data.warnings)


def test_bad_bands_are_not_used(files: Files) -> None:
    tags = wavelength_tags(*CENTRES)
    tags[1]["bbl"] = "0"
    tags[3]["bbl"] = "1"
    cube = some_cube()
    cube[1] = -32768
    data = load(files(cube, tags=tags, nodata=-32768))
    np.testing.assert_array_equal(data.bands, [0, 2, 3])
    assert data.scenes[0].cube.shape[0] == 3
    assert data.scenes[0].valid.all()
    assert about_labels(data) == []


def test_all_bands_bad_is_refused(files: Files) -> None:
    with pytest.raises(SceneError, match=r"marks every band as bad"):
        load(files(tags=wavelength_tags(*CENTRES, bbl="0")))


def test_bands_without_a_labelled_value_are_dropped_with_a_warning(
    files: Files,
) -> None:
    cube = some_cube()
    cube[2] = -32768
    cube[2, 0, 0] = 5  # a value, but on no labelled pixel
    data = load(files(cube, nodata=-32768), halo=100)
    np.testing.assert_array_equal(data.bands, [0, 1, 3])
    np.testing.assert_array_equal(data.scenes[0].cube, cube[[0, 1, 3]])
    assert about_labels(data) == ["Bands without any labelled value are left out: [3]."]
    assert data.counts() == [9, 6]


def test_pixels_that_lack_a_band_are_not_used_and_counted(files: Files) -> None:
    cube = some_cube()
    cube[1, 8, 10:12] = -32768  # two labelled pixels
    cube[0, 9, 9] = -32768  # and one without a label
    data = load(files(cube, nodata=-32768))
    (scene,) = data.scenes
    assert data.counts() == [7, 6]
    np.testing.assert_array_equal(
        scene.valid, valid_pixels(scene.cube, np.full(BANDS, -32768.0))
    )
    assert (scene.classes[~scene.valid] == UNLABELLED).all()
    assert about_labels(data) == ["2 labelled pixels are nodata and are not used."]


@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32"])
def test_masked_pixels_are_not_used_and_counted(files: Files, dtype: str) -> None:
    seen = np.ones((ROWS, COLS), dtype=bool)
    seen[8, 10:12] = seen[9, 9] = False  # two labelled pixels, and one without a label
    cube = (some_cube() % 256).astype(dtype)
    pair = files(cube)
    add_mask(Path(pair[0]), seen)
    data = load(pair, halo=100)
    (scene,) = data.scenes
    assert data.counts() == [7, 6]
    np.testing.assert_array_equal(scene.valid, seen)
    np.testing.assert_array_equal(scene.cube[:, seen], cube[:, seen])
    assert about_labels(data) == ["2 labelled pixels are nodata and are not used."]


def test_class_without_a_valid_pixel_is_left_out_by_name(files: Files) -> None:
    cube, codes = some_cube(), some_codes()
    codes[2, 2:5] = 9
    cube[:, 2, 2:5] = -32768
    data = load(files(cube, codes, nodata=-32768))
    assert [c.code for c in data.classes] == [3, 7]
    assert any("without any valid pixel" in w and "9" in w for w in data.warnings)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_cube_without_a_number_is_refused(files: Files, bad: float) -> None:
    cube = np.full((BANDS, ROWS, COLS), bad, dtype=np.float32)
    with pytest.raises(SceneError, match="labelled pixel is nodata in every band"):
        load(files(cube))


def test_holes_in_a_float_cube_are_nodata(files: Files) -> None:
    cube = some_cube("float32")
    cube[2, 8, 10] = np.nan
    cube[3, 12, 9] = np.inf
    assert load(files(cube)).counts() == [8, 5]


def test_labels_that_are_all_zero(files: Files) -> None:
    codes = np.zeros((ROWS, COLS), dtype=np.uint8)
    with pytest.raises(SceneError, match=r"No labelled pixel in 1 scene\(s\)"):
        load(files(codes=codes))


def test_one_class_only(files: Files) -> None:
    codes = np.where(some_codes() == 3, 3, 0).astype(np.uint8)
    with pytest.raises(SceneError, match=r"1 class\(es\) .*\(3\).*at least two"):
        load(files(codes=codes))


def test_label_raster_of_another_size(files: Files) -> None:
    with pytest.raises(SceneError, match=r"20 x 23 pixels.*20 x 24"):
        load(files(codes=some_codes()[:, :-1]))


def test_label_raster_at_another_place(
    files: Files, tmp_path: Path, write_tif: WriteTif
) -> None:
    scene, _ = files()
    labels = write_tif(
        tmp_path / "moved.tif", some_codes(), origin=(400_030.0, 5_800_000.0)
    )
    with pytest.raises(SceneError, match="its grid lies elsewhere"):
        load((scene, str(labels)))


def test_scenes_with_their_bands_in_another_order(files: Files) -> None:
    cube = some_cube()
    order = [2, 0, 3, 1]
    first = files(cube)
    second = files(
        cube[order], name="other", tags=wavelength_tags(*(CENTRES[i] for i in order))
    )
    data = load(first, second)
    np.testing.assert_array_equal(data.scenes[0].cube, data.scenes[1].cube)
    data = load(second, first)
    np.testing.assert_array_equal(data.scenes[0].cube, data.scenes[1].cube)
    assert data.reference.wavelengths_nm is not None
    assert data.reference.wavelengths_nm[data.bands].tolist() == [
        CENTRES[i] for i in order
    ]


def test_first_scene_without_labels_does_not_define_the_bands(files: Files) -> None:
    cube, none = some_cube(), np.zeros((ROWS, COLS), dtype=np.uint8)
    order = [2, 0, 3, 1]
    tags = wavelength_tags(*(CENTRES[i] for i in order))
    tags[2]["bbl"] = "0"  # 850 nm
    empty = files(cube[order], none, "empty", tags)
    more = wavelength_tags(*CENTRES)
    more[2]["bbl"] = "0"  # 650 nm
    data = load(empty, files(cube, tags=more), files(cube, name="third"))
    assert [s.info.path.name for s in data.scenes] == ["scene.tif", "third.tif"]
    np.testing.assert_array_equal(data.bands, [0, 1, 3])
    for scene in data.scenes:
        np.testing.assert_array_equal(
            scene.cube,
            cube[[0, 1, 3], scene.row : scene.row + 9, scene.col : scene.col + 10],
        )
    assert any("empty.tif" in w and "no labelled pixel" in w for w in data.warnings)


def test_scene_that_lacks_a_band_is_refused(files: Files) -> None:
    far = files(name="far", tags=wavelength_tags(450, 550, 650, 1050))
    with pytest.raises(BandMismatchError, match=r"Missing: 850.0 nm"):
        load(files(), far)


def test_scene_that_would_have_to_be_resampled_is_refused(files: Files) -> None:
    far = files(name="far", tags=wavelength_tags(450, 550, 650, 950))
    with pytest.raises(SceneError, match="different band centres"):
        load(files(), far)


def test_scenes_in_other_units_are_refused(
    files: Files, tmp_path: Path, write_tif: WriteTif
) -> None:
    import rasterio

    floats = files(some_cube("float32"), name="floats")
    with pytest.raises(SceneError, match=r"floats\.tif stores float32.* int16"):
        load(files(), floats)
    scaled, again = files(name="scaled"), files(name="again")
    for path in (scaled[0], again[0]):
        with rasterio.open(path, "r+") as raster:
            raster.scales = (1e-4,) * BANDS
    with pytest.raises(SceneError, match=r"scaled\.tif .*scale.*same stored units"):
        load(files(), scaled)
    assert len(load(scaled, again).scenes) == 2


def test_folder_of_scenes_in_order_of_name(
    tmp_path: Path, files: Files, write_tif: WriteTif
) -> None:
    folder = tmp_path / "scenes"
    folder.mkdir()
    labels = []
    for name in ("b", "a", "c"):
        scene, gt = files(name=name)
        shutil.move(scene, folder)
        labels.append(gt)
    (folder / "notes.txt").write_text("no scene")
    (folder / "a.tif.aux.xml").write_text("<PAMDataset/>")
    assert [Path(p).name for p in expand_scenes([str(folder)])] == [
        "a.tif",
        "b.tif",
        "c.tif",
    ]
    data = loading.load([str(folder)], labels, 2)
    assert [s.info.path.name for s in data.scenes] == ["a.tif", "b.tif", "c.tif"]


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("no scene")
    with pytest.raises(SceneError, match=r"holds no \.tif, \.hdr or \.mat scene"):
        expand_scenes([str(tmp_path)])


def test_matlab_cube_and_labels(tmp_path: Path) -> None:
    cube, codes = some_cube(), some_codes()
    savemat(tmp_path / "both.mat", {"cube": cube.transpose(1, 2, 0), "gt": codes})
    path = str(tmp_path / "both.mat")
    for pair in ((path, path), (f"{path}:cube", f"{path}:gt")):
        (scene,) = load(pair, halo=100).scenes
        np.testing.assert_array_equal(scene.cube, cube)
        assert np.count_nonzero(scene.classes >= 0) == np.count_nonzero(codes)


@pytest.mark.parametrize("exclude", [("tree",), (9,), ("9",)])
def test_excluded_classes_are_unlabelled(
    files: Files, tmp_path: Path, exclude: tuple[str | int, ...]
) -> None:
    codes = some_codes()
    codes[9, 11] = 9
    classes = tmp_path / "classes.json"
    classes.write_text('{"9": "tree"}' if exclude == ("tree",) else '{"3": "roof"}')
    data = load(files(codes=codes), class_file=str(classes), exclude=exclude)
    assert [c.code for c in data.classes] == [3, 7]
    assert data.counts() == [8, 6]
    with pytest.raises(SceneError, match=r"exclude names 'bush'.*classes are"):
        load(files(codes=codes), exclude=("bush",))


def test_a_name_of_several_codes_excludes_all_of_them(
    files: Files, write_tif: WriteTif
) -> None:
    codes = some_codes()
    codes[0, :2] = 1, 2
    scene, labels = files(codes=codes)
    named = {"CLASS_NAMES": json.dumps({"1": "grass", "2": "grass"})}
    write_tif(Path(labels), codes, tags=[named])
    data = load((scene, labels), exclude=("grass",))
    assert [c.code for c in data.classes] == [3, 7]


def named_pair(
    files: Files, write_tif: WriteTif, name: str, codes: np.ndarray, **names: str
) -> tuple[str, str]:
    """Write a scene whose labels name classes, such as ``_3="roof"``."""
    scene, labels = files(name=name)
    text = json.dumps({key[1:]: value for key, value in names.items()})
    write_tif(Path(labels), codes, tags=[{"CLASS_NAMES": text}])
    return scene, labels


def test_a_code_of_two_names_is_refused(
    files: Files, tmp_path: Path, write_tif: WriteTif
) -> None:
    def pair(name: str, **names: str) -> tuple[str, str]:
        return named_pair(files, write_tif, name, some_codes(), **names)

    first = pair("a", _0="Unclassified", _3="forest", _7="water")
    data = load(first, pair("b", _0="none", _3="Forest ", _9="road"))
    assert [c.name for c in data.classes] == ["Forest", "water"]
    other = pair("c", _3="water", _7="forest")
    with pytest.raises(
        SceneError, match=r"c_gt\.tif names code 3 'water', and other labels name it"
    ):
        load(first, other)
    classes = tmp_path / "classes.json"
    classes.write_text('{"3": "trees", "7": "lakes"}')
    data = load(first, other, class_file=str(classes))
    assert [c.name for c in data.classes] == ["trees", "lakes"]


def test_training_and_test_labels_name_the_same_classes(
    files: Files, tmp_path: Path, write_tif: WriteTif
) -> None:
    upper, lower = some_codes(), some_codes()
    upper[:, 12:], lower[:, :12] = 0, 0
    train = named_pair(files, write_tif, "a", upper, _3="forest", _7="water")
    _, test = named_pair(files, write_tif, "b", lower, _3="water", _7="forest")
    with pytest.raises(SceneError, match="training labels names code 3 'forest'"):
        load(train, test_label_paths=[test])
    classes = tmp_path / "classes.json"
    classes.write_text('{"3": "forest", "7": "water"}')
    assert load(train, test_label_paths=[test], class_file=str(classes)).counts()


def test_more_classes_than_class_indices(files: Files) -> None:
    numbers = np.arange(200 * 200, dtype=np.uint16).reshape(200, 200)
    cube = np.ones((BANDS, 200, 200), dtype=np.int16)
    with pytest.raises(SceneError, match="39999 classes; at most 32767 are possible"):
        load(files(cube, numbers))


def test_missing_scene(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"There is no file .*no\.tif"):
        load((str(tmp_path / "no.tif"), str(tmp_path / "gt.tif")))


def test_a_scene_given_twice_would_be_tested_on_what_it_learnt(
    files: Files, tmp_path: Path
) -> None:
    scene, labels = files()
    link = tmp_path / "link.tif"
    link.symlink_to(scene)
    with pytest.raises(
        SceneError, match=r"link\.tif is the same scene as .*scene\.tif"
    ):
        loading.load([scene, str(link)], [labels, labels], 1)


def test_a_copy_without_a_place_on_the_map_is_no_second_scene(files: Files) -> None:
    first = files(origin=None)
    second = files(name="copy", origin=None)
    with pytest.raises(SceneError, match=r"copy\.tif is a copy of .*scene\.tif"):
        load(first, second)
    assert load(first, files(some_cube() + 1, name="other", origin=None)).counts()


def test_what_the_first_scene_does_not_declare_is_said(
    files: Files, tmp_path: Path
) -> None:
    pair = files(tags=[])
    (message,) = load(pair).warnings
    assert message.startswith("scene.tif declares no wavelengths and no scale: ")
    assert message.endswith("same stored units.")
    for name in ("ENMAP-METADATA.XML", "scene.hdr", "notes.txt"):
        (tmp_path / name).touch()
    (message,) = load(pair).warnings
    assert "ENMAP-METADATA.XML, scene.hdr may hold them" in message
    (message,) = load(files()).warnings
    assert "declares no scale: " in message
    assert load(files(some_cube("float32"), name="real")).warnings == []


def test_the_folder_of_a_product_is_no_list_of_scenes(
    files: Files, tmp_path: Path, write_tif: WriteTif
) -> None:
    _, labels = files()
    product = tmp_path / "product"
    product.mkdir()
    write_tif(product / "spectral.tif", some_cube())
    write_tif(product / "quality.tif", some_codes())
    with pytest.raises(
        SceneError, match=r"product holds 2 rasters.*the largest is .*spectral\.tif"
    ):
        load((str(product), labels))


def test_matlab_scene_with_wavelengths_needs_no_warning(tmp_path: Path) -> None:
    cube = np.moveaxis(some_cube("float32"), 0, 2)
    savemat(tmp_path / "a.mat", {"cube": cube, "wavelengths_nm": [CENTRES]})
    savemat(tmp_path / "gt.mat", {"gt": some_codes()})
    data = load((str(tmp_path / "a.mat"), str(tmp_path / "gt.mat")))
    np.testing.assert_array_equal(data.reference.wavelengths_nm, CENTRES)
    assert data.warnings == []

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import rasterio
from msgspec.structs import replace
from numpy.typing import NDArray

from hsi_runtime.cli import main
from hsi_runtime.matching.bands import match_bands
from hsi_runtime.model.model_file import ModelFile, read_model
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.scene import valid_pixels

torch = pytest.importorskip("torch")

from hsi_train.run_folder import checkpoint  # noqa: E402
from hsi_train.simulate import SceneSpec, band_centres, write_scene  # noqa: E402
from hsi_train.simulate.files import Layout  # noqa: E402

TIE = 1e-5
# Another place than the scene the model was fitted to; prime sides.
SPEC = SceneSpec(
    rows=23,
    cols=31,
    wavelengths_nm=band_centres(30),
    seed=3,
    origin_row=500,
    materials=("grass", "conifer", "bright_soil", "water", "asphalt"),
    nodata_border=True,
)


@pytest.fixture(scope="module")
def model(trained: Any) -> ModelFile:
    return read_model(trained.model)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    write_scene(SPEC, path)
    return path


@pytest.fixture(scope="module")
def mapped(
    model: ModelFile, scene: Path, tmp_path_factory: pytest.TempPathFactory
) -> NDArray[np.uint8]:
    output = tmp_path_factory.mktemp("map") / "o.tif"
    run(Request(scene, output), model)
    return class_map(output)


def class_map(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as file:
        values: NDArray[np.uint8] = file.read(1)
    return values


def stored_values(path: Path) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    opened = open_scene(path)
    info = opened.info
    values = opened.read((0, info.rows), (0, info.cols), np.arange(info.bands))
    opened.close()
    return values, valid_pixels(values, info.nodata)


@pytest.fixture(scope="module")
def patch_by_patch(trained: Any, model: ModelFile, scene: Path) -> NDArray[np.float32]:
    """Classify each pixel by a 13 x 13 patch of its own: ``(class, row, col)``."""
    values, valid = stored_values(scene)
    document = model.document
    method = checkpoint.load(trained.run).method
    fill = np.array(document.values.fill)[:, None, None]
    filled = np.where(valid, values, fill).astype(np.float32)
    halo, side = document.halo, document.receptive_field
    padded = np.pad(filled, ((0, 0), (halo, halo), (halo, halo)), mode="reflect")
    rows, cols = valid.shape
    out = np.empty((len(document.classes), rows, cols), dtype=np.float32)
    with torch.inference_mode():
        for row in range(rows):
            patches = [padded[:, row : row + side, c : c + side] for c in range(cols)]
            scores = method.network(torch.from_numpy(np.stack(patches)))
            assert scores.shape[2:] == (1, 1)
            out[:, row] = method.probabilities(scores)[:, :, 0, 0].T.numpy()
    return out


def test_decimal_reflectance_gives_the_same_map_by_its_scale(
    model: ModelFile,
    scene: Path,
    mapped: NDArray[np.uint8],
    tmp_path: Path,
    invoke: Any,
) -> None:
    """A GeoTIFF cannot declare a scale of 1."""
    decimal, output = tmp_path / "decimal.tif", tmp_path / "o.tif"
    with rasterio.open(scene) as stored:
        profile, scale = stored.profile, stored.scales[0]
        values = stored.read().astype(np.float32) * np.float32(scale)
        values[stored.read() == stored.nodata] = -1
        tags = [stored.tags(band) for band in stored.indexes]
    with rasterio.open(
        decimal, "w", **profile | {"dtype": "float32", "nodata": -1}
    ) as file:
        file.write(values)
        for band, one in enumerate(tags, start=1):
            file.update_tags(band, **one)
    command = decimal, "-m", model.path, "-o", output
    code, _, err = invoke(main, *command)
    assert code == 4
    assert "Give its scale by --scale (the model's is 0.0001)." in err
    assert invoke(main, *command, "--scale", 1).code == 0
    assert np.mean(class_map(output) == mapped) > 0.995
    with rasterio.open(output) as file:
        assert file.tags()["HSI_SCALE"] == "1.0"
    # Another scale is another map, also in a list of scenes.
    scenes = tmp_path / "list.txt"
    scenes.write_text("decimal.tif\n")
    listed = scenes, "-m", model.path, "-o", tmp_path
    output.rename(tmp_path / "decimal_classes.tif")
    assert invoke(main, *listed, "--scale", 1).code == 0
    assert invoke(main, *listed, "--scale", 2).code == 5


def test_map_is_what_torch_says_patch_by_patch(
    patch_by_patch: NDArray[np.float32],
    model: ModelFile,
    scene: Path,
    mapped: NDArray[np.uint8],
) -> None:
    _, valid = stored_values(scene)
    assert 0 < (~valid).sum() < valid.sum()
    np.testing.assert_array_equal(mapped == 255, ~valid)
    ordered = np.sort(patch_by_patch, axis=0)
    clear = valid & (ordered[-1] - ordered[-2] > TIE)
    assert clear.sum() > 0.99 * valid.sum()
    codes = np.array([c.code for c in model.document.classes])
    expected = codes[patch_by_patch.argmax(axis=0)]
    np.testing.assert_array_equal(mapped[clear], expected[clear])
    assert len(np.unique(mapped[valid])) >= 3


def test_probabilities_are_those_of_torch(
    patch_by_patch: NDArray[np.float32], model: ModelFile, scene: Path, tmp_path: Path
) -> None:
    request = Request(scene, tmp_path / "o.tif", probabilities=True, tile=11)
    run(request, model)
    _, valid = stored_values(scene)
    with rasterio.open(tmp_path / "o_probabilities.tif") as file:
        found = file.read()
    worst = np.abs(found / 200 - patch_by_patch)[:, valid].max()
    assert worst <= 1 / 400 + 1e-4
    assert (found[:, ~valid] == 255).all()


@pytest.mark.parametrize("layout", get_args(Layout))
@pytest.mark.parametrize("tile", [9, 128])
def test_every_layout_gives_the_same_map(
    layout: Layout,
    tile: int,
    model: ModelFile,
    mapped: NDArray[np.uint8],
    tmp_path: Path,
) -> None:
    path = tmp_path / ("s.tif" if layout.startswith("tiff") else "s.img")
    write_scene(SPEC, path, layout=layout)
    run(Request(path, tmp_path / "o.tif", tile=tile), model)
    np.testing.assert_array_equal(class_map(tmp_path / "o.tif"), mapped)
    with rasterio.open(tmp_path / "o.tif") as file:
        assert file.crs.to_epsg() == 32633
        assert file.transform.to_gdal() == (400_000, 1, 0, 5_799_500, 0, -1)


@pytest.mark.parametrize("compress", ["deflate", "zstd"])
def test_compression_changes_nothing(
    compress: str, model: ModelFile, mapped: NDArray[np.uint8], tmp_path: Path
) -> None:
    write_scene(SPEC, tmp_path / "s.tif", compress=compress)
    run(Request(tmp_path / "s.tif", tmp_path / "o.tif"), model)
    np.testing.assert_array_equal(class_map(tmp_path / "o.tif"), mapped)


def test_permuted_and_extra_bands_give_the_same_map(
    model: ModelFile,
    scene: Path,
    mapped: NDArray[np.uint8],
    tmp_path: Path,
    write_scene_tiff: Any,
) -> None:
    values, _ = stored_values(scene)
    centres = np.array(SPEC.wavelengths_nm)
    random = np.random.default_rng(0)
    extra = random.integers(1, 9000, (7, *values.shape[1:])).astype(values.dtype)
    order = random.permutation(len(centres) + 7)
    mixed = np.concatenate([values, extra])[order]
    named = np.concatenate([centres, centres[:7] + 20])[order]
    path = write_scene_tiff(tmp_path / "s.tif", mixed, named.tolist(), nodata=0)
    info = open_scene(path).info
    bands = model.document.bands
    matched = match_bands(info, bands.wavelengths_nm, bands.source_count, bands.used)
    np.testing.assert_array_equal(order[matched.indices], np.arange(30))
    result = run(Request(path, tmp_path / "o.tif"), model)
    np.testing.assert_array_equal(class_map(tmp_path / "o.tif"), mapped)
    assert result["pixels"]["nodata"] == (mapped == 255).sum()


# Without noise: another draw of the noise alone changes one pixel of six.
QUIET = replace(SPEC, noise=0.0)


@pytest.fixture(scope="module")
def quiet(
    model: ModelFile, tmp_path_factory: pytest.TempPathFactory
) -> NDArray[np.uint8]:
    """Map the scene at the model's own band centres."""
    folder = tmp_path_factory.mktemp("quiet")
    write_scene(QUIET, folder / "s.tif")
    run(Request(folder / "s.tif", folder / "o.tif"), model)
    return class_map(folder / "o.tif")


@pytest.mark.parametrize("bands", [45, 90, 290])
def test_other_band_centres_that_cover_the_model_are_resampled(
    bands: int, trained: Any, quiet: NDArray[np.uint8], tmp_path: Path, invoke: Any
) -> None:
    write_scene(replace(QUIET, wavelengths_nm=band_centres(bands)), tmp_path / "s.tif")
    output = tmp_path / "o.tif"
    arguments = [tmp_path / "s.tif", "-m", trained.model, "-o", output]
    code, out, _ = invoke(main, *arguments, "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["bands_found"] == "resampled"
    code, _, err = invoke(main, *arguments)
    assert code == 0
    assert "warning: s.tif is resampled: " in err
    assert "of the model's 30 bands match within 2 nm; " in err
    with rasterio.open(output) as file:
        assert file.tags()["HSI_BANDS"] == "resampled"
    found = class_map(output)
    np.testing.assert_array_equal(found == 255, quiet == 255)
    known = found != 255
    assert (found == quiet)[known].mean() >= 0.95


def test_too_coarse_a_scene_is_refused(
    trained: Any, tmp_path: Path, invoke: Any
) -> None:
    write_scene(replace(QUIET, wavelengths_nm=band_centres(15)), tmp_path / "s.tif")
    code, out, err = invoke(main, tmp_path / "s.tif", "-m", trained.model)
    assert (code, out) == (4, "")
    assert "The model needs 30 bands from 400.0 to 2500.0 nm; s.tif has 15" in err
    assert "the neighbours are too far apart to resample" in err
    assert [p.name for p in tmp_path.iterdir()] == ["s.tif"]


def test_reflectance_as_decimals_gives_the_same_map(
    model: ModelFile,
    scene: Path,
    mapped: NDArray[np.uint8],
    tmp_path: Path,
    write_scene_tiff: Any,
) -> None:
    values, valid = stored_values(scene)
    reflectance = np.where(valid, values / 100, -9999).astype(np.float32)
    path = write_scene_tiff(
        tmp_path / "s.tif", reflectance, SPEC.wavelengths_nm, scale=0.01, nodata=-9999
    )
    run(Request(path, tmp_path / "o.tif"), model)
    assert (class_map(tmp_path / "o.tif") == mapped).mean() > 0.999


def test_file_without_wavelengths_runs_with_a_warning(
    trained: Any,
    scene: Path,
    mapped: NDArray[np.uint8],
    tmp_path: Path,
    write_scene_tiff: Any,
    invoke: Any,
) -> None:
    values, _ = stored_values(scene)
    path = write_scene_tiff(tmp_path / "s.tif", values, None, nodata=0)
    code, out, err = invoke(main, path, "-m", trained.model, "--json")
    assert code == 0
    assert "warning: The scene has no wavelengths: 30 bands are matched by" in err
    found = json.loads(out)
    assert found["output"] == str(tmp_path / "s_classes.tif")
    np.testing.assert_array_equal(class_map(tmp_path / "s_classes.tif"), mapped)


def test_command_describes_its_result(
    trained: Any, scene: Path, mapped: NDArray[np.uint8], tmp_path: Path, invoke: Any
) -> None:
    output = tmp_path / "o.tif"
    code, out, err = invoke(
        main, scene, "-m", trained.model, "-o", output, "--json", "-q", "--preview"
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["method"] == "mf2cnet"
    assert found["precision"] == "fp32"
    assert found["device"] == "cpu"
    for entry in found["classes"]:
        assert entry["pixels"] == (mapped == entry["code"]).sum()
        assert entry["area_m2"] == entry["pixels"]
    assert found["pixels"]["nodata"] == (mapped == 255).sum()
    assert found["peak_memory_bytes"] > 10e6
    names = {c.code: c.name for c in read_model(trained.model).document.classes}
    with rasterio.open(output) as file:
        assert file.crs.to_epsg() == 32633
        with rasterio.open(scene) as source:
            assert file.transform == source.transform
        tagged = json.loads(file.tags(1)["CLASS_NAMES"])
        assert {int(k): v for k, v in tagged.items()} == names | {
            0: "unclassified",
            255: "nodata",
        }
        colours = file.colormap(1)
        for info in read_model(trained.model).document.classes:
            assert "#" + bytes(colours[info.code][:3]).hex() == info.color
        tags = file.tags()
    assert tags["HSI_MODEL_SHA256"] == trained.exported["sha256"]
    assert tags["HSI_SCENE"] == "scene.tif"
    assert tags["HSI_METHOD"] == "mf2cnet"
    assert tags["TIFFTAG_SOFTWARE"].startswith("hsi-edge ")


def test_self_test_and_description_of_an_export(trained: Any, invoke: Any) -> None:
    code, out, _ = invoke(main, "--self-test", "-m", trained.model, "--json")
    assert code == 0
    assert json.loads(out)["max_abs_difference"] < 1e-4
    code, out, _ = invoke(main, "--describe", "-m", trained.model, "--json")
    assert code == 0
    described = json.loads(out)
    assert described["bands"] == 30
    assert described["receptive_field"] == 13
    assert described["wavelengths_nm"] == [400, 2500]


def test_real_scene_of_other_bands_is_refused(
    trained: Any, data_dir: Path, tmp_path: Path, invoke: Any
) -> None:
    for name in ("cubus_gamsberg_subset", "corn-kernel-hyperspectral.raw"):
        code, _, err = invoke(
            main,
            data_dir / "envi" / name,
            "-m",
            trained.model,
            "-o",
            tmp_path / "o.tif",
        )
        assert code == 4
        assert "The model needs 30 bands from 400.0 to 2500.0 nm" in err
    assert list(tmp_path.iterdir()) == []

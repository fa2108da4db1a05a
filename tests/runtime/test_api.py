import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from msgspec.structs import replace
from numpy.typing import NDArray

import hsi_runtime
from hsi_runtime import Model, api, classify
from hsi_runtime.errors import BandMismatchError, ModelFileError, SceneError
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.walk.windows import Window

CENTRES = [450.0, 550.0, 650.0, 850.0]
CODES = np.array([2, 3, 7])


@pytest.fixture(scope="module")
def path(
    write_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def model(path: Path) -> Model:
    return Model(path, "cpu", threads=1)


def test_model_says_what_it_is(model: Model) -> None:
    assert [c.code for c in model.classes] == CODES.tolist()
    assert model.wavelengths_nm == CENTRES


@pytest.mark.parametrize("tile", [None, 7])
def test_array_is_classified_like_the_whole_scene(
    tile: int | None,
    model: Model,
    cube: NDArray[Any],
    conv_oracle: Callable[..., NDArray[np.float32]],
) -> None:
    found = model.predict(cube, wavelengths_nm=CENTRES, scale=1e-4, tile=tile)
    expected = conv_oracle(cube)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    np.testing.assert_array_equal(found.classes, CODES[expected.argmax(axis=0)])
    assert found.classes.dtype == np.uint8
    assert found.abundances is None


def test_arrays_of_other_orders_and_kinds(model: Model, cube: NDArray[Any]) -> None:
    expected = model.predict(cube, wavelengths_nm=CENTRES).classes
    turned = np.asfortranarray(cube)[::-1]
    assert not turned.flags.c_contiguous
    found = model.predict(turned, wavelengths_nm=CENTRES[::-1])
    np.testing.assert_array_equal(found.classes, expected)

    class Wrapped:
        """Stands for an array of another library."""

        def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
            return cube

    found = model.predict(Wrapped(), wavelengths_nm=CENTRES)
    np.testing.assert_array_equal(found.classes, expected)


class Noted:
    """Stands for an array of xarray, as rioxarray opens a file."""

    def __init__(
        self,
        values: NDArray[Any],
        attrs: Any = None,
        encoding: Any = None,
        dims: tuple[str, ...] = ("band", "y", "x"),
        coords: Any = None,
    ):
        self.values, self.attrs, self.encoding = values, attrs, encoding
        self.dims, self.coords = dims, coords or {}

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        return self.values


@pytest.mark.parametrize("place", ["attrs", "encoding"])
def test_fill_value_that_an_array_declares(
    place: str, model: Model, cube: NDArray[Any]
) -> None:
    stored = cube.copy()
    stored[2, 5, 6] = 0
    fill: dict[str, Any] = {place: {"_FillValue": 0}}
    noted = Noted(stored, **fill)
    found = model.predict(noted, wavelengths_nm=CENTRES).classes
    assert np.argwhere(found == 255).tolist() == [[5, 6]]
    # The caller's own comes first.
    found = model.predict(noted, wavelengths_nm=CENTRES, nodata=1).classes
    assert not (found == 255).any()


@pytest.mark.parametrize(("unit", "size"), [("nm", 1), ("um", 1000), (None, 1)])
def test_wavelengths_that_an_array_declares(
    unit: str | None, size: int, model: Model, cube: NDArray[Any]
) -> None:
    expected = model.predict(cube, wavelengths_nm=CENTRES).classes
    order = [2, 0, 3, 1]
    attrs = {} if unit is None else {"units": unit}
    dims = ("wavelength", "y", "x")
    axis = Noted(np.array(CENTRES)[order] / size, attrs, dims=dims[:1])
    noted = Noted(cube[order], dims=dims, coords={"wavelength": axis})
    np.testing.assert_array_equal(model.predict(noted).classes, expected)
    lines = [
        Noted(cube[order, row], dims=dims[::2], coords={"wavelength": axis})
        for row in range(23)
    ]
    followed = np.concatenate([found.classes for _, found in model.follow(lines)])
    np.testing.assert_array_equal(followed, expected)
    # The caller's own come first.
    with pytest.raises(SceneError, match="but 3 wavelengths were given"):
        model.predict(noted, wavelengths_nm=CENTRES[:3])


def test_bands_must_be_the_first_dimension_of_an_array(
    model: Model, cube: NDArray[Any]
) -> None:
    """A scene of as many rows as the model has bands would fit by chance."""
    turned = Noted(np.moveaxis(cube, 0, -1)[:4], dims=("y", "x", "band"))
    with pytest.raises(
        SceneError, match=r"must be the first: transpose\('band', \.{3}"
    ):
        model.predict(turned)


def test_array_that_will_not_become_one_of_numpy(model: Model) -> None:
    class Tensor:
        """Stands for one of torch that collects gradients."""

        def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
            raise RuntimeError("Use tensor.detach().numpy() instead.")

    with pytest.raises(SceneError, match=r"Use tensor\.detach"):
        model.predict(Tensor())


def test_one_scene_need_not_be_in_a_list(tmp_path: Path) -> None:
    for alone in ("missing.txt", Path("missing.txt")):
        with pytest.raises(SceneError, match=r"The list missing\.txt cannot be read"):
            hsi_runtime.classify_all(alone, tmp_path / "model.onnx")


def test_scale_that_an_array_declares(model: Model, cube: NDArray[Any]) -> None:
    expected = model.predict(cube, wavelengths_nm=CENTRES, scale=1e-4).probabilities
    doubled = (cube // 2).astype(np.uint16)
    halved = model.predict(doubled, wavelengths_nm=CENTRES, scale=2e-4).probabilities
    attrs = {"scale_factor": 2e-4, "add_offset": 0.0}
    noted = Noted(doubled, attrs)
    found = model.predict(noted, wavelengths_nm=CENTRES).probabilities
    np.testing.assert_array_equal(found, halved)
    # Decoded values are the quantity itself, whatever the file's scale was.
    decoded = Noted((cube * 1e-4).astype(np.float32), {}, {"scale_factor": 1e-4})
    found = model.predict(decoded, wavelengths_nm=CENTRES).probabilities
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"scale": 0.0}, "a scale of 0"),
        ({"scale": np.nan}, "a scale of nan"),
        ({"scale": np.inf}, "a scale of inf"),
        ({"offset": np.inf}, "an offset of inf"),
        ({"scale": "a"}, "scale is not a number"),
        ({"nodata": "a"}, "nodata is not a number"),
        ({"wavelengths_nm": ["a"] * 4}, "wavelengths is not a number"),
        (
            {
                "wavelengths_nm": np.ma.array(
                    [450, 550, 650, 850], mask=[True] + 3 * [False]
                )
            },
            "a value of the wavelengths is masked",
        ),
        ({"scale": True}, "scale is not a number"),
        ({"nodata": False}, "nodata is not a number"),
        ({"wavelengths_nm": [1.0, 2.0, 3.0]}, "has 4 bands, but 3 wavelengths"),
    ],
)
def test_options_that_give_no_quantity(
    options: dict[str, Any], match: str, model: Model, cube: NDArray[Any]
) -> None:
    with pytest.raises(SceneError, match=match):
        model.predict(cube, **{"wavelengths_nm": CENTRES, **options})


def test_missing_values_stay_missing(model: Model, cube: NDArray[Any]) -> None:
    stored = cube.copy()
    stored[2, 5, 6] = 0
    found = model.predict(stored, wavelengths_nm=CENTRES, nodata=0)
    gone = found.classes == 255
    assert np.argwhere(gone).tolist() == [[5, 6]]
    np.testing.assert_array_equal(np.isnan(found.probabilities).all(axis=0), gone)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "uint8"])
def test_masked_values_are_missing(
    dtype: str, model: Model, cube: NDArray[Any]
) -> None:
    stored = (cube // 80).astype(dtype)
    given: dict[str, Any] = {"wavelengths_nm": CENTRES, "scale": 1e-4}
    partly = np.ma.MaskedArray(stored, np.zeros(cube.shape, bool))
    expected = model.predict(stored, **given)
    found = model.predict(partly, **given)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    partly[2, 5, 6] = np.ma.masked
    partly[0, 7, 8] = np.ma.masked
    for masked in (partly, list(partly)):
        found = model.predict(masked, **given)
        gone = found.classes == 255
        assert np.argwhere(gone).tolist() == [[5, 6], [7, 8]]
        np.testing.assert_array_equal(np.isnan(found.probabilities).all(axis=0), gone)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "uint8"])
def test_lines_are_masked_and_noted_like_arrays(
    dtype: str, model: Model, cube: NDArray[Any]
) -> None:
    stored = (cube // 80 + 1).astype(dtype)
    partly = np.ma.MaskedArray(stored, np.zeros(cube.shape, bool))
    partly[2, 5, 6] = partly[0, 7, 8] = np.ma.masked
    given: dict[str, Any] = {"wavelengths_nm": CENTRES, "scale": 1e-4}
    lines = (partly[:, row] for row in range(23))
    found = np.concatenate([p.classes for _, p in model.follow(lines, **given)])
    assert np.argwhere(found == 255).tolist() == [[5, 6], [7, 8]]
    stored[2, 5, 6] = 0
    attrs = {"_FillValue": 0, "scale_factor": 1e-4}
    noted = [Noted(stored[:, row], attrs) for row in range(23)]
    followed = model.follow(noted, wavelengths_nm=CENTRES)
    found = np.concatenate([p.classes for _, p in followed])
    assert np.argwhere(found == 255).tolist() == [[5, 6]]
    by_array = model.predict(Noted(stored, attrs), wavelengths_nm=CENTRES)
    np.testing.assert_array_equal(found, by_array.classes)


@pytest.mark.parametrize("values", [[[1], [1, 2]], [{}, [1]]], ids=str)
def test_what_is_no_array_is_told(values: Any, model: Model) -> None:
    with pytest.raises(SceneError, match="array"):
        model.predict(values)
    with pytest.raises(SceneError, match="lines"):
        next(model.follow([values]))


def test_mask_of_a_band_that_the_model_does_not_need(
    model: Model, cube: NDArray[Any]
) -> None:
    more = np.ma.MaskedArray(
        np.concatenate([cube, cube[:1]]), np.zeros((5, 23, 31), bool)
    )
    more[4] = np.ma.masked
    found = model.predict(more, wavelengths_nm=[*CENTRES, 950.0])
    expected = model.predict(cube, wavelengths_nm=CENTRES)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)


def test_doubtful_pixels_are_unclassified(model: Model, cube: NDArray[Any]) -> None:
    found = model.predict(cube, wavelengths_nm=CENTRES, reject_below=0.9)
    best = found.probabilities.max(axis=0)
    np.testing.assert_array_equal(found.classes == 0, best < 0.9)
    assert 0 < (best < 0.9).sum() < best.size


@pytest.mark.parametrize(
    ("shape", "given", "kind", "message"),
    [
        ((4, 9), {}, SceneError, r"shape \(4, 9\); expected \(band, row, col\)"),
        ((4, 0, 9), {}, SceneError, "expected"),
        ((4, 9, 9), {"wavelengths_nm": [1, 2]}, SceneError, "4 bands, but 2 wave"),
        ((4, 9, 9), {"fwhm_nm": [1, 2]}, SceneError, "4 bands, but 2 band widths"),
        ((3, 9, 9), {}, BandMismatchError, "3"),
    ],
)
def test_arrays_that_do_not_fit(
    shape: tuple[int, ...],
    given: dict[str, Any],
    kind: type[Exception],
    message: str,
    model: Model,
) -> None:
    with pytest.raises(kind, match=message):
        model.predict(np.ones(shape, np.uint16), **given)


def test_values_of_an_unfit_type(model: Model) -> None:
    with pytest.raises(SceneError, match="int64 values"):
        model.predict(np.ones((4, 9, 9), np.int64))


def test_file_is_classified_as_by_the_command(
    path: Path,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Callable[..., Path],
) -> None:
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    seen: list[int] = []
    result = classify(
        scene, path, progress=lambda done, _: seen.append(done), confidence=True
    )
    assert result["output"] == str(tmp_path / "s_classes.tif")
    assert seen[-1] == cube[0].size
    script = "from hsi_runtime.cli import main; main()"
    subprocess.run(
        [
            *(sys.executable, "-c", script, str(scene), "-m", str(path), "-q"),
            *("-o", str(tmp_path / "by_command.tif"), "--confidence"),
        ],
        check=True,
    )
    ours = (tmp_path / "s_classes.tif").read_bytes()
    assert ours == (tmp_path / "by_command.tif").read_bytes()
    assert (tmp_path / "s_confidence.tif").exists()


def test_limits_reach_the_engine_of_a_file(
    path: Path,
    model: Model,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[tuple[Any, ...]] = []

    def start(file: Any, device: str, **limits: Any) -> Any:
        started.append((device, limits))
        return model.backend

    monkeypatch.setattr(api, "open_backend", start)
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    classify(scene, path, tmp_path / "o.tif", tile=7, max_memory_bytes=10**9)
    limits = {"tile": 7, "max_memory_bytes": 10**9, "measure": False}
    assert started == [("auto", limits)]
    classify(scene, model, tmp_path / "p.tif", tile=7)
    assert len(started) == 1


def test_one_engine_serves_many_files(
    model: Model,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Callable[..., Path],
) -> None:
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    for number, window in enumerate((Window(0, 0, 9, 9), Window(4, 5, 6, 7))):
        classify(scene, model, tmp_path / f"{number}.tif", window=window)
        with rasterio.open(tmp_path / f"{number}.tif") as file:
            assert file.shape == (window.rows, window.cols)


def test_abundances_come_with_models_that_unmix(
    document: ModelDocument,
    tmp_path: Path,
    cube: NDArray[Any],
    write_model: Callable[..., Path],
) -> None:
    from hsi_runtime.model.array import Array

    spectra = Array.pack(np.ones((3, 4), np.float32))
    outputs = ["probabilities", "abundances"]
    described = replace(document, outputs=outputs, endmembers=spectra)
    model = Model(write_model(tmp_path / "m.onnx", described))
    found = model.predict(cube, wavelengths_nm=CENTRES)
    assert found.abundances is not None
    np.testing.assert_allclose(found.abundances.sum(axis=0), 1, atol=1e-5)


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        Model(tmp_path / "none.onnx")


def test_package_names_what_it_offers() -> None:
    names = {"Model", "Prediction", "Workers", "classify", "classify_all"}
    assert set(hsi_runtime.__all__) == names
    with pytest.raises(AttributeError, match="no attribute 'classifier'"):
        hsi_runtime.classifier  # noqa: B018


def test_import_is_cheap() -> None:
    script = "import hsi_runtime, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"numpy", "rasterio", "onnxruntime", "torch"}

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from msgspec.structs import replace
from numpy.typing import NDArray

from hsi_runtime import Model
from hsi_runtime.engines import onnxruntime_cpu
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.errors import BandMismatchError, ModelFileError
from hsi_runtime.model.model_file import ModelDocument, ModelFile, read_model
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request

Write = Callable[..., Path]
CODES = np.array([2, 3, 7])


def class_map(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as file:
        values: NDArray[Any] = file.read(1)
    return values


def assert_same_classes(found: NDArray[Any], probabilities: NDArray[Any]) -> None:
    """Compare with an oracle's probabilities, but for ties."""
    ordered = np.sort(probabilities, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-5
    assert clear.mean() > 0.9
    expected = CODES[probabilities.argmax(axis=0)]
    np.testing.assert_array_equal(found[clear], expected[clear])


@pytest.mark.parametrize(
    "shape",
    [(1, 1), (1, 17), (17, 1), (2, 3), (3, 2), (4, 4), (5, 5), (13, 11), (23, 31)],
)
@pytest.mark.parametrize("tile", [1, 7, 128])
def test_map_equals_the_oracle_at_any_size_and_tile(
    shape: tuple[int, int],
    tile: int,
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
    conv_oracle: Callable[..., NDArray[np.float32]],
) -> None:
    if tile == 1 and shape == (23, 31):
        tile = 5
    stored = np.ascontiguousarray(cube[:, : shape[0], : shape[1]])
    scene = write_scene_tiff(tmp_path / "s.tif", stored)
    result = run(Request(scene, tmp_path / "o.tif", tile=tile), model)
    found = class_map(tmp_path / "o.tif")
    assert found.shape == shape
    assert_same_classes(found, conv_oracle(stored))
    assert result["pixels"] == {
        "classified": shape[0] * shape[1],
        "unclassified": 0,
        "nodata": 0,
    }


@pytest.mark.parametrize("fill", [9.96921e36, 1e30, -3.4028235e38, 1e20, 1e10])
@pytest.mark.parametrize("scale", [1e-4, 2e-4])
def test_a_fill_value_that_nothing_declares_is_no_class(
    fill: float,
    scale: float,
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
) -> None:
    stored = cube.astype(np.float32)
    stored[:, :, -6:] = fill
    stored[2, 3, 4] = fill
    scene = write_scene_tiff(tmp_path / "s.tif", stored, scale=scale)
    run(Request(scene, tmp_path / "o.tif"), model)
    expected = np.zeros((23, 31), bool)
    expected[:, -6:] = expected[3, 4] = True
    np.testing.assert_array_equal(class_map(tmp_path / "o.tif") == 255, expected)
    by_python = Model(model.path).predict(stored, scale=scale)
    np.testing.assert_array_equal(by_python.classes == 255, expected)


@pytest.mark.parametrize(
    ("fill", "dtype"),
    [
        (-9999, "int16"),
        (-9999, "float32"),
        (-9999, "float64"),
        (-999, "int16"),
        (-32768, "int16"),
        (-32768, "float32"),
        (65535, "int32"),
        (65535, "float32"),
        (-2147483648, "int32"),
        (-3.4028235e38, "float32"),
        (10**9, "int32"),
        (4 * 10**9, "uint32"),
        (-128, "int8"),
    ],
)
def test_a_spectrum_of_one_fill_value_is_no_class(
    fill: float,
    dtype: str,
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stored = (cube // (90 if dtype == "int8" else 1)).astype(dtype)
    stored[:, :, -6:] = fill
    scene = write_scene_tiff(tmp_path / "s.tif", stored)
    result = run(Request(scene, tmp_path / "o.tif"), model)
    expected = np.zeros((23, 31), bool)
    expected[:, -6:] = True
    np.testing.assert_array_equal(class_map(tmp_path / "o.tif") == 255, expected)
    assert result["pixels"]["nodata"] == 23 * 6
    assert f"{fill:g}, a fill value that nothing declares" in caplog.text
    ready = Model(model.path)
    by_python = ready.predict(stored, scale=1e-4)
    np.testing.assert_array_equal(by_python.classes == 255, expected)
    lines = (stored[:, row] for row in range(23))
    followed = [p.classes for _, p in ready.follow(lines, scale=1e-4)]
    np.testing.assert_array_equal(np.concatenate(followed) == 255, expected)


def test_crop_of_a_scene_gives_the_same_classes(
    model: ModelFile, tmp_path: Path, cube: NDArray[Any], write_scene_tiff: Write
) -> None:
    whole = write_scene_tiff(tmp_path / "s.tif", cube)
    part = write_scene_tiff(tmp_path / "p.tif", np.ascontiguousarray(cube[:, 4:, 6:27]))
    run(Request(whole, tmp_path / "whole.tif"), model)
    run(Request(part, tmp_path / "part.tif"), model)
    inner = class_map(tmp_path / "part.tif")[2:-2, 2:-2]
    np.testing.assert_array_equal(class_map(tmp_path / "whole.tif")[6:-2, 8:25], inner)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("band", range(4))
def test_nodata_in_any_one_band_is_255_and_filled_for_its_neighbours(
    dtype: str,
    band: int,
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
    conv_oracle: Callable[..., NDArray[np.float32]],
) -> None:
    stored = cube.astype(dtype)
    holes = np.zeros(cube.shape[1:], dtype=bool)
    holes[[0, 7, 22], [0, 11, 30]] = True
    stored[band, holes] = 0
    if dtype == "float32":
        stored[band, 7, 11] = np.nan
        stored[band, 22, 30] = np.inf
    scene = write_scene_tiff(tmp_path / "s.tif", stored, nodata=0)
    result = run(Request(scene, tmp_path / "o.tif"), model)
    found = class_map(tmp_path / "o.tif")
    np.testing.assert_array_equal(found == 255, holes)
    assert result["pixels"]["nodata"] == 3
    fill = np.array(model.document.values.fill)[:, None, None]
    expected = conv_oracle(np.where(holes, fill, cube))
    assert_same_classes(found[~holes][None], expected[:, ~holes][:, None])


def test_windows_without_data_are_not_computed(
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = np.zeros_like(cube)
    stored[:, 2, 3] = cube[:, 2, 3]
    scene = write_scene_tiff(tmp_path / "s.tif", stored, nodata=0)
    calls: list[tuple[int, ...]] = []
    predict = onnxruntime_cpu.OnnxruntimeCpu.predict

    def counted(self: Any, values: NDArray[np.float32], *outputs: Any) -> Any:
        calls.append(values.shape)
        return predict(self, values, *outputs)

    monkeypatch.setattr(onnxruntime_cpu.OnnxruntimeCpu, "predict", counted)
    result = run(Request(scene, tmp_path / "o.tif", tile=8), model)
    assert calls == [(1, 4, 11, 11)]  # 23 x 31 pixels in squares of 7 or 8
    assert result["pixels"]["classified"] == 1
    run(
        Request(
            write_scene_tiff(tmp_path / "e.tif", np.zeros_like(cube), nodata=0),
            tmp_path / "empty.tif",
            confidence=True,
            probabilities=True,
            preview=True,
        ),
        model,
    )
    assert (class_map(tmp_path / "empty.tif") == 255).all()
    assert len(calls) == 1


def test_rejection_leaves_pixels_unclassified(
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
    conv_oracle: Callable[..., NDArray[np.float32]],
) -> None:
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    best = conv_oracle(cube).max(axis=0)
    limit = float(np.median(best)) + 1e-3
    result = run(Request(scene, tmp_path / "o.tif", reject_below=limit), model)
    sure = np.abs(best - limit) > 1e-5
    found = class_map(tmp_path / "o.tif")
    np.testing.assert_array_equal((found == 0)[sure], (best < limit)[sure])
    assert result["pixels"]["unclassified"] == (found == 0).sum()
    # What the model suggests holds when it is asked, and only then.
    cautious = ModelFile(
        model.path,
        replace(model.document, reject_below=limit),
        model.onnx,
        model.sha256,
    )
    run(Request(scene, tmp_path / "own.tif", reject_below=None), cautious)
    np.testing.assert_array_equal(class_map(tmp_path / "own.tif"), found)
    run(Request(scene, tmp_path / "all.tif"), cautious)
    assert (class_map(tmp_path / "all.tif") != 0).all()


def test_a_model_without_a_suggestion_cannot_choose(
    model: ModelFile, tmp_path: Path, cube: NDArray[Any], write_scene_tiff: Write
) -> None:
    silent = dataclasses.replace(
        model, document=replace(model.document, reject_below=None)
    )
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    with pytest.raises(ModelFileError, match="suggests no threshold"):
        run(Request(scene, tmp_path / "o.tif", reject_below=None), silent)
    assert not (tmp_path / "o.tif").exists()
    run(Request(scene, tmp_path / "o.tif"), silent)


def test_units_are_converted_before_the_network(
    model: ModelFile, tmp_path: Path, cube: NDArray[Any], write_scene_tiff: Write
) -> None:
    stored = write_scene_tiff(tmp_path / "s.tif", cube)
    run(Request(stored, tmp_path / "a.tif"), model)
    tenth = (cube / 1000).astype(np.float32)
    other = write_scene_tiff(tmp_path / "f.tif", tenth, scale=0.1)
    run(Request(other, tmp_path / "b.tif"), model)
    np.testing.assert_array_equal(
        class_map(tmp_path / "a.tif"), class_map(tmp_path / "b.tif")
    )


def test_result_counts_areas_and_times(
    model: ModelFile, tmp_path: Path, cube: NDArray[Any], write_scene_tiff: Write
) -> None:
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    progress: list[tuple[int, int]] = []
    result = run(
        Request(scene, tmp_path / "o.tif", tile=10),
        model,
        progress=lambda done, total: progress.append((done, total)),
    )
    found = class_map(tmp_path / "o.tif")
    for entry in result["classes"]:
        assert entry["pixels"] == (found == entry["code"]).sum()
        assert entry["area_m2"] == 4 * entry["pixels"]
    assert result["windows"] == 12 == len(progress) - 1
    assert progress[0] == (0, 23 * 31)
    assert progress[-1] == (23 * 31, 23 * 31)
    seconds = result["seconds"]
    # Stages overlap; none lasts longer than the whole.
    for stage in ("read", "infer", "write"):
        assert 0 < seconds[stage] <= seconds["total"]
    assert result["resumed_windows"] == 0


def test_what_a_scene_lacks_is_said(
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bare = write_scene_tiff(tmp_path / "bare.tif", cube, None, crs=None, transform=None)
    result = run(Request(bare, tmp_path / "o.tif"), model)
    assert "no wavelengths" in caplog.text
    assert "no georeference" in caplog.text
    assert {c["area_m2"] for c in result["classes"]} == {None}
    few = write_scene_tiff(tmp_path / "few.tif", cube[:3], (450.0, 550.0, 650.0))
    with pytest.raises(BandMismatchError, match=r"Missing: 850\.0 nm"):
        run(Request(few, tmp_path / "few_o.tif"), model)
    assert not (tmp_path / "few_o.tif").exists()


@pytest.mark.parametrize("dtype", ["uint16", "int16"])
def test_saturated_pixels_are_nodata(
    dtype: str,
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
    conv_oracle: Callable[..., NDArray[np.float32]],
) -> None:
    stored = cube.astype(dtype)
    hot = np.zeros(cube.shape[1:], dtype=bool)
    hot[[2, 9], [3, 30]] = True
    stored[1, hot] = np.iinfo(dtype).max
    scene = write_scene_tiff(tmp_path / "s.tif", stored)
    result = run(Request(scene, tmp_path / "o.tif"), model)
    found = class_map(tmp_path / "o.tif")
    np.testing.assert_array_equal(found == 255, hot)
    assert result["pixels"]["nodata"] == 2
    fill = np.array(model.document.values.fill)[:, None, None]
    expected = conv_oracle(np.where(hot, fill, cube))
    assert_same_classes(found[~hot][None], expected[:, ~hot][:, None])


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_several_windows_at_once_give_the_same_map(
    device: str,
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
    need_engine: Callable[[str], None],
) -> None:
    need_engine(device)
    scene = write_scene_tiff(tmp_path / "s.tif", np.tile(cube, (1, 3, 4)))
    maps = []
    for threads in (1, 3):
        output = tmp_path / f"{threads}.tif"
        start = partial(open_backend, model, device, threads)
        assert start().windows_at_once == threads
        request = Request(scene, output, tile=8, probabilities=True)
        assert run(request, model, start)["windows"] > 100
        maps.append(class_map(output))
        maps.append(class_map(tmp_path / f"{threads}_probabilities.tif"))
    np.testing.assert_array_equal(maps[0], maps[2])
    np.testing.assert_array_equal(maps[1], maps[3])


def test_map_says_in_which_precision_it_was_computed(
    document: ModelDocument,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
    write_model: Write,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    described = replace(document, precision="fp16")
    model = read_model(write_model(tmp_path / "m.onnx", described))
    engine = open_backend(model, "cpu")
    engine.precision = "bf16"
    result = run(Request(scene, tmp_path / "o.tif"), model, lambda: engine)
    assert result["precision"] == "bf16"
    with rasterio.open(tmp_path / "o.tif") as file:
        assert file.tags()["HSI_PRECISION"] == "bf16"
    assert "the float32 file is as fast" not in caplog.text


def test_half_precision_on_a_cpu_is_advised_against(
    document: ModelDocument,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
    write_model: Write,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    for precision, advised in (("fp32", False), ("fp16", True)):
        described = replace(document, precision=precision)
        model = read_model(write_model(tmp_path / f"{precision}.onnx", described))
        caplog.clear()
        result = run(Request(scene, tmp_path / f"{precision}.tif"), model)
        assert result["precision"] == precision
        assert ("the float32 file is as fast" in caplog.text) == advised

"""Raw counts with references give what their reflectance gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camera import Camera, tall_cube
from msgspec.structs import replace
from numpy.typing import NDArray

from hsi_runtime.camera.calibration import (
    CalibratedScene,
    calibration_of,
    read_calibration,
)
from hsi_runtime.camera.references import References
from hsi_runtime.cli import main
from hsi_runtime.errors import BandMismatchError, OptionError, SceneError
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.request import Options, Request
from hsi_runtime.scenes import fingerprint
from hsi_runtime.scenes.array_scene import ArrayScene
from hsi_runtime.scenes.geotiff import open_tiff
from hsi_runtime.scenes.opening import open_scene

ROWS, COLS = 60, 31


def references(folder: Path, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Write ``dark.bil`` and ``white.bil``; return their mean lines."""
    random = np.random.default_rng(seed)
    dark = random.integers(90, 110, (4, 20, COLS)).astype(np.uint16)
    white = random.integers(9000, 12000, (4, 1, COLS)) + random.integers(
        -5, 5, (4, 30, COLS)
    )
    for name, cube in (("dark", dark), ("white", white.astype(np.uint16))):
        place = folder / name
        place.mkdir()
        Camera(place, cube, wavelength=None, reflectance_scale_factor=None).finish()
    return dark.mean(axis=1), white.mean(axis=1)


def test_reflectance_of_every_element(tmp_path: Path) -> None:
    dark, white = references(tmp_path)
    counts = tall_cube(ROWS)
    counts[1, 7, 9], counts[2, 8, 3] = 0, 65535
    calibration = read_calibration(
        tmp_path / "dark/flight.bil", tmp_path / "white/flight.bil"
    )
    scene = CalibratedScene(ArrayScene(counts, nodata=0), calibration)
    bands = np.array([3, 1, 2])
    made = scene.read((5, 20), (3, 17), bands)
    expected = (counts - dark[:, None]) / (white - dark)[:, None]
    expected[1, 7, 9] = expected[2, 8, 3] = np.nan
    np.testing.assert_allclose(made, expected[bands, 5:20, 3:17], rtol=2e-5, atol=2e-6)
    assert scene.info.dtype == np.float32
    assert (scene.info.scale == 1).all() if scene.info.scale is not None else False


def test_saturated_elements_of_a_reference_are_dead(tmp_path: Path) -> None:
    """Their mean is what the camera can tell, not what the panel reflects."""
    references(tmp_path)
    paths = tmp_path / "dark/flight.bil", tmp_path / "white/flight.bil"
    whole = read_calibration(*paths).gain
    values = np.fromfile(paths[1], np.uint16).reshape(30, 4, COLS)
    values[:, 2, 7] = 65535
    values[:16, 1, 8] = 65535
    values[:15, 3, 9] = 65535  # half of the lines tell
    values.tofile(paths[1])
    calibration = read_calibration(*paths)
    lost = np.isnan(calibration.gain)
    assert np.argwhere(lost).tolist() == [[1, 8], [2, 7]]
    np.testing.assert_allclose(calibration.gain[~lost], whole[~lost], rtol=1e-3)
    scene = CalibratedScene(ArrayScene(tall_cube(9)), calibration)
    assert "2 elements of the detector are saturated in a ref" in scene.info.notes[0]
    values[:] = 65535
    values.tofile(paths[1])
    with pytest.raises(SceneError, match="exchanged, or is one saturated"):
        read_calibration(*paths)


def test_fill_values_of_a_reference_are_no_counts(tmp_path: Path) -> None:
    references(tmp_path)
    paths = tmp_path / "dark/flight.bil", tmp_path / "white/flight.bil"
    header = paths[1].with_suffix(".hdr")
    header.write_text(header.read_text() + "data ignore value = 0\n")
    whole = read_calibration(*paths).gain
    values = np.fromfile(paths[1], np.uint16).reshape(30, 4, COLS)
    values[:10] = 0  # lines that were lost
    values.tofile(paths[1])
    np.testing.assert_allclose(read_calibration(*paths).gain, whole, rtol=1e-3)


@pytest.mark.parametrize("key", ["tint", "tint2", "shutter", "integration time"])
def test_references_of_another_exposure_are_said(key: str, tmp_path: Path) -> None:
    references(tmp_path)
    stated: dict[str, Any] = {key: "10.000"}
    Camera(tmp_path, tall_cube(9), **stated).finish()
    paths = [tmp_path / f"{kind}/flight.bil" for kind in ("dark", "white")]
    for path, value in zip(paths, ("10.05", "5"), strict=True):
        header = path.with_suffix(".hdr")
        header.write_text(header.read_text() + f"{key} = {value}\n")
    scene = open_scene(tmp_path / "flight.bil")
    (note,) = CalibratedScene(scene, read_calibration(*paths)).info.notes
    scene.close()
    assert note == (
        f"{paths[1]} was taken with {key} = 5, flight.bil with 10; counts differ by as "
        "much. Take references with the settings of the flight."
    )


def float_document(document: ModelDocument) -> ModelDocument:
    values = replace(document.values, dtype="float32", scale=[1.0] * 4)
    return replace(document, values=replace(values, fill=[0.1, 0.2, 0.3, 0.4]))


def test_batch_and_follow_agree(
    tmp_path: Path,
    write_model: Callable[..., Path],
    document: ModelDocument,
    invoke: Any,
) -> None:
    references(tmp_path)
    write_model(tmp_path / "model.onnx", float_document(document))
    Camera(tmp_path, tall_cube(ROWS), reflectance_scale_factor=None).finish()
    scene = tmp_path / "flight.bil"
    both = ["--dark", tmp_path / "dark/flight.bil"]
    both += ["--white", tmp_path / "white/flight.bil"]
    model = ["-m", tmp_path / "model.onnx"]

    def classify(*given: Any) -> Any:
        return invoke(main, scene, *model, *given)

    refused = classify("-o", tmp_path / "refused.tif")
    assert refused.code == 4
    assert "--dark and --white" in refused.err
    assert classify("-o", tmp_path / "batch.tif", *both).code == 0
    live = ["-o", tmp_path / "live.tif", "--follow", "--idle", "1s"]
    assert classify(*live, *both).code == 0
    assert (tmp_path / "live.tif").read_bytes() == (tmp_path / "batch.tif").read_bytes()
    with open_tiff(tmp_path / "live.tif") as raster:
        assert len(np.unique(raster.read(1))) == 3


def test_a_dead_element_is_nodata(tmp_path: Path) -> None:
    references(tmp_path)
    calibration = read_calibration(
        tmp_path / "dark/flight.bil", tmp_path / "white/flight.bil"
    )
    calibration.gain[2, 5] = np.nan
    scene = CalibratedScene(ArrayScene(tall_cube(ROWS)), calibration)
    assert "1 elements of the detector" in scene.info.notes[-1]
    assert np.isnan(scene.read((0, 9), (0, COLS), np.arange(4))[2, :, 5]).all()


def factors(folder: Path, gain: Any, offset: Any = None) -> References:
    """Write ``gain.bil`` and perhaps ``offset.bil`` of one line, float32."""
    paths = []
    for name, values in (("gain", gain), ("offset", offset)):
        if values is None:
            continue
        place = folder / name
        place.mkdir()
        line = np.broadcast_to(np.float32(values), (4, COLS))[:, None]
        camera = Camera(place, line.copy(), reflectance_scale_factor=None)
        camera.finish()
        paths.append(camera.path)
    return References(None, None, *paths)


def test_gain_and_offset_of_every_element(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    gain, offset = random.random((2, 4, COLS), dtype=np.float32)
    gain[3, 4], gain[1, 2], offset[0, 0] = 0, np.nan, np.inf
    calibration = calibration_of(factors(tmp_path, gain, offset))
    assert calibration is not None
    counts = tall_cube(ROWS)
    scene = CalibratedScene(ArrayScene(counts), calibration)
    made = scene.read((0, ROWS), (0, COLS), np.arange(4))
    expected = counts * gain[:, None] + offset[:, None]
    expected[3, :, 4] = expected[1, :, 2] = expected[0, :, 0] = np.nan
    np.testing.assert_allclose(made, expected, rtol=1e-5)
    assert "3 elements of the detector have no usable gain" in scene.info.notes[-1]


def test_a_gain_alone(tmp_path: Path) -> None:
    """It may store counts of its own, such as a white panel's factors in uint16."""
    calibration = calibration_of(factors(tmp_path, 0.5))
    assert calibration is not None
    scene = CalibratedScene(ArrayScene(tall_cube(ROWS)), calibration)
    made = scene.read((0, ROWS), (0, COLS), np.arange(4))
    np.testing.assert_array_equal(made, tall_cube(ROWS) / 2)


def test_gain_without_factors(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="no usable gain in 100% of its elements"):
        calibration_of(factors(tmp_path, 0.0))


def test_offset_of_another_camera(tmp_path: Path) -> None:
    references = factors(tmp_path, 1.0)
    (tmp_path / "other").mkdir()
    camera = Camera(tmp_path / "other", np.zeros((4, 1, 30), np.float32))
    camera.finish()
    with pytest.raises(SceneError, match="both must be of one camera"):
        calibration_of(references._replace(offset=camera.path))


@pytest.mark.parametrize(
    ("given", "option", "message"),
    [
        (["offset"], "gain", "An offset needs a gain"),
        (["dark", "white", "gain"], "gain", "exclude a gain"),
    ],
)
def test_gain_and_references(given: list[str], option: str, message: str) -> None:
    paths: dict[str, Any] = {name: Path("a.bil") for name in given}
    with pytest.raises(OptionError, match=message) as error:
        Options(**paths)
    assert error.value.option == option


def test_a_followed_gain_gives_the_batch_map(
    tmp_path: Path,
    write_model: Callable[..., Path],
    document: ModelDocument,
    invoke: Any,
) -> None:
    write_model(tmp_path / "model.onnx", float_document(document))
    Camera(tmp_path, tall_cube(ROWS), reflectance_scale_factor=None).finish()
    files = factors(tmp_path, 1e-4, -0.01)
    given = [tmp_path / "flight.bil", "-m", tmp_path / "model.onnx"]
    both = ["--gain", files.gain, "--offset", files.offset]
    for name, more in (("batch", []), ("live", ["--follow", "--idle", "1s"])):
        output = ["-o", tmp_path / f"{name}.tif"]
        assert invoke(main, *given, *output, *both, *more).code == 0
    assert (tmp_path / "live.tif").read_bytes() == (tmp_path / "batch.tif").read_bytes()


def test_exchanged_references(tmp_path: Path) -> None:
    references(tmp_path)
    with pytest.raises(SceneError, match="Were --dark and --white exchanged"):
        read_calibration(tmp_path / "white/flight.bil", tmp_path / "dark/flight.bil")


def test_references_of_another_camera(tmp_path: Path) -> None:
    references(tmp_path)
    calibration = read_calibration(
        tmp_path / "dark/flight.bil", tmp_path / "white/flight.bil"
    )
    with pytest.raises(SceneError, match="Both must be of one camera"):
        CalibratedScene(ArrayScene(tall_cube(9, cols=30)), calibration)


@pytest.mark.parametrize("name", ["dark", "white"])
def test_references_go_together(name: str) -> None:
    with pytest.raises(OptionError, match="go together") as error:
        Options(**{name: Path("a.bil")})  # type: ignore[arg-type]
    assert error.value.option != name


def test_reflectance_refuses_raw_counts(document: ModelDocument) -> None:
    """Whole numbers without a scale may be anything; the contract says reflectance."""
    from hsi_runtime.matching.bands import match_bands
    from hsi_runtime.matching.units import conversion

    info = ArrayScene(tall_cube(9)).info
    match = match_bands(info, None, 4, [0, 1, 2, 3])
    values = float_document(document).values
    with pytest.raises(BandMismatchError, match="give --dark and --white"):
        conversion(info, match, values)


def test_references_are_part_of_what_a_map_depends_on(tmp_path: Path) -> None:
    """The three files have one name: each of them counts."""
    references(tmp_path)
    Camera(tmp_path, tall_cube(ROWS), reflectance_scale_factor=None).finish()
    paths = [tmp_path / name / "flight.bil" for name in ("dark", "white")]
    scene = CalibratedScene(
        open_scene(tmp_path / "flight.bil"), read_calibration(*paths)
    )
    before = fingerprint.of_scene(scene.info)
    assert len(before) == 6  # three data files and their headers
    paths[0].write_bytes(b"\x65" + paths[0].read_bytes()[1:])
    assert fingerprint.of_scene(scene.info) != before
    assert read_calibration(*paths).sha256 != scene.calibration.sha256
    scene.close()


def test_a_frame_counter_is_part_of_what_a_map_says() -> None:
    paths = Path("a"), Path("b")
    assert Request(*paths).region_text == "whole"
    assert Request(*paths, frame_counter=(4, 1)).region_text.endswith("frames of 4,1")

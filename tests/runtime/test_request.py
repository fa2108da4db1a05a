"""Options are checked once, whichever door they came through."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hsi_runtime import Model, classify
from hsi_runtime.cli import command, main
from hsi_runtime.errors import HsiError, OptionError
from hsi_runtime.follow_options.options import Following
from hsi_runtime.request import Options, Request
from hsi_runtime.walk.windows import Window


def test_command_and_request_have_the_same_options() -> None:
    own = {
        *("scenes", "model", "output", "device", "threads", "shard", "describe"),
        *("scheduler", "insecure_cluster"),
        *("info", "self_test", "benchmark", "dry_run", "quiet", "as_json", "version"),
    }
    shared = {parameter.name for parameter in command.params} - own
    followed = {field.name for field in fields(Following)}
    assert shared == {field.name for field in fields(Options)} | followed


def test_good_values_become_those_of_the_request() -> None:
    options = Options(
        window=Window(np.int64(1), 2, 3, 4),  # type: ignore[arg-type]
        tile=np.uint8(7),  # type: ignore[arg-type]
        vector="v.gpkg",  # type: ignore[arg-type]
        reject_below=1,
        min_area_m2=3,
    )
    assert type(options.window[0]) is int  # type: ignore[index]
    assert type(options.tile) is int
    assert options.vector == Path("v.gpkg")
    request = Request(Path("s.tif"), Path("o.tif"), **vars(options))
    assert request.region_text == "window 2,1,4,3"
    assert replace(request, window=None).region_text == "whole"
    part = replace(request, window=None, bounds=[1, 2, 3.5, 4])  # type: ignore[arg-type]
    assert (part.bounds, part.region_text) == ((1, 2, 3.5, 4), "bbox 1.0,2.0,3.5,4.0")
    assert Options(reject_below=None).reject_below is None


BAD = [
    ("tile", -5, r"-5 is not in 1\.\."),
    ("tile", 0, r"0 is not in 1\.\."),
    ("tile", 10**400, r"is not in 1\.\."),
    ("tile", 2.5, "2.5 is not a whole number"),
    ("tile", "7", "'7' is not a whole number"),
    ("max_memory_bytes", 0, r"0 is not in 1\.\."),
    ("max_memory_bytes", 10**400, r"is not in 1\.\."),
    ("max_memory_bytes", 1e9, "not a whole number"),
    ("window", (0, 0, 9, 9), "is not a Window"),
    ("window", Window(-1, 0, 9, 9), "0,-1,9,9: a corner is negative or a side empty"),
    ("window", Window(0, -1, 9, 9), "a corner is negative or a side empty"),
    ("window", Window(0, 0, 0, 9), "a corner is negative or a side empty"),
    ("window", Window(0, 0, 9, 0), "a corner is negative or a side empty"),
    ("window", Window(0, 0.5, 9, 9), "not whole"),  # type: ignore[arg-type]
    ("bounds", (3, 2, 1, 4), "W < E and S < N"),
    ("bounds", (1, 4, 3, 2), "W < E and S < N"),
    ("bounds", (1, 2, 1, 4), "W < E and S < N"),
    ("bounds", (float("nan"), 2, 3, 4), "not finite"),
    ("bounds", (1, 2, float("inf"), 4), "not finite"),
    ("bounds", (1, 2, 3), "four numbers"),
    ("bounds", (1, 2, 3, "x"), "four numbers"),
    ("bounds", 7, "four numbers"),
    ("reject_below", 2, r"not in 0\.\.1"),
    ("reject_below", -0.1, r"not in 0\.\.1"),
    ("reject_below", float("nan"), r"not in 0\.\.1"),
    ("reject_below", "most", "not a probability"),
    ("min_area_m2", float("nan"), "nan is not a finite number"),
    ("min_area_m2", float("inf"), "inf is not a finite number"),
    ("min_area_m2", -1, "-1 is negative"),
    ("min_area_m2", None, "None is not a number"),
    ("min_area_m2", True, "True is not a number"),
    ("scale", True, "True is not a number"),
    ("scale", 1e-40, "1e-40 does not fit single precision"),
    ("scale", 1e39, r"1e\+39 does not fit single precision"),
    ("compress", "zip", "'zip' is not one of deflate, zstd, lzw, none"),
    ("compress", None, "None is not one of"),
    ("vector", 7, "7 is not a path"),
    ("confidence", "no", "'no' is neither True nor False"),
    ("resume", 1, "1 is neither True nor False"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_bad_values_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message) as error:
        Options(**{name: value})
    assert (error.value.option, error.value.exit_code) == (name, 2)
    assert str(error.value).startswith(f"{name}: ")


def test_references_exclude_a_scale() -> None:
    with pytest.raises(OptionError, match="leave out the scale"):
        Options(scale=1.0, gain=Path("gain.tif"))


def test_window_and_bounds_exclude_each_other() -> None:
    with pytest.raises(OptionError, match="exclude each other"):
        Options(window=Window(0, 0, 9, 9), bounds=(0, 0, 9, 9))


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, value, _ in BAD])
def test_python_refuses_before_a_file_is_touched(
    name: str, value: Any, tmp_path: Path
) -> None:
    with pytest.raises(OptionError):
        classify("s.tif", "m.onnx", tmp_path / "o.tif", **{name: value})
    assert list(tmp_path.iterdir()) == []


def test_unknown_option_is_a_programming_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="reject"):
        classify("s.tif", "m.onnx", tmp_path / "o.tif", reject=0.5)


@pytest.mark.parametrize(
    "given",
    [
        {"tile": -5},
        {"tile": 0},
        {"reject_below": 2},
        {"reject_below": float("nan")},
    ],
)
def test_predict_refuses_bad_values(
    given: dict[str, Any],
    write_model: Callable[..., Path],
    tmp_path: Path,
    cube: NDArray[Any],
) -> None:
    model = Model(write_model(tmp_path / "m.onnx"), "cpu", threads=1)
    with pytest.raises(OptionError, match=next(iter(given))):
        model.predict(cube, wavelengths_nm=[450, 550, 650, 850], **given)


@pytest.mark.parametrize(
    "given",
    [
        {"scale": 0.0},
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"scale": 1e-4, "offset": float("nan")},
        {"scale": "x"},
        {"offset": "x"},
        {"nodata": "x"},
        {"wavelengths_nm": ["a", "b", "c", "d"]},
        {"wavelengths_nm": "abcd"},
        {"fwhm_nm": [None, {}, 1, 2]},
        {"nodata": [1, 2, 3]},
        {"nodata": 10**400},
        {"scale": 10**400},
        {"scale": 1.0, "offset": -(10**400)},
        {"wavelengths_nm": [450, 550, 650, 10**400]},
    ],
    ids=lambda given: str(given)[:40],
)
def test_predict_refuses_what_describes_no_array(
    given: dict[str, Any],
    write_model: Callable[..., Path],
    tmp_path: Path,
    cube: NDArray[Any],
) -> None:
    model = Model(write_model(tmp_path / "m.onnx"), "cpu", threads=1)
    with pytest.raises(HsiError, match="array"):
        model.predict(cube, **{"wavelengths_nm": [450, 550, 650, 850], **given})


@pytest.mark.parametrize("threads", [0, -1, 10**9, 2**20000, 2.0, "2"], ids=range(6))
def test_python_refuses_threads_that_no_engine_has(
    threads: Any, write_model: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_model(tmp_path / "m.onnx")
    for device in ("auto", "cpu", "openvino", "cuda", "tensorrt"):
        with pytest.raises(OptionError, match=r"threads: .* is not"):
            Model(path, device, threads)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--window", "-1,2,3,4", "a corner is negative or a side empty"),
        ("--window", "1,2,0,4", "a corner is negative or a side empty"),
        ("--bbox", "3,2,1,4", "W < E and S < N"),
        ("--bbox", "nan,2,3,4", "not finite"),
        ("--bbox", "-inf,-inf,inf,inf", "not finite"),
        ("--bbox", "1,2,3,1e999", "not finite"),
        ("--reject", "1.01", "not in 0..1"),
        ("--reject", "-0.1", "not in 0..1"),
        ("--reject", "nan", "not in 0..1"),
        ("--tile", "0", "not in 1.."),
        ("--tile", "9" * 400, "not in 1.."),
        ("--min-area", "nan", "not a finite number"),
        ("--min-area", "inf", "not a finite number"),
        ("--min-area", "-1", "negative"),
        ("--compress", "zip", "not one of deflate"),
        ("--threads", "0", "0 is not in 1..1024"),
        ("--threads", "-3", "-3 is not in 1..1024"),
        ("--threads", "1000000000", "1000000000 is not in 1..1024"),
        ("--threads", "9" * 20, "The number is not in 1..1024"),
        ("--max-memory", "9" * 400, "is not a size"),
        ("--max-memory", "9" * 30, "The number is not in 1.."),
    ],
)
def test_command_names_the_option_as_the_user_typed_it(
    option: str, value: str, message: str, place: Any, invoke: Any, digests: Any
) -> None:
    before = digests(place.folder)
    code, out, err = invoke(main, "scene.tif", f"{option}={value}")
    assert (code, out) == (2, "")
    text = " ".join(err.split())
    assert f"Invalid value for '{option}'" in text
    assert message in text
    assert digests(place.folder) == before

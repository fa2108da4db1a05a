"""That sets of classes are those of a batch run while a camera writes, too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from camera import Camera, tall_cube
from msgspec.structs import replace

from hsi_runtime.model.model_file import ModelDocument, ModelFile, SetLevel, read_model


@pytest.fixture
def model(
    document: ModelDocument, tmp_path: Path, write_model: Callable[..., Path]
) -> ModelFile:
    offering = replace(document, set_levels=[SetLevel(level=0.9, threshold=0.2)])
    return read_model(write_model(tmp_path / "model.onnx", offering))


def test_sets_of_a_flight_are_those_of_a_batch_run(
    tmp_path: Path,
    start_following: Callable[..., Any],
    assert_as_batch: Callable[..., None],
) -> None:
    camera = Camera(tmp_path, tall_cube(40))
    follower = start_following(sets=0.9)
    camera.write(20)
    follower.wait_for_row(10)
    camera.finish()
    assert follower.result()["outputs"]["sets"]
    assert_as_batch(sets=0.9)

"""Memory is shared out beside what decoding a scene's file takes."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from hsi_runtime.errors import BandMismatchError, ResourceError
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.planning import match_scene, plan_walk, windows_at_once
from hsi_runtime.request import Request
from hsi_runtime.scenes.array_scene import ArrayScene

MB = 1_000_000


def scene_of(decoding_bytes: int) -> Any:
    scene = ArrayScene(np.zeros((4, 900, 900), np.uint16), scale=1e-4)
    info = replace(scene.info, decoding_bytes=decoding_bytes)
    return type("Scene", (), {"info": info})()


@given(
    decoding=st.integers(1, 2000 * MB),
    limit=st.integers(300 * MB, 3000 * MB),
    working=st.floats(100, 1e5),
    threads=st.integers(1, 64),
)
def test_what_suffices_for_one_window_suffices_beside_decoding(
    document: ModelDocument, decoding: int, limit: int, working: float, threads: int
) -> None:
    """The engine was started for as many windows as fit without the decoding."""
    described = changed(document, working_bytes=working)
    request = Request(Path(), Path(), max_memory_bytes=limit)
    scene = scene_of(decoding)
    try:
        matched = match_scene(scene, described, request)
    except ResourceError:
        return
    at_once = windows_at_once(matched.info, described, request, threads)
    assert 1 <= at_once <= threads
    plan_walk(matched, described, request, "cpu", at_once)


@pytest.mark.parametrize(("limit", "decoding"), [(None, 10 * MB), (400 * MB, 0)])
def test_without_a_limit_or_decoding_all_windows_are_used(
    document: ModelDocument, limit: int | None, decoding: int
) -> None:
    request = Request(Path(), Path(), max_memory_bytes=limit)
    assert windows_at_once(scene_of(decoding).info, document, request, 7) == 7


def test_notes_come_before_the_mismatch_that_they_explain(
    document: ModelDocument, caplog: pytest.LogCaptureFixture
) -> None:
    scene = scene_of(0)
    scene.info = replace(scene.info, bands=1, notes=("It holds 4 images.",))
    with pytest.raises(BandMismatchError, match="the band counts differ"):
        match_scene(scene, document, Request(Path(), Path()))
    assert "It holds 4 images." in caplog.text


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({}, "has no georeference"),
        ({"transform": (0.0, math.nan, 0.0, 0.0, 0.0, -1.0)}, "has no georeference"),
        ({"transform": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)}, "but no coordinate system"),
        ({"transform": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0), "crs": "EPSG:32633"}, ""),
        ({"rpcs": {"LINE_OFF": "1"}}, ""),
    ],
)
def test_what_a_map_lacks_of_a_place_is_said(
    place: dict[str, Any],
    message: str,
    document: ModelDocument,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = scene_of(0)
    scene.info = replace(scene.info, driver="GTiff", **place)
    match_scene(scene, document, Request(Path(), Path()))
    said = [r.getMessage() for r in caplog.records if "class map" in r.getMessage()]
    assert [message in text for text in said] == [True] * bool(message)

"""A disk that is full after so many bytes of a file: exit 6, nothing half, resumes."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from full_disk import largest_file

from hsi_runtime.errors import HsiError, ResourceError
from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request

Write = Callable[..., Path]
KINDS: dict[str, dict[str, Any]] = {
    "deflate": {"compress": "deflate", "confidence": True},
    "none": {"compress": "none", "confidence": True},
    "vector": {"vector": True},
    "preview": {"preview": True},
    "stac": {"stac": True},
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, write_scene_tiff: Write) -> Path:
    values = np.random.default_rng(3).integers(1, 9999, (4, 60, 90))
    folder = tmp_path_factory.mktemp("scene")
    return write_scene_tiff(folder / "s.tif", values.astype(np.uint16))


def request_of(kind: str, scene: Path, folder: Path) -> Request:
    folder.mkdir()
    options = dict(KINDS[kind])
    if options.pop("vector", False):
        pytest.importorskip("pyogrio")
        options["vector"] = folder / "v.gpkg"
    return Request(scene, folder / "o.tif", **options)


@pytest.mark.parametrize("kind", KINDS)
def test_full_disk_leaves_nothing_half_done(
    kind: str,
    model: ModelFile,
    scene: Path,
    tmp_path: Path,
    digests: Callable[[Path], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    monkeypatch.setenv("OGR_CURRENT_DATE", "2023-11-14T22:13:20.000Z")
    whole = request_of(kind, scene, tmp_path / "whole")
    run(whole, model)
    reference = digests(tmp_path / "whole")
    largest = max(p.stat().st_size for p in (tmp_path / "whole").iterdir())
    sizes = random.Random(kind)
    failures = 0
    for number in range(20):
        folder = tmp_path / str(number)
        request = request_of(kind, scene, folder)
        error: HsiError | None = None
        with largest_file(sizes.randrange(0, largest)):
            try:
                run(request, model)
            except HsiError as caught:
                error = caught
        if error is not None:
            failures += 1
            assert isinstance(error, ResourceError), error
            assert {p.name for p in folder.iterdir()} <= {"o.tif.hsi-part"}
            run(request, model)
        assert digests(folder) == reference
    assert failures > 5

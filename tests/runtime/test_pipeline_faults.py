import dataclasses
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from hsi_runtime import pipeline
from hsi_runtime.errors import (
    DeviceLostError,
    HsiError,
    OutputError,
    SceneError,
    VerificationError,
)
from hsi_runtime.model.model_file import PROBABILITIES, ModelFile
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request

Write = Callable[..., Path]


class Broken:
    """An engine that has no finite score for some pixels."""

    device = "broken"
    precision = "fp32"
    windows_at_once = 1

    def __init__(self, share: float) -> None:
        self.share = share

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        rows, cols = cube.shape[2] - 4, cube.shape[3] - 4
        found = np.full((1, 3, rows, cols), 1 / 3, dtype=np.float32)
        found[0, 1].flat[: int(self.share * rows * cols)] = np.nan
        found[0, 2].flat[: int(self.share * rows * cols)] = np.inf
        return {PROBABILITIES: found}


def stop_before_the_output(request: Request, model: ModelFile, engine: Broken) -> None:
    """Classify all windows, and fail when their map is to be written."""

    def stop(*_: object) -> None:
        raise VerificationError("before the end")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "convert", stop)
        with pytest.raises(VerificationError):
            run(request, model, lambda: engine)


def test_few_scores_that_are_not_finite_become_nodata(
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    request = Request(scene, tmp_path / "o.tif", confidence=True, probabilities=True)
    result = run(request, model, lambda: Broken(0.009))
    broken = int(0.009 * 23 * 31)
    assert result["pixels"]["nodata"] == broken
    assert f"{broken} pixels without a finite score" in caplog.text
    for name in ("o", "o_confidence", "o_probabilities"):
        with rasterio.open(tmp_path / f"{name}.tif") as file:
            found = file.read(1)
        assert (found.ravel()[:broken] == 255).all()
        assert (found.ravel()[broken:] != 255).all()


def test_many_scores_that_are_not_finite_fail_the_run(
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
) -> None:
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    with pytest.raises(VerificationError, match="no finite score on broken"):
        run(Request(scene, tmp_path / "o.tif"), model, lambda: Broken(0.02))
    assert {p.name for p in tmp_path.iterdir()} == {"s.tif"}


def test_failing_window_fails_the_run_and_publishes_nothing(
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
) -> None:
    class Failing(Broken):
        def predict(
            self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
        ) -> dict[str, NDArray[np.float32]]:
            self.share += 1
            if self.share == 20:  # in the third strip
                while not journal.stat().st_size:  # the writer may be behind
                    time.sleep(0.01)
                raise VerificationError("a late window")
            return super().predict(cube, outputs)

    scene = write_scene_tiff(tmp_path / "s.tif", cube, blockysize=4)
    journal = tmp_path / "o.tif.hsi-part" / "journal.jsonl"
    request = Request(scene, tmp_path / "o.tif", tile=4)
    with pytest.raises(HsiError):
        run(request, model, lambda: Failing(0))
    assert not (tmp_path / "o.tif").exists()
    with pytest.raises(OutputError, match="another device"):
        run(request, model)
    run(dataclasses.replace(request, resume=False), model)
    assert not (tmp_path / "o.tif.hsi-part").exists()


def test_lost_device_says_what_is_kept(
    model: ModelFile, tmp_path: Path, cube: NDArray[Any], write_scene_tiff: Write
) -> None:
    scene = write_scene_tiff(tmp_path / "s.tif", cube, blockysize=4)
    journal = tmp_path / "o.tif.hsi-part" / "journal.jsonl"

    class Lost(Broken):
        """A FAKE of an engine whose GPU fails in the third strip."""

        def predict(
            self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
        ) -> dict[str, NDArray[np.float32]]:
            self.share += 1
            if self.share == 20:
                while not journal.stat().st_size:  # the writer may be behind
                    time.sleep(0.01)
                raise DeviceLostError("The GPU failed.")
            return Broken(0).predict(cube, outputs)

    request = Request(scene, tmp_path / "o.tif", tile=4)
    with pytest.raises(DeviceLostError) as error:
        run(request, model, lambda: Lost(0))
    said = re.fullmatch(
        r"The GPU failed\. (\d+) of (\d+) windows are kept: the same command resumes\.",
        str(error.value),
    )
    assert said is not None
    assert not request.output.exists()
    result = run(request, model, lambda: Broken(0))
    assert result["resumed_windows"] == int(said[1]) > 0
    assert result["windows"] == int(said[2])


@pytest.mark.parametrize("change", ["append", "touch", "rewrite", "remove"])
def test_scene_that_changes_meanwhile_is_not_published(
    change: str,
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
) -> None:
    scene = write_scene_tiff(tmp_path / "s.tif", cube)

    class Meddling(Broken):
        def predict(
            self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
        ) -> dict[str, NDArray[np.float32]]:
            data = scene.read_bytes() if scene.exists() else b""
            if change == "append":
                scene.write_bytes(data + b"more")
            elif change == "rewrite":
                scene.write_bytes(data[:-9] + b"different")
            elif change == "touch":
                os.utime(scene, ns=(1, 1))
            else:
                scene.unlink(missing_ok=True)
            return super().predict(cube, outputs)

    with pytest.raises(SceneError, match=r"changed while|cannot be read any more"):
        run(Request(scene, tmp_path / "o.tif"), model, lambda: Meddling(0))
    names = {p.name for p in tmp_path.iterdir()}
    assert names <= {"s.tif", "o.tif.hsi-part"}


@pytest.mark.parametrize(
    ("name", "overwrite"),
    [("o.tif", True), ("o.tif", False), ("o_confidence.tif", True), ("o.qml", False)],
)
def test_file_that_appears_meanwhile_is_not_replaced(
    name: str,
    overwrite: bool,
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
) -> None:
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    foreign = tmp_path / name

    class Disturbed(Broken):
        def predict(
            self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
        ) -> dict[str, NDArray[np.float32]]:
            foreign.write_bytes(b"foreign")
            return super().predict(cube, outputs)

    request = Request(scene, tmp_path / "o.tif", confidence=True)
    said = f"{name} appeared while the scene was classified .* add --overwrite"
    with pytest.raises(OutputError, match=said):
        run(request, model, lambda: Disturbed(0))
    assert {p.name for p in tmp_path.iterdir()} == {"s.tif", name, "o.tif.hsi-part"}
    assert foreign.read_bytes() == b"foreign"
    # Either way that the message names resumes.
    if not overwrite:
        foreign.unlink()
    again = dataclasses.replace(request, overwrite=overwrite)
    result = run(again, model, lambda: Broken(0))
    assert result["resumed_windows"] == result["windows"]
    assert foreign.read_bytes() != b"foreign"
    assert not (tmp_path / "o.tif.hsi-part").exists()


def test_output_of_a_run_that_was_faster_is_not_replaced(
    model: ModelFile, tmp_path: Path, cube: NDArray[Any], write_scene_tiff: Write
) -> None:
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    request = Request(scene, tmp_path / "o.tif")
    found: list[bytes] = []

    def start() -> Broken:
        """Start late: another run takes the lock, and publishes, before."""
        run(request, model, lambda: Broken(0))
        found.append((tmp_path / "o.tif").read_bytes())
        return Broken(0.009)

    with pytest.raises(OutputError, match=r"o\.tif exists; --overwrite replaces it"):
        run(request, model, start)
    assert found == [(tmp_path / "o.tif").read_bytes()]
    assert not (tmp_path / "o.tif.hsi-part").exists()


def test_windows_without_data_are_journaled(
    model: ModelFile, tmp_path: Path, cube: NDArray[Any], write_scene_tiff: Write
) -> None:
    empty = np.zeros_like(cube)
    scene = write_scene_tiff(tmp_path / "s.tif", empty, nodata=0)

    class Never(Broken):
        def predict(
            self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
        ) -> dict[str, NDArray[np.float32]]:
            pytest.fail("an engine call")

    request = Request(scene, tmp_path / "o.tif", tile=8)
    stop_before_the_output(request, model, Never(0))
    result = run(request, model, lambda: Never(0))
    assert result["resumed_windows"] == result["windows"] == 12
    assert result["pixels"] == {"classified": 0, "unclassified": 0, "nodata": 713}


def test_broken_pixels_of_an_earlier_run_are_told_again(
    model: ModelFile,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = write_scene_tiff(tmp_path / "s.tif", cube)

    request = Request(scene, tmp_path / "o.tif")
    stop_before_the_output(request, model, Broken(0.009))
    caplog.clear()
    run(request, model, lambda: Broken(0.009))
    assert "6 pixels without a finite score" in caplog.text

"""Outputs that are not the run's own: kept, and two runs do not share a file."""

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from hsi_runtime import pipeline
from hsi_runtime.cli import main
from hsi_runtime.engines.onnxruntime_cpu import OnnxruntimeCpu
from hsi_runtime.errors import OutputError, ResourceError
from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.output import publish
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request

Write = Callable[..., Path]


@pytest.fixture
def scene(tmp_path: Path, cube: NDArray[Any], write_scene_tiff: Write) -> Path:
    return write_scene_tiff(tmp_path / "s.tif", cube)


@pytest.mark.parametrize(
    "name", ["o.tif.aux.xml", "o_confidence.tif.aux.xml", "o.qml", "o.stac.json"]
)
def test_files_beside_the_map_are_not_replaced_unasked(
    name: str, scene: Path, model: ModelFile, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("mine")
    request = Request(scene, tmp_path / "o.tif", confidence=True, stac=True)
    with pytest.raises(OutputError, match=f"{name} exists; --overwrite replaces it"):
        run(request, model)
    assert (tmp_path / name).read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {"s.tif", name}


@pytest.mark.parametrize("name", ["o.tif.aux.xml", "o.tif"])
def test_files_that_appear_meanwhile_are_not_replaced(
    name: str,
    scene: Path,
    model: ModelFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    convert = publish.convert

    def late(*arguments: Any) -> Any:
        (tmp_path / name).write_text("mine")
        return convert(*arguments)

    monkeypatch.setattr(pipeline, "convert", late)
    with pytest.raises(OutputError, match=f"{name} appeared while"):
        run(Request(scene, tmp_path / "o.tif"), model)
    assert (tmp_path / name).read_text() == "mine"


def test_side_cars_of_other_outputs_stay(
    scene: Path, model: ModelFile, tmp_path: Path
) -> None:
    for name in ("o_preview.png.aux.xml", "o.qml.aux.xml", "o.stac.json.aux.xml"):
        (tmp_path / name).write_text("mine")
    run(Request(scene, tmp_path / "o.tif", preview=True, stac=True), model)
    assert (tmp_path / "o_preview.png.aux.xml").read_text() == "mine"
    assert (tmp_path / "o.qml.aux.xml").read_text() == "mine"


def test_two_runs_with_one_geopackage_keep_apart(
    scene: Path, model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run writes its polygons while the first has not named its own."""
    pytest.importorskip("pyogrio")
    drawn = pipeline._draw
    (tmp_path / ".v.part.gpkg").write_text("mine")

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(pipeline, "_draw", drawn)
        made = drawn(*arguments)
        run(Request(scene, tmp_path / "b.tif", vector=tmp_path / "v.gpkg"), model)
        return made

    monkeypatch.setattr(pipeline, "_draw", meanwhile)
    with pytest.raises(OutputError, match=r"v\.gpkg appeared while"):
        run(Request(scene, tmp_path / "a.tif", vector=tmp_path / "v.gpkg"), model)
    assert (tmp_path / "b.tif").is_file()
    assert (tmp_path / "v.gpkg").read_bytes().startswith(b"SQLite")
    assert (tmp_path / ".v.part.gpkg").read_text() == "mine"


def test_geopackage_on_another_disk(
    scene: Path, model: ModelFile, tmp_path: Path
) -> None:
    pytest.importorskip("pyogrio")
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    vector = other / f"{tmp_path.name}.gpkg"
    with contextlib.ExitStack() as stack:
        stack.callback(vector.unlink, missing_ok=True)
        run(Request(scene, tmp_path / "o.tif", vector=vector), model)
        assert vector.read_bytes().startswith(b"SQLite")
        assert not list(other.glob(f"{vector.name}.*"))


def test_folder_that_is_removed_during_the_run_is_told(
    scene: Path, model: ModelFile, tmp_path: Path
) -> None:
    request = Request(scene, tmp_path / "out" / "o.tif")
    request.output.parent.mkdir()

    class Removing(OnnxruntimeCpu):
        def predict(self, *arguments: Any) -> Any:
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
            return super().predict(*arguments)

    with pytest.raises(OutputError, match="was removed while the scene was classified"):
        run(request, model, lambda: Removing(model, 1))


def test_killed_run_without_a_piece_is_in_nobodys_way(
    scene: Path, model: ModelFile, tmp_path: Path, write_model: Write, invoke: Any
) -> None:
    class Killed(OnnxruntimeCpu):
        def predict(self, *_: Any) -> Any:
            raise KeyboardInterrupt

    request = Request(scene, tmp_path / "o.tif")
    # As a run that is killed leaves it: the journal's folder is kept.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hsi_runtime.output.journal.Journal.remove", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            run(request, model, lambda: Killed(model, 1))
    assert (tmp_path / "o.tif.hsi-part" / "plan.json").is_file()
    other = write_model(tmp_path / "other.onnx", bias=5.0)
    assert invoke(main, scene, "-m", other, "-o", tmp_path / "o.tif").code == 0


def test_polygons_that_need_too_much_memory_are_refused(
    scene: Path, model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polygons = pytest.importorskip("hsi_runtime.output.polygons")
    monkeypatch.setattr(polygons, "held_bytes", lambda: 400_000_000)
    request = Request(scene, tmp_path / "o.tif", max_memory_bytes=500_000_000)
    monkeypatch.setattr(polygons, "CORNER_BYTES", 100_000_000)
    with pytest.raises(ResourceError, match=r"needs about .* MB more for the polygons"):
        run(replace(request, vector=tmp_path / "v.gpkg"), model)
    assert {p.name for p in tmp_path.iterdir()} == {"s.tif", "o.tif.hsi-part"}
    result = run(request, model)
    assert result["resumed_windows"] == result["windows"]

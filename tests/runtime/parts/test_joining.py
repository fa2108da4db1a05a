"""A join names what is missing, torn or foreign; publishing is that of any run."""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rasterio
from mosaic import Mosaic

from hsi_runtime import pipeline
from hsi_runtime.errors import OutputError, SceneError, VerificationError
from hsi_runtime.output.publish import publish
from hsi_runtime.parts.computing import compute_part
from hsi_runtime.parts.joining import EarlyHash, join_parts
from hsi_runtime.request import Request


@pytest.fixture
def parts(mosaic: Mosaic) -> Path:
    """Return the folder of three finished parts of the map ``j/o.tif``."""
    shutil.rmtree(mosaic.folder / "j", ignore_errors=True)
    for index in range(3):
        mosaic.part("j", index, 3)
    return mosaic.folder / "j" / "o.tif.hsi-parts"


def assert_nothing_published(parts: Path) -> None:
    assert [path.name for path in parts.parent.iterdir()] == [parts.name]


def test_a_join_tells_how_far_the_scene_is_from_training(
    mosaic: Mosaic, caplog: pytest.LogCaptureFixture
) -> None:
    """As one run does: the same pixels are compared, each by who computes it."""
    plain = mosaic.plain("one")["training_distance"]
    caplog.set_level("INFO")
    caplog.clear()
    told = [mosaic.part("far", n, 3)["training_distance"] for n in range(3)]
    assert sum(one["pixels"] for one in told) == plain["pixels"]
    assert caplog.text.count("The mean spectrum is") == 3
    again = mosaic.part("far", 1, 3)  # all of it is there
    assert again["training_distance"] is None
    caplog.clear()
    joined = mosaic.join("far")
    assert joined["training_distance"] == pytest.approx(plain)
    assert caplog.text.count("The mean spectrum is") == 1
    assert "compared" not in joined["parts"][0]["tries"][0]


def test_without_parts_there_is_nothing_to_join(mosaic: Mosaic) -> None:
    with pytest.raises(OutputError, match=r"no parts in .*hsi-parts; compute"):
        mosaic.join("nothing")


def test_missing_parts_are_named(mosaic: Mosaic, parts: Path) -> None:
    (parts / "000000.piece").unlink()
    (parts / "000011.piece").unlink()
    with pytest.raises(
        OutputError, match=r"lacks parts 0/3, 2/3 of the scene"
    ) as error:
        mosaic.join("j")
    assert error.value.exit_code == 5
    assert_nothing_published(parts)
    mosaic.part("j", 0, 3)
    mosaic.part("j", 2, 3)
    assert mosaic.join("j")["parts"][0]["attempts"] == 2


def test_where_parts_were_cut_anew_rows_are_named(mosaic: Mosaic, parts: Path) -> None:
    mosaic.part("j", 1, 2)
    (parts / "000000.piece").unlink()
    with pytest.raises(OutputError, match=r"lacks rows 0-5 of the scene"):
        mosaic.join("j")


def flip(path: Path, place: int = -9) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "tear",
    [
        flip,
        lambda path: os.truncate(path, path.stat().st_size - 1),
        lambda path: os.truncate(path, 10),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path: path.write_bytes(path.read_bytes().replace(b"[0,", b"[1,", 1)),
        lambda path: shutil.copy(path.with_name("000002.piece"), path),
    ],
    ids=["flipped", "shorter", "headless", "empty", "longer", "counts", "another"],
)
def test_a_torn_piece_is_named_and_computed_again(
    tear: Callable[[Path], Any], mosaic: Mosaic, parts: Path, caplog: Any
) -> None:
    tear(parts / "000001.piece")
    with pytest.raises(VerificationError, match=r"000001.piece is damaged") as error:
        mosaic.join("j")
    assert error.value.exit_code == 7
    assert not (parts.parent / "o.tif").exists()
    again = mosaic.part("j", 0, 3)
    assert "000001.piece is damaged" in caplog.text
    assert again["pixels"] == 8 * 40
    assert mosaic.join("j")["pixels"]["nodata"] > 0


def test_parts_of_other_options_are_refused(mosaic: Mosaic, parts: Path) -> None:
    with pytest.raises(OutputError, match="parts of another reject"):
        mosaic.part("j", 0, 3, reject_below=0.0)
    with pytest.raises(OutputError, match="parts of another outputs"):
        mosaic.join("j", abundances=False)
    assert_nothing_published(parts)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("library", "onnxruntime 0.1"),
        ("instruction_set", ["x86_64"]),
        ("precision", "fp16"),
    ],
)
def test_parts_of_another_engine_are_refused(
    key: str, value: Any, mosaic: Mosaic, parts: Path
) -> None:
    plan = json.loads((parts / "plan.json").read_bytes())
    plan["engine"][key] = value
    (parts / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(OutputError, match="parts of another engine"):
        mosaic.part("j", 0, 3)
    with pytest.raises(OutputError, match=r"000000.piece is of another .* engine"):
        mosaic.join("j")
    assert not (parts.parent / "o.tif").exists()


def test_parts_of_another_version_are_refused(
    mosaic: Mosaic, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that was not updated, or too early."""
    version = importlib.metadata.version

    def newer(name: str) -> str:
        return "9.9" if name == "hsi-edge" else version(name)

    monkeypatch.setattr(importlib.metadata, "version", newer)
    with pytest.raises(OutputError, match="parts of another version"):
        mosaic.part("j", 0, 3)
    with pytest.raises(OutputError, match="parts of another version"):
        mosaic.join("j")


def test_no_clock_counts(mosaic: Mosaic, parts: Path) -> None:
    """Machines differ in theirs: pieces may be of the future, or very old."""
    for number, path in enumerate(sorted(parts.iterdir())):
        moment = 4e9 if number % 2 else 0
        os.utime(path, (moment, moment))
    assert mosaic.part("j", 0, 3)["pixels"] == 0
    mosaic.join("j")


@pytest.mark.parametrize("name", ["000000.piece", "plan.json", "attempt"])
@pytest.mark.parametrize("published", [False, True])
def test_a_pipe_among_the_parts_is_not_waited_for(
    name: str, published: bool, mosaic: Mosaic, parts: Path
) -> None:
    if published:
        kept = shutil.copytree(parts, parts.with_name("kept"))
        mosaic.join("j")
        kept.rename(parts)
    path = next(parts.glob(f"*{name}"))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OutputError, match=f"holds {path.name}, which hsi-run did not"):
        mosaic.join("j")


def test_a_linked_folder_of_parts_is_left_alone(mosaic: Mosaic, parts: Path) -> None:
    elsewhere = parts.rename(parts.with_name("elsewhere"))
    parts.symlink_to(elsewhere)
    before = sorted(elsewhere.iterdir())
    with pytest.raises(OutputError, match="is a symbolic link"):
        mosaic.join("j")
    assert sorted(elsewhere.iterdir()) == before


def test_a_foreign_piece_is_named(mosaic: Mosaic, parts: Path) -> None:
    shutil.rmtree(mosaic.folder / "k", ignore_errors=True)
    mosaic.part("k", 0, 1, reject_below=0.0)
    other = mosaic.folder / "k" / "o.tif.hsi-parts" / "000003.piece"
    shutil.copy(other, parts / "000003.piece")
    with pytest.raises(OutputError, match=r"000003.piece is of another scene, model"):
        mosaic.join("j")
    with pytest.raises(OutputError, match=r"000003.piece is of another scene, model"):
        mosaic.part("j", 0, 3)


def test_a_scene_that_changed_is_refused(mosaic: Mosaic, parts: Path) -> None:
    scene = mosaic.folder / "scene.tif"
    before = scene.stat()
    os.utime(scene, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    try:
        with pytest.raises(OutputError, match="parts of another scene"):
            mosaic.join("j")
    finally:
        os.utime(scene, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_scene_under_another_path_is_the_same(mosaic: Mosaic, parts: Path) -> None:
    """Machines may mount a folder under different names."""
    moved = mosaic.folder.rename(mosaic.folder.with_name("mounted"))
    try:
        elsewhere = mosaic._replace(folder=moved)
        assert elsewhere.join("j")["output"] == str(moved / "j" / "o.tif")
    finally:
        moved.rename(mosaic.folder)


@pytest.mark.parametrize("plan", [b"", b"{", b"[]", b'{"engine": 1}'])
def test_a_damaged_plan_is_named(plan: bytes, mosaic: Mosaic, parts: Path) -> None:
    (parts / "plan.json").write_bytes(plan)
    with pytest.raises(OutputError, match=r"plan\.json is damaged"):
        mosaic.join("j")


def test_an_older_map_stays_until_the_join(mosaic: Mosaic, parts: Path) -> None:
    (parts.parent / "o.tif").write_text("mine")
    with pytest.raises(OutputError, match="exists; --overwrite"):
        mosaic.join("j")
    with pytest.raises(OutputError, match="exists; --overwrite"):
        mosaic.part("j", 0, 3)
    mosaic.part("j", 0, 3, overwrite=True)
    assert (parts.parent / "o.tif").read_text() == "mine"
    mosaic.join("j", overwrite=True)
    assert (parts.parent / "o.tif").read_bytes()[:2] == b"II"


def test_a_finished_join_is_not_done_again(mosaic: Mosaic, parts: Path) -> None:
    """Nor is one that was killed while it removed the parts."""
    kept = shutil.copytree(parts, mosaic.folder / "kept")
    mosaic.join("j")
    assert not parts.exists()
    kept.rename(parts)
    (parts / "000002.piece").unlink()
    before = (parts.parent / "o.tif").stat().st_ino
    assert mosaic.join("j")["status"] == "skipped"
    assert not parts.exists()
    assert (parts.parent / "o.tif").stat().st_ino == before


def test_a_join_that_died_while_it_published_goes_on(
    mosaic: Mosaic, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*arguments: Any) -> None:
        publish(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "publish", die)
        with pytest.raises(Killed):
            mosaic.join("j")
    assert (parts.parent / "o.tif").is_file()
    assert parts.is_dir()
    assert mosaic.join("j")["resumed_windows"] > 0
    assert not parts.exists()
    assert not (parts.parent / "o.tif.hsi-part").exists()


def test_a_join_needs_locks(
    mosaic: Mosaic, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unknown)
    mosaic.part("j", 0, 3)  # parts do without
    with pytest.raises(OutputError, match=r"has no locks \(flock\), which a join"):
        mosaic.join("j")
    assert_nothing_published(parts)


def test_a_join_starts_no_engine(mosaic: Mosaic, parts: Path) -> None:
    def start() -> Any:
        raise AssertionError

    join_parts(mosaic.request("j", join=True), mosaic.model, start)
    assert (parts.parent / "o.tif").is_file()


def test_a_scene_that_cannot_be_read_is_no_join(mosaic: Mosaic, parts: Path) -> None:
    request = replace(mosaic.request("j", join=True), scene=mosaic.folder / "no.tif")
    with pytest.raises(SceneError, match="There is no file"):
        join_parts(request, mosaic.model)


@pytest.mark.parametrize("changed", [False, True])
def test_a_hash_begun_early_is_of_the_scene_that_is_joined(
    mosaic: Mosaic, tmp_path: Path, changed: bool
) -> None:
    scene = tmp_path / "scene.tif"
    shutil.copy(mosaic.folder / "scene.tif", scene)
    request = Request(scene, tmp_path / "o.tif", tile=8)
    early = EarlyHash.of(request)
    with early.content:
        early.content.result()
        if changed:
            flip(scene, scene.stat().st_size // 2)
        compute_part(replace(request, part=(0, 1)), mosaic.model, mosaic.start)
        join_parts(replace(request, join=True), mosaic.model, early=early)
    with rasterio.open(tmp_path / "o.tif") as output:
        found = output.tags()["HSI_SCENE_SHA256"]
    assert found == hashlib.sha256(scene.read_bytes()).hexdigest()

"""One part: its strips only, with what is finished taken over."""

import errno
import os
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from full_disk import largest_file
from hypothesis import given
from hypothesis import strategies as st
from mosaic import Mosaic

from hsi_runtime import files
from hsi_runtime.cli import main
from hsi_runtime.engines.backend import Backend
from hsi_runtime.errors import OutputError, ResourceError
from hsi_runtime.parts import attempts
from hsi_runtime.parts.agreement import pieces_of, strips_of
from hsi_runtime.parts.computing import compute_part
from hsi_runtime.parts.folder import PartsFolder
from hsi_runtime.walk import windows
from hsi_runtime.walk.windows import Window


@given(
    rows=st.integers(1, 60),
    cols=st.integers(1, 40),
    block=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    halo=st.integers(0, 6),
    count=st.integers(1, 12),
    budget=st.integers(1, 4000),
)
def test_parts_cover_all_pieces_once(
    rows: int, cols: int, block: tuple[int, int], halo: int, count: int, budget: int
) -> None:
    plan = windows.plan(
        (rows, cols), Window(0, 0, rows, cols), 4, block, halo, 8, budget
    )
    shares = [strips_of(plan, (index, count)) for index in range(count)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    found = [number for share in shares for number in pieces_of(plan, share)]
    assert sorted(found) == pieces_of(plan)


def test_a_finished_part_is_not_computed_again(mosaic: Mosaic) -> None:
    first = mosaic.part("again", 1, 2)
    assert (first["resumed_pixels"], first["attempt"]) == (0, 1)

    def no_engine_call(*_: Any) -> Any:
        raise AssertionError

    class Idle:
        device, precision, windows_at_once = "cpu", "fp32", 1
        predict = no_engine_call

    second = mosaic._replace(engine=Idle()).part("again", 1, 2)
    assert (second["pixels"], second["resumed_pixels"]) == (0, first["pixels"])
    assert second["attempt"] == 2
    assert second["decoded_bytes"] == 0
    anew = mosaic.part("again", 1, 2, resume=False)
    assert (anew["pixels"], anew["attempt"]) == (first["pixels"], 3)


def test_more_parts_than_strips_leave_some_empty(mosaic: Mosaic) -> None:
    sizes = [mosaic.part("empty", n, 15)["strips"] for n in range(15)]
    assert sorted(sizes) == [0] * 3 + [1] * 12


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_the_part_resumes(
    number: int, mosaic: Mosaic, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"full{number}"
    write = files.write_at
    pieces = 0

    def full(file: Any, data: bytes, offset: int) -> None:
        nonlocal pieces
        pieces += offset == 0
        if pieces == 3:
            raise OSError(number, "no room")
        write(file, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_at", full)
        with pytest.raises(ResourceError, match=r"hsi-parts is full\. Make room"):
            mosaic.part(name, 0, 1)
    folder = mosaic.folder / name / "o.tif.hsi-parts"
    assert len(list(folder.glob("*.piece"))) == 2
    assert not list(folder.glob("*.part"))
    assert mosaic.part(name, 0, 1)["resumed_windows"] > 0


def test_a_folder_that_is_joined_meanwhile_is_told(
    mosaic: Mosaic, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from hsi_runtime.parts.folder import PartsFolder

    write = PartsFolder.write

    def late(self: PartsFolder, *arguments: Any) -> None:
        shutil.rmtree(self.path)
        write(self, *arguments)

    monkeypatch.setattr(PartsFolder, "write", late)
    with pytest.raises(OutputError, match="If the parts were joined meanwhile, all is"):
        mosaic.part("gone", 0, 1)


def unfinished(folder: Path) -> list[str]:
    return sorted(path.name[:12] for path in folder.glob("*.piece.*.part"))


def leave_unfinished(folder: Path, *numbers: int) -> None:
    """Leave what attempts leave that are killed while they write a piece."""
    for number in numbers:
        path = files.unfinished(folder / f"{number:06}.piece")
        path.write_bytes(bytes(5000))


def test_what_killed_attempts_left_is_removed(mosaic: Mosaic) -> None:
    """Of the part that is begun again; a join removes the rest."""
    mosaic.part("left", 0, 2)
    folder = mosaic.folder / "left" / "o.tif.hsi-parts"
    leave_unfinished(folder, 0, 0, 3, 7)
    (folder / ".nfs0000000000a1b2c3").touch()  # one that a process still holds open
    mosaic.part("left", 1, 2)
    assert unfinished(folder) == ["000000.piece"] * 2 + ["000003.piece"]
    mosaic.part("left", 0, 2)
    assert unfinished(folder) == []
    leave_unfinished(folder, 2, 11)
    (folder / ".nfs0000000000a1b2c3").unlink()
    mosaic.join("left")
    assert not folder.exists()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESTALE])
def test_an_attempt_whose_piece_is_removed_writes_it_again(
    number: int, mosaic: Mosaic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another attempt at the same part, which begins, takes it for what is left."""
    name = f"again{number}"
    folder = mosaic.folder / name / "o.tif.hsi-parts"
    replace = os.replace
    removed: list[Path] = []

    def late(source: Path, target: Path) -> None:
        if target.suffix == ".piece" and len(removed) < 3:
            removed.append(source)
            Path(source).unlink()
            if number == errno.ESTALE:
                raise OSError(number, "Stale file handle")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", late)
        mosaic.part(name, 0, 2)
    assert len(set(removed)) == 3
    assert unfinished(folder) == []
    assert mosaic.part(name, 0, 2)["pixels"] == 0


def test_a_part_that_begins_while_others_are_joined_leaves_nothing(
    mosaic: Mosaic,
) -> None:
    """The outputs come, and the folder goes, after its first look at them."""
    mosaic.part("late", 0, 1)

    def start() -> Backend:
        mosaic.join("late")
        return mosaic.engine

    with pytest.raises(OutputError, match=r"o\.tif exists"):
        compute_part(mosaic.request("late", part=(0, 1)), mosaic.model, start)
    assert not (mosaic.folder / "late" / "o.tif.hsi-parts").exists()


def test_a_join_removes_what_a_late_part_adds(
    mosaic: Mosaic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A piece that comes between the last look at the folder and its end."""
    mosaic.part("adds", 0, 1)
    folder = mosaic.folder / "adds" / "o.tif.hsi-parts"
    rmdir = Path.rmdir
    added: list[int] = []

    def late(path: Path) -> None:
        if path == folder and not added:
            added.append((folder / "000003.piece").write_bytes(b"late"))
        rmdir(path)

    monkeypatch.setattr(Path, "rmdir", late)
    mosaic.join("adds")
    assert added
    assert not folder.exists()


def test_two_that_begin_at_the_same_moment_with_other_options(mosaic: Mosaic) -> None:
    """Each finds no plan, and the later one's takes the place of the first."""
    folder = mosaic.folder / "moment" / "o.tif.hsi-parts"
    mosaic.part("other", 0, 2, reject_below=0.0)
    other = mosaic.folder / "other" / "o.tif.hsi-parts" / "plan.json"

    def start() -> Backend:
        return Late(mosaic.engine)

    class Late:
        def __init__(self, engine: Backend) -> None:
            self._engine = engine

        def __getattr__(self, name: str) -> Any:
            return getattr(self._engine, name)

        def predict(self, *arguments: Any) -> Any:
            (folder / "plan.json").write_bytes(other.read_bytes())
            return self._engine.predict(*arguments)

    with pytest.raises(OutputError, match="parts of another reject"):
        compute_part(mosaic.request("moment", part=(0, 2)), mosaic.model, start)


STEPS = ["Record", "remove_unfinished", "write", "sync", "compare", "finish"]


@pytest.mark.parametrize("step", STEPS)
def test_a_folder_that_is_removed_under_way(
    step: str, mosaic: Mosaic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever it goes, it is told, or is nobody's loss; the command is repeated."""
    name = f"removed-{step}"
    folder = mosaic.folder / name / "o.tif.hsi-parts"
    home: Any = {"Record": attempts, "finish": attempts.Record}.get(step, PartsFolder)
    plain = getattr(home, step)
    calls = 0

    def removed(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == (2 if step == "compare" else 1):
            shutil.rmtree(folder)
        return plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(home, step, removed)
        with pytest.raises(OutputError, match=r"not there any more|no parts in"):
            mosaic.part(name, 0, 1)
    assert mosaic.part(name, 0, 1)["resumed_pixels"] == 0
    mosaic.join(name)


def test_a_full_disk_at_any_byte(mosaic: Mosaic) -> None:
    """Of the plan, a record, a piece, or what the join writes: told, and resumed."""
    expected = mosaic.folder / "whole"
    mosaic.plain("whole")
    sizes, failures = random.Random(1), 0
    largest = max(path.stat().st_size for path in expected.iterdir())
    for number in range(20):
        name = f"bytes{number}"
        for step in (partial(mosaic.part, name, 0, 1), partial(mosaic.join, name)):
            try:
                with largest_file(sizes.randrange(largest)):
                    step()
            except ResourceError:
                failures += 1
                step()
        for path in expected.iterdir():
            assert (mosaic.folder / name / path.name).read_bytes() == path.read_bytes()
        assert not (mosaic.folder / name / "o.tif.hsi-parts").exists()
    assert failures > 10


@pytest.mark.parametrize("kind", ["file", "piece", "link", "no folder"])
def test_a_folder_of_others_is_refused(kind: str, mosaic: Mosaic) -> None:
    output = mosaic.request(f"foreign-{kind}").output
    folder = output.with_name("o.tif.hsi-parts")
    if kind == "no folder":
        folder.touch()
    elif kind == "link":
        (output.parent / "elsewhere").mkdir()
        folder.symlink_to("elsewhere")
    else:
        folder.mkdir()
        (folder / "notes.txt").touch()
    if kind == "piece":  # of ours by its name only
        (folder / "notes.txt").rename(output.with_name("notes.txt"))
        (folder / "000000.piece").symlink_to("../notes.txt")
    named = {"file": "notes", "piece": "000000.piece", "link": "symbolic link"}
    named["no folder"] = "is not a folder. Move it away"
    for attempt in (lambda name: mosaic.part(name, 0, 1), mosaic.join):
        with pytest.raises(OutputError, match=named[kind]):
            attempt(f"foreign-{kind}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("s.tif", "t.tif", "--part", "0/2"), "take one scene"),
        (("s.tif", "--shard", "0/2", "--join"), "take one scene"),
        (("s.tif", "--part", "0/2", "--join"), "not both"),
        (("s.tif", "--part", "2/2"), "'2/2' is not I/N"),
        (("s.tif", "--part", "auto/2"), "needs a job array"),
        (("s.tif", "--part", "0/2", "--follow"), "followed is classified whole"),
    ],
)
def test_what_contradicts_itself_is_a_usage_error(
    arguments: tuple[str, ...],
    said: str,
    mosaic: Mosaic,
    invoke: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    found = invoke(main, *arguments, "-m", mosaic.model.path)
    assert (found.code, said in " ".join(found.err.split())) == (2, True), found.err

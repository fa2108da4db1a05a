"""The folder of unfinished results: whose it is, and what must not be touched in it."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hsi_runtime.errors import OutputError, ResourceError
from hsi_runtime.output.journal import Journal
from hsi_runtime.output.journal_folder import JournalFolder, folder_of
from hsi_runtime.output.layers import Counts


def only(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_folder_that_is_a_link_is_refused(
    open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / "classes.raw").write_bytes(b"kept")
    folder_of(tmp_path / "o.tif").symlink_to(target)
    with pytest.raises(OutputError, match=r"hsi-part is a symbolic link; remove it"):
        open_journal().__enter__()
    assert (target / "classes.raw").read_bytes() == b"kept"
    assert only(target) == {"classes.raw"}


@pytest.mark.parametrize(
    "name",
    ["lock", "classes.raw", "probabilities.raw", "journal.jsonl", "plan.json",
     "publishing", "classes.vrt", "classes.tif", "item.stac.json"],
)  # fmt: skip
@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("resume", [True, False])
def test_links_in_the_folder_are_not_followed(
    name: str,
    link: Callable[[Path, Path], None],
    resume: bool,
    open_journal: Callable[..., Journal],
    tmp_path: Path,
) -> None:
    target, folder = tmp_path / "target", folder_of(tmp_path / "o.tif")
    target.write_bytes(b"kept" * 100)
    folder.mkdir()
    link(target, folder / name)
    with pytest.raises(OutputError, match=f"holds {name}, which hsi-run did not write"):
        open_journal(resume=resume).__enter__()
    assert target.read_bytes() == b"kept" * 100
    assert only(folder) == {name}


@pytest.mark.parametrize(
    "name",
    ["notes.txt", "scene.tif", "classes", "classes_2024.tif", "classes_1_2.tif",
     "old.raw", "sub", "a\x1b[2J"],
)  # fmt: skip
def test_folder_with_a_foreign_file_is_left_alone(
    name: str, open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "o.tif")
    folder.mkdir()
    if name == "sub":
        (folder / name).mkdir()
    else:
        (folder / name).write_text("mine")
    for resume in (True, False):
        with pytest.raises(OutputError, match="which hsi-run did not write") as error:
            open_journal(resume=resume).__enter__()
        assert "\x1b" not in str(error.value)
    assert only(folder) == {name}


def test_what_gdal_leaves_of_a_killed_run_is_ours(
    open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "o.tif")
    folder.mkdir()
    for name in ("classes_21171_1.ovr.tmp", "probabilities_7_12.msk.ovr.tmp"):
        (folder / name).write_bytes(b"half")
    with open_journal() as journal:
        journal.remove()
    assert not folder.exists()


def test_file_that_appears_in_the_folder_survives_it(
    open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    with open_journal() as journal:
        (journal.folder / "mine.txt").write_text("mine")
        journal.remove()
    assert only(journal.folder) == {"mine.txt"}


def test_own_opening_follows_no_link(
    open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    """Nor where the link appears after the folder was looked at."""
    target = tmp_path / "target"
    target.write_bytes(b"kept")
    with open_journal() as journal:
        (journal.folder / "publishing").symlink_to(target)
        with pytest.raises(OSError, match="symbolic links"):
            journal.mark_publishing()
    assert target.read_bytes() == b"kept"


def test_lock_whose_folder_another_run_has_just_removed_is_taken_anew(
    open_journal: Callable[..., Journal],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flock, calls = fcntl.flock, list[Any]()

    def removed_before(*arguments: Any) -> None:
        if not calls:
            shutil.rmtree(folder_of(tmp_path / "o.tif"))
        calls.append(arguments)
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", removed_before)
    with open_journal() as journal:
        assert len(calls) == 2
        monkeypatch.undo()
        with pytest.raises(OutputError, match="Another hsi-run is writing"):
            open_journal().__enter__()
        journal.write(
            0,
            (0, 6),
            (0, 9),
            {
                layer.name: np.zeros((len(layer.bands), 6, 9), layer.dtype)
                for layer in journal.layers
            },
            Counts([54, 0, 0]),
        )
    with open_journal() as journal:
        assert set(journal.pieces) == {0}


def test_folder_that_is_always_removed_ends_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = JournalFolder(tmp_path / "o.tif")
    monkeypatch.setattr(fcntl, "flock", lambda *_: shutil.rmtree(folder.path))
    with pytest.raises(OutputError, match="is created and removed by other runs"):
        folder.lock()


def test_full_disk_is_not_called_a_foreign_folder(
    open_journal: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(ResourceError, match="is full"):
        open_journal().__enter__()


def test_removed_folder_is_told_as_such(
    open_journal: Callable[..., Journal],
) -> None:
    def fail(journal: Journal) -> None:
        with journal.explaining():
            journal.mark_publishing()

    with open_journal() as journal:
        shutil.rmtree(journal.folder)
        with pytest.raises(OutputError, match="was removed while the scene was"):
            fail(journal)

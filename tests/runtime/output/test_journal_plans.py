"""Which runs may go on with what lies in a journal folder, and which may not."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hsi_runtime.errors import OutputError
from hsi_runtime.output.journal import Journal
from hsi_runtime.output.journal_folder import folder_of
from hsi_runtime.output.layers import Counts

FILE = {"path": "/a/s.tif", "bytes": 9, "modified_ns": 1, "samples_sha256": "ab"}
PLAN = {"scene": {"s.tif": FILE}, "tile": 1}


def fill(journal: Journal, numbers: tuple[int, ...] = (0, 1, 2)) -> None:
    for number in numbers:
        values = {
            layer.name: np.full((len(layer.bands), 2, 9), number, layer.dtype)
            for layer in journal.layers
        }
        rows = 2 * number, 2 * number + 2
        journal.write(number, rows, (0, 9), values, Counts([number, 1, 2]))


@pytest.mark.parametrize(
    "text", [b"[1]", b"null", b'{"scene": "t"}', b'{"scene": {"s.tif": 1}}']
)
def test_another_plan_is_not_resumed(
    text: bytes, open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    with open_journal() as journal:
        fill(journal)
    (folder_of(tmp_path / "o.tif") / "plan.json").write_bytes(text)
    for _ in range(2):  # the lock is free again
        with pytest.raises(OutputError, match="holds an interrupted run with another"):
            open_journal().__enter__()
    with open_journal(resume=False) as journal:
        assert journal.pieces == {}


def test_plan_that_differs_is_named(open_journal: Callable[..., Journal]) -> None:
    with open_journal() as journal:
        fill(journal)
    with pytest.raises(OutputError, match="with another tile; repeat that run"):
        open_journal({"scene": "s", "tile": 2}).__enter__()


@pytest.mark.parametrize("text", [b"", bytes(4), b"\xff\xfe", b'{"scene": "s"'])
def test_plan_that_a_power_cut_tore_is_no_obstacle(
    text: bytes, open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    with open_journal() as journal:
        fill(journal)
    (folder_of(tmp_path / "o.tif") / "plan.json").write_bytes(text)
    with open_journal() as journal:
        assert journal.pieces == {}
        fill(journal, (0,))
    with open_journal() as journal:
        assert set(journal.pieces) == {0}


def test_plan_is_on_the_disk_before_the_first_piece(
    open_journal: Callable[..., Journal],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        fsync(handle)
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)

    monkeypatch.setattr(os, "fsync", noted)
    with open_journal():
        assert len(synced) == 2
        assert synced[0].startswith("plan.json.")
        assert synced[1] == "o.tif.hsi-part"


@pytest.mark.parametrize(
    "change",
    [{"bytes": 8}, {"modified_ns": 2}, {"samples_sha256": "cd"}, {**FILE, "bytes": 0}],
)
def test_pieces_of_a_scene_that_has_changed_are_dropped(
    change: dict[str, Any],
    open_journal: Callable[..., Journal],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with open_journal(PLAN) as journal:
        fill(journal)
    changed = {**PLAN, "scene": {"s.tif": FILE | change}}
    with open_journal(changed) as journal:
        assert journal.pieces == {}
        fill(journal, (1,))
    assert "The scene has changed since the interrupted run in" in caplog.text
    with open_journal(changed) as journal:
        assert set(journal.pieces) == {1}


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"scene": {"s.tif": FILE | {"path": "/b/s.tif"}}, "tile": 1}, "scene"),
        ({"scene": {"s.tif": FILE, "s.hdr": FILE}, "tile": 1}, "scene"),
        ({"scene": {"s.tif": FILE | {"bytes": 8}}, "tile": 2}, "scene, tile"),
    ],
)
def test_pieces_of_another_scene_or_run_are_not_dropped(
    other: dict[str, Any], named: str, open_journal: Callable[..., Journal]
) -> None:
    with open_journal(PLAN) as journal:
        fill(journal)
    with pytest.raises(OutputError, match=f"with another {named}; repeat that run"):
        open_journal(other).__enter__()
    with open_journal(PLAN) as journal:
        assert set(journal.pieces) == {0, 1, 2}


def test_only_the_run_that_published_owns_the_outputs(
    open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    with open_journal(PLAN) as journal:
        fill(journal)
        assert not journal.published
        journal.mark_publishing()
    with open_journal(PLAN) as journal:
        assert journal.published
    # It was stopped while it removed its journal.
    (folder_of(tmp_path / "o.tif") / "plan.json").unlink()
    with open_journal(PLAN) as journal:
        assert journal.published
        fill(journal)
        journal.mark_publishing()
    changed = {**PLAN, "scene": {"s.tif": FILE | {"bytes": 8}}}
    with open_journal(changed) as journal:
        assert not journal.published
    with open_journal(changed) as journal:
        assert not journal.published
        journal.mark_publishing()
    with open_journal(changed, resume=False) as journal:
        assert not journal.published

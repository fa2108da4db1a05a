import errno
import os
import threading
from pathlib import Path

import pytest

from hsi_runtime.follow.live.sync_behind import SyncBehind


def test_nobody_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files may be closed meanwhile, and what was written reaches the disk."""
    synced: list[int] = []
    begun, free = threading.Event(), threading.Event()

    def slow(descriptor: int) -> None:
        begun.set()
        assert free.wait(60)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fdatasync", slow)
    behind = SyncBehind()
    with (tmp_path / "a").open("wb") as a, (tmp_path / "b").open("wb") as b:
        for file in (a, b):
            file.write(b"lines")
            file.flush()
        assert behind.start([a, b])
        assert begun.wait(60)
        assert not behind.start([a, b])
    free.set()
    finished(behind)
    assert synced == [5, 5]


def test_an_error_of_the_disk_is_told_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fdatasync", full)
    behind = SyncBehind()
    with (tmp_path / "a").open("wb") as file:
        behind.start([file])
        finished(behind)
        with pytest.raises(OSError, match="full"):
            behind.start([file])


def finished(behind: SyncBehind) -> None:
    assert behind._thread is not None
    behind._thread.join(60)

import os
import re
from pathlib import Path

import pytest

from hsi_runtime import files


def test_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, done = tmp_path / "a.json", []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(handle: int) -> None:
        fsync(handle)
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")

    def noted_replace(source: Path, target: Path) -> None:
        replace(source, target)
        done.append(f"name {target.name}")

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    files.write_bytes(path, b"text")
    partial = done[0].removeprefix("sync ")
    assert re.fullmatch(r"a\.json\.[0-9a-f]{8}\.part", partial)
    assert done == [f"sync {partial}", "name a.json", f"sync {tmp_path.name}"]
    assert path.read_bytes() == b"text"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_failing_write_leaves_the_old_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def failing(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, name, failing)
    with pytest.raises(OSError, match="Input/output error"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_runs_do_not_share_an_unfinished_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with files.replaced(path) as first, files.replaced(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"  # whole; the last to finish counts
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_written_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "größer\r\n")
    assert path.read_bytes() == "größer\r\n".encode()
    files.write_bytes(path, b"\0")
    assert path.read_bytes() == b"\0"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_stops_leaves_the_file_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"whole")

    def stop() -> None:
        with files.replaced(path) as partial:
            partial.write_bytes(b"ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert path.read_bytes() == b"whole"


def test_bytes_at_a_place(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w+b") as file:
        files.write_at(file, b"abcdef", 4)
        whole, beyond = bytearray(4), bytearray(b"....")
        assert files.read_at(file, memoryview(whole), 5) == 4
        assert files.read_at(file, memoryview(beyond), 8) == 2
    assert (bytes(whole), bytes(beyond)) == (b"bcde", b"ef..")

import os
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
    assert done == ["sync a.json.part", "name a.json", f"sync {tmp_path.name}"]
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

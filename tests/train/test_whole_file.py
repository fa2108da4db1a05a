from pathlib import Path

import pytest

from hsi_train import whole_file


def test_content_is_written_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    whole_file.write_text(path, "größer\r\n")
    assert path.read_bytes() == "größer\r\n".encode()
    whole_file.write_bytes(path, b"\0")
    assert path.read_bytes() == b"\0"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_stops_leaves_the_file_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    whole_file.write_bytes(path, b"whole")

    def stop() -> None:
        with whole_file.replaced(path) as partial:
            partial.write_bytes(b"ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert path.read_bytes() == b"whole"

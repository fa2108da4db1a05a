"""The ring in shared memory: written in Python and in C, read whole or not at all."""

import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsi_runtime.errors import SceneError
from hsi_runtime.follow.sources.ring import (
    HEADER_BYTES,
    RingReader,
    RingShape,
    RingWriter,
)

HEADER = Path(__file__).parents[4] / ".docs" / "pages" / "assets" / "hsi_ring.h"
SHAPE = RingShape(cols=7, bands=3, data_type=12, interleave="bil", slots=4)
PROGRAM = r"""
#include "hsi_ring.h"
#include <stdio.h>
int main(int argc, char **argv) {
    struct hsi_ring ring;
    uint16_t line[7 * 3];
    if (hsi_ring_open(&ring, argv[1], 7, 3, 12, 1, 64)) return 1;
    for (int row = 0; row < 50; row++) {
        for (int i = 0; i < 21; i++) line[i] = 1000 * row + i;
        hsi_ring_write(&ring, line);
    }
    hsi_ring_close(&ring);
    return 0;
}
"""


def line_of(row: int) -> bytes:
    return np.arange(21, dtype="<u2").tobytes()[:-2] + row.to_bytes(2, "little")


def test_a_reader_gets_every_line_in_order(tmp_path: Path) -> None:
    with RingWriter(tmp_path / "r", SHAPE) as writer:
        reader = RingReader(tmp_path / "r")
        assert reader.shape == SHAPE
        for row in range(20):
            assert (reader.written, reader.ended) == (row, False)
            writer.write(line_of(row))
            assert reader.read() == line_of(row)
    assert reader.ended
    reader.close()


def test_lines_that_were_overwritten_are_lost(tmp_path: Path) -> None:
    with RingWriter(tmp_path / "r", SHAPE) as writer:
        reader = RingReader(tmp_path / "r")
        for row in range(7):
            writer.write(line_of(row))
        assert [reader.read() for _ in range(7)] == [
            *(None, None, None),
            *(line_of(row) for row in range(3, 7)),
        ]
        late = RingReader(tmp_path / "r")  # what was before it is nobody's loss
        assert late.read() == line_of(4)
        reader.close()
        late.close()


@given(st.integers(0, 42 - 1), st.integers(1, 255))
def test_a_damaged_line_is_none(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int
) -> None:
    path = tmp_path_factory.mktemp("ring") / "r"
    with RingWriter(path, SHAPE) as writer:
        writer.write(line_of(0))
    with path.open("r+b") as file:
        file.seek(HEADER_BYTES + 32 + place)
        byte = file.read(1)[0]
        file.seek(HEADER_BYTES + 32 + place)
        file.write(bytes([byte ^ change]))
    reader = RingReader(path)
    assert reader.read() is None
    reader.close()


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "r"
    with RingWriter(path, SHAPE) as writer:
        writer.write(line_of(0))
    with path.open("r+b") as file:
        file.seek(HEADER_BYTES)
        file.write(b"\xff" * 8)
    reader = RingReader(path)
    assert reader.read() is None
    reader.close()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, b"X", "does not begin with HSIRING1"),
        (8, b"\0\0\0\0", "contradicts itself"),
        (16, b"\x06", "contradicts itself"),
        (20, b"\x02", "contradicts itself"),
        (24, b"\xff\xff\xff", "contradicts itself"),
        (32, b"\x01", "contradicts itself"),
    ],
)
def test_what_is_no_ring(
    tmp_path: Path, place: int, value: bytes, message: str
) -> None:
    path = tmp_path / "r"
    RingWriter(path, SHAPE).__exit__(None, None, None)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(value)
    with pytest.raises(SceneError, match=message):
        RingReader(path)


def test_the_writer_in_c(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not Path("/usr/include/zlib.h").is_file():
        pytest.skip("needs a C compiler and the header of zlib")
    source, program = tmp_path / "w.c", tmp_path / "w"
    source.write_text(PROGRAM)
    shutil.copy(HEADER, tmp_path)
    flags = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-O2"]
    built: Any = subprocess.run(
        [compiler, *flags, str(source), "-o", str(program), "-lz"],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    subprocess.run([program, tmp_path / "ring"], check=True)
    reader = RingReader(tmp_path / "ring")
    assert reader.shape == RingShape(7, 3, 12, "bip", 64)
    assert (reader.written, reader.ended) == (50, True)
    for row in range(50):
        expected = (1000 * row + np.arange(21)).astype("<u2").tobytes()
        assert reader.read() == expected
        assert zlib.crc32(expected)
    reader.close()

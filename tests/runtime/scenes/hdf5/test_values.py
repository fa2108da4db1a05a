import os
import zlib
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.hdf5 import values as module
from hsi_runtime.scenes.hdf5.container import Container

DTYPES = ("<i2", ">i2", "<u2", "<f4", ">f4", "u1", "<f8")
FILTERS: list[dict[str, Any]] = [
    {},
    {"compression": "gzip"},
    {"compression": "gzip", "shuffle": True},
    {"compression": "gzip", "shuffle": True, "fletcher32": True},
    {"shuffle": True},
    {"fletcher32": True},
]
SIDE = st.integers(1, 9)


def read(path: Path, window: Any = None, name: str = "v") -> NDArray[Any]:
    with Container(path) as file:
        values = file.values(name)
        return values.read(window or [(0, n) for n in values.shape])


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_window_of_any_layout_is_what_h5py_reads(
    tmp_path: Path, data: st.DataObject
) -> None:
    shape = data.draw(st.tuples(SIDE, SIDE, SIDE))
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    cube = np.random.default_rng(0).integers(0, 250, shape).astype(dtype)
    options: dict[str, Any] = {}
    if data.draw(st.booleans()):
        options["chunks"] = tuple(data.draw(st.integers(1, n)) for n in shape)
        options |= data.draw(st.sampled_from(FILTERS))
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("v", data=cube, **options)
    window = []
    for length in shape:
        first = data.draw(st.integers(0, length - 1))
        window.append((first, data.draw(st.integers(first + 1, length))))
    result = read(path, window)
    assert result.dtype == dtype.newbyteorder("=")
    np.testing.assert_array_equal(result, cube[tuple(slice(*w) for w in window)])


@pytest.mark.parametrize("decoders", [1, 3])
def test_each_chunk_is_decoded_once(
    decoders: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DECODERS", decoders)
    cube = np.arange(10 * 11 * 12).reshape(10, 11, 12)
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("v", data=cube, chunks=(4, 5, 6), compression="gzip")
    with Container(tmp_path / "v.h5") as opened:
        values = opened.values("v")
        pieces = list(values.pieces([(0, 10), (3, 9), (0, 6)]))
        corners = [piece.start for piece in pieces]
        assert corners == list(product((0, 4, 8), (3, 5), (0,)))
        assert values.decoding_bytes >= 3 * 4 * 5 * 6 * 8


def test_chunks_that_were_never_written_hold_the_fill_value(tmp_path: Path) -> None:
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as file:
        made = file.create_dataset("v", (8, 8), "f4", chunks=(4, 8), fillvalue=-9999)
        made[:4] = 1
    result = read(path)
    assert (result[:4] == 1).all()
    assert (result[4:] == -9999).all()


def test_small_values_in_the_header_of_their_data_set(tmp_path: Path) -> None:
    path = tmp_path / "v.h5"
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.COMPACT)
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple((3,))
        made = h5py.h5d.create(file.id, b"v", h5py.h5t.NATIVE_INT32, space, dcpl=plan)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(3, dtype="i4"))
    assert read(path).tolist() == [0, 1, 2]


def compressed(path: Path, data: bytes) -> None:
    """Write a data set of 64 x 64 bytes whose only chunk has these bytes."""
    with h5py.File(path, "w") as file:
        made = file.create_dataset("v", (64, 64), "u1", chunks=(64, 64), compression=1)
        made.id.write_direct_chunk((0, 0), data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (zlib.compress(bytes(64 * 64))[:-3], "have another size"),
        (zlib.compress(bytes(63 * 64)), "it has another size"),
        (zlib.compress(bytes(64 * 65)), "have another size"),
        (b"no deflate" * 5, "incorrect header check"),
        (os.urandom(20_000), "it is too long"),
        # Expands to 200 MB, of which none is kept.
        (zlib.compress(bytes(200_000_000), 9)[:9_000], "have another size"),
    ],
)
def test_damaged_chunk(data: bytes, message: str, tmp_path: Path) -> None:
    compressed(tmp_path / "v.h5", data)
    with pytest.raises(SceneError, match=f"chunk of v at 0, 0 cannot .*{message}"):
        read(tmp_path / "v.h5")


def test_checksum_that_differs(tmp_path: Path) -> None:
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as file:
        cube = np.arange(4096, dtype="i2").reshape(64, 64)
        made = file.create_dataset("v", data=cube, chunks=(64, 64), fletcher32=True)
        stored = made.id.get_chunk_info(0)
    with path.open("r+b") as raw:
        raw.seek(stored.byte_offset + 100)
        raw.write(b"\xff")
    with pytest.raises(SceneError, match="its checksum differs"):
        read(path)


def test_file_that_shrinks_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as file:
        file["v"] = np.ones((100, 100))
    with Container(path) as opened:
        values = opened.values("v")
        os.truncate(path, 5000)
        with pytest.raises(SceneError, match="is truncated: v needs"):
            values.read([(0, 100), (0, 100)])

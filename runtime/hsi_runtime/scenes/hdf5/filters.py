"""Undoes the filters that HDF5 stores chunks with: deflate, shuffle and fletcher32."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from h5py import h5d, h5s

from hsi_runtime.errors import SceneError

CHUNKED, CONTIGUOUS, ALL = h5d.CHUNKED, h5d.CONTIGUOUS, h5s.ALL
DEFLATE, SHUFFLE, FLETCHER32 = 1, 2, 3
NAMES = {4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf", 32001: "blosc"}
SUM_BYTES = 4
FLETCHER_MODULUS = 65535


class Filter(NamedTuple):
    """A filter of a data set.

    Attributes:
        code: HDF5's number of it.
        item: Bytes of a value.
        most: Bytes that its result may have.
    """

    code: int
    item: int
    most: int


def of(path: Path, name: str, plan: Any, item: int) -> list[Filter]:
    """List the filters of a data set, in the order in which they were applied.

    Args:
        path: The file, for messages.
        name: The data set, for messages.
        plan: h5py's list of the properties of the data set.
        item: Bytes of a value.

    Raises:
        SceneError: One of them cannot be undone here.
    """
    most = item
    for length in plan.get_chunk():
        most *= length
    listed = []
    for number in range(plan.get_nfilters()):
        code, _, options, _ = plan.get_filter(number)
        if code not in (DEFLATE, SHUFFLE, FLETCHER32) or (
            code == SHUFFLE and options[:1] != (item,)
        ):
            raise SceneError(
                f"{path}: {name} is encoded by the filter {NAMES.get(code, code)}, "
                "which is not read. Encode it anew: h5repack -f SHUF -f GZIP=1."
            )
        listed.append(Filter(code, item, most))
        most += SUM_BYTES if code == FLETCHER32 else 0
    return listed


def undone(listed: Sequence[Filter], data: bytes, mask: int) -> Any:
    """Undo the filters of a chunk.

    Args:
        listed: Filters of the data set.
        data: Bytes of the chunk as stored.
        mask: A bit for each filter that was left out for this chunk.

    Returns:
        The bytes of the values.

    Raises:
        ValueError: The bytes are damaged.
    """
    undo = {DEFLATE: _inflated, SHUFFLE: _in_order, FLETCHER32: _checked}
    for number, one in reversed([*enumerate(listed)]):
        if not mask >> number & 1:
            data = undo[one.code](data, one)
    return data


def _inflated(data: Any, one: Filter) -> bytes:
    decoder = zlib.decompressobj()
    try:
        values = decoder.decompress(data, one.most + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(values) > one.most or not decoder.eof:
        raise ValueError("its compressed values have another size")
    return values


def _in_order(data: Any, one: Filter) -> Any:
    """Put the bytes of each value side by side: the first of all values come first."""
    if one.item == 1:
        return data
    if len(data) % one.item:
        raise ValueError("its shuffled values have another size")
    planes = np.frombuffer(data, np.uint8).reshape(one.item, -1)
    values = np.empty(planes.shape[::-1], np.uint8)
    for number, plane in enumerate(planes):
        values[:, number] = plane
    return values.reshape(-1)


def _checked(data: Any, one: Filter) -> Any:
    """Compare the checksum at the end, of 16-bit words, and cut it off."""
    view = memoryview(data)
    values, stored = view[:-SUM_BYTES], view[-SUM_BYTES:]
    if len(stored) < SUM_BYTES:
        raise ValueError("its checksum is missing")
    padded = bytes(values) + b"\0" * (len(values) % 2)
    words = np.frombuffer(padded, ">u2").astype(np.uint64)
    weights = np.arange(len(words), 0, -1, dtype=np.uint64) % FLETCHER_MODULUS
    first = int(words.sum()) % FLETCHER_MODULUS
    second = int((words * weights).sum()) % FLETCHER_MODULUS
    number = int.from_bytes(stored, "little")
    halves = number & 0xFFFF, number >> 16
    # Old versions of HDF5 stored the bytes of each half the other way round.
    swapped = [half >> 8 | (half & 0xFF) << 8 for half in halves]
    expected = [first, second]
    if expected not in (
        [half % FLETCHER_MODULUS for half in halves],
        [half % FLETCHER_MODULUS for half in swapped],
    ):
        raise ValueError("its checksum differs")
    return values

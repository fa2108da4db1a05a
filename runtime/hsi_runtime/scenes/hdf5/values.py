"""Reads the values of a data set of HDF5 from the file itself, chunk by chunk.

HDF5 is only asked where they lie. Decoding them here needs no plug-in, runs outside
HDF5's lock, and ends where a chunk has the size that it must have, however far its
compressed bytes would expand.
"""

import math
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.machine import usable_cores
from hsi_runtime.scenes.hdf5 import filters

MOST_CHUNK_BYTES = 2**30
# Deflate shortens to a thousandth at best; chunks without any value are not stored.
LEAST_STORED = 1 / 2500
# Half of the cores decode; the engine wants the others.
DECODERS = max(1, min(4, usable_cores() // 2))

Interval = tuple[int, int]


class Piece(NamedTuple):
    """A part of a data set in memory.

    Attributes:
        values: As stored.
        start: Index of its first value on each axis.
    """

    values: NDArray[Any]
    start: tuple[int, ...]


class Values:
    """A data set of numbers.

    Attributes:
        name: Its name in the file.
        shape: Its shape.
        dtype: Type of its values, in the byte order of this machine.
        chunk: Shape of what is decoded at once; None where values lie side by side.
        chunk_bytes: Decoded size of a chunk, 0 where there is none.
        bytes: Size of all its values.
    """

    def __init__(
        self,
        path: Path,
        file: IO[bytes],
        *,
        name: str,
        dataset: Any,
        calls: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Find out how the values are stored.

        Args:
            path: The file, for messages.
            file: It, open for reading bytes.
            name: Name of the data set, for messages.
            dataset: h5py's identifier of it; its storage is this file's.
            calls: Context for calls of HDF5.

        Raises:
            SceneError: The values are no numbers, are not stored completely, or are
                encoded in another way.
        """
        self.name, self._dataset, self._calls = name, dataset, calls
        self._file, self._path = file, path
        self._needed = 0  # bytes of the file, where values lie side by side
        self._stored_dtype: np.dtype[Any] = dataset.dtype
        self.dtype = self._stored_dtype.newbyteorder("=")
        self.shape: tuple[int, ...] = dataset.shape
        if self.dtype.kind not in "iuf" or self.dtype.shape or not self.shape:
            raise SceneError(f"{self._path}: {name} is no array of numbers.")
        self.bytes = math.prod(self.shape) * self.dtype.itemsize
        if not self.bytes:
            raise SceneError(
                f"{self._path}: {name} has the shape {self.shape}, which holds no "
                "value. Is the file complete?"
            )
        plan = dataset.get_create_plist()
        self.chunk: tuple[int, ...] | None = None
        self.chunk_bytes = 0
        self._values: NDArray[Any] | None = None
        if plan.get_layout() == filters.CHUNKED:
            self.chunk = plan.get_chunk()
            self.chunk_bytes = math.prod(self.chunk) * self.dtype.itemsize
            self._filters = filters.of(self._path, name, plan, self.dtype.itemsize)
            self._check_chunks()
            self._fill = np.zeros((), self.dtype)
            plan.get_fill_value(self._fill)
        elif plan.get_layout() == filters.CONTIGUOUS:
            self._values = self._mapped(dataset.get_offset())
        else:
            self._values = np.empty(self.shape, self.dtype)
            dataset.read(filters.ALL, filters.ALL, self._values)

    def read(self, window: Sequence[Interval]) -> NDArray[Any]:
        """Read a window, one half-open interval for each axis.

        Raises:
            SceneError: It cannot be read.
        """
        out = np.zeros([b - a for a, b in window], self.dtype)
        for piece in self.pieces(window):
            place = []
            for (first, _), start, length in zip(
                window, piece.start, piece.values.shape, strict=True
            ):
                place.append(slice(start - first, start - first + length))
            out[tuple(place)] = piece.values
        return out

    def pieces(self, window: Sequence[Interval]) -> Iterator[Piece]:
        """Read a window in pieces, each chunk once.

        Raises:
            SceneError: A chunk is missing or damaged.
        """
        if self._values is not None:
            self._check_size()
            whole = self._values[tuple(slice(*interval) for interval in window)]
            yield Piece(whole, tuple(first for first, _ in window))
            return
        assert self.chunk is not None
        origins = product(
            *(
                range(first // length * length, last, length)
                for (first, last), length in zip(window, self.chunk, strict=True)
            )
        )

        def clipped(origin: tuple[int, ...]) -> Piece:
            return self._clipped(origin, window)

        if DECODERS == 1:
            yield from map(clipped, origins)
            return
        with ThreadPoolExecutor(DECODERS, thread_name_prefix="decode") as pool:
            waiting = []
            for origin in origins:
                waiting.append(pool.submit(clipped, origin))
                if len(waiting) > DECODERS:
                    yield waiting.pop(0).result()
            for future in waiting:
                yield future.result()

    @property
    def decoding_bytes(self) -> int:
        """Memory that decoding takes besides the values that are returned."""
        # Compressed, decompressed, and put in order; results wait for the reader.
        return self.chunk_bytes * (3 if DECODERS == 1 else 4 * DECODERS)

    def _clipped(self, origin: tuple[int, ...], window: Sequence[Interval]) -> Piece:
        """Decode a chunk, and cut off what lies outside the window."""
        assert self.chunk is not None
        values = self._decoded(origin)
        starts, place = [], []
        for (first, last), corner, length in zip(
            window, origin, self.chunk, strict=True
        ):
            start, stop = max(first, corner), min(last, corner + length)
            starts.append(start)
            place.append(slice(start - corner, stop - corner))
        return Piece(values[tuple(place)], tuple(starts))

    def _decoded(self, origin: tuple[int, ...]) -> NDArray[Any]:
        assert self.chunk is not None
        with self._calls():
            stored = self._dataset.get_chunk_info_by_coord(origin)
        if stored.byte_offset is None:  # never written
            return np.broadcast_to(self._fill, self.chunk)
        if stored.size > 2 * self.chunk_bytes + 1024:
            raise self._damaged(origin, "it is too long")
        raw = os.pread(self._file.fileno(), stored.size, stored.byte_offset)
        try:
            data = filters.undone(self._filters, raw, stored.filter_mask)
        except ValueError as error:
            raise self._damaged(origin, str(error)) from error
        if len(data) != self.chunk_bytes:
            raise self._damaged(origin, "it has another size")
        return np.frombuffer(data, self._stored_dtype).reshape(self.chunk)

    def _damaged(self, origin: tuple[int, ...], why: str) -> SceneError:
        at = ", ".join(map(str, origin))
        return SceneError(
            f"{self._path}: the chunk of {self.name} at {at} cannot be read: {why}. Is "
            "the file complete?"
        )

    def _check_chunks(self) -> None:
        if self.chunk_bytes > MOST_CHUNK_BYTES:
            raise SceneError(
                f"{self._path}: {self.name} is stored in chunks of "
                f"{self.chunk_bytes / 1e6:,.0f} MB. Rewrite it in smaller ones: "
                "h5repack -l."
            )
        self._check_stored(self._dataset.get_storage_size())

    def _check_stored(self, stored: int) -> None:
        """Refuse a shape that nothing is stored for: walking it would not end."""
        if stored < self.bytes * LEAST_STORED:
            raise SceneError(
                f"{self._path}: {self.name} has the shape {self.shape}, but only "
                f"{stored} bytes are stored. Is the file complete?"
            )

    def _mapped(self, offset: int | None) -> NDArray[Any]:
        if offset is None:
            self._check_stored(0)
        assert offset is not None
        self._needed = offset + self.bytes
        self._check_size()
        mapped = mmap.mmap(self._file.fileno(), self._needed, access=mmap.ACCESS_READ)
        values: NDArray[Any] = np.ndarray(
            self.shape, self._stored_dtype, mapped, offset
        )
        return values

    def _check_size(self) -> None:
        # Past the end of a file that has shrunk, the system would kill the process.
        actual = os.fstat(self._file.fileno()).st_size
        if actual < self._needed:
            raise SceneError(
                f"{self._path} is truncated: {self.name} needs {self._needed} bytes, "
                f"the file has {actual}."
            )

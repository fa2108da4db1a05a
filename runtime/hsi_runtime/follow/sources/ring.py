"""A ring of lines in shared memory, for a grabber's callback that must not wait.

The writer owns a file in memory, such as ``/dev/shm/camera``: a header of 4096 bytes,
then slots. Numbers are little-endian; the documentation has a writer in C.

    0   8  magic ``HSIRING1``
    8   4  samples (columns)      12  4  bands
    16  4  ENVI data type         20  4  interleave: 0 bil, 1 bip
    24  8  slots                  32  8  bytes of a slot: 32, and those of a line
                                         up to a multiple of 8
    40  8  lines written          48  8  1 when no more lines will come

A slot holds the number of its line (8 bytes; all ones while it is written), its time in
nanoseconds since 1970 (8), the CRC-32 of its values (4), 12 bytes of nothing, and the
values of a line. A line's slot is its number modulo the slots. A reader copies a slot,
then looks at its number again: a line that was overwritten meanwhile is lost, and so is
one whose CRC does not fit.
"""

import mmap
import os
import struct
import time
import zlib
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from hsi_runtime.errors import SceneError
from hsi_runtime.files import open_binary
from hsi_runtime.scenes.envi_header import DTYPES

MAGIC = b"HSIRING1"
HEADER_BYTES, SLOT_BYTES = 4096, 32
HEADER = struct.Struct("<8sIIIIQQQQ")
SLOT = struct.Struct("<QQI")
NUMBER = struct.Struct("<Q")
WRITTEN_AT, ENDED_AT = 40, 48
BUSY = 2**64 - 1
ITEM_BYTES = {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 12: 2, 13: 4}


class RingShape(NamedTuple):
    """What the lines of a ring are.

    Attributes:
        cols: Width.
        bands: Number of bands.
        data_type: ENVI's number of the type.
        interleave: ``bil`` or ``bip``.
        slots: Lines that the ring holds.
    """

    cols: int
    bands: int
    data_type: int
    interleave: str
    slots: int

    @property
    def line_bytes(self) -> int:
        """Bytes of a line."""
        return self.cols * self.bands * ITEM_BYTES[self.data_type]

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot; numbers lie at multiples of 8."""
        return SLOT_BYTES + -(-self.line_bytes // 8) * 8


class RingWriter:
    """Writes lines into a new ring; a context manager."""

    def __init__(self, path: Path, shape: RingShape) -> None:
        self._shape = shape
        self._slot = shape.slot_bytes
        self._written = 0
        # Readers may still look into an older ring: cutting it would kill them.
        path.unlink(missing_ok=True)
        with path.open("w+b") as file:
            file.truncate(HEADER_BYTES + shape.slots * self._slot)
            self._map = mmap.mmap(file.fileno(), 0)
        order = 1 if shape.interleave == "bip" else 0
        sizes = shape.cols, shape.bands, shape.data_type, order, shape.slots
        # The magic comes last: who finds it finds the rest.
        header = HEADER.pack(b"\0" * 8, *sizes, self._slot, 0, 0)
        self._map[: len(header)] = header
        self._map[:8] = MAGIC

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        NUMBER.pack_into(self._map, ENDED_AT, 1)
        self._map.close()

    def write(self, line: bytes | memoryview) -> None:
        """Write a line; readers that are too slow lose the oldest one."""
        place = HEADER_BYTES + self._written % self._shape.slots * self._slot
        NUMBER.pack_into(self._map, place, BUSY)
        first = place + SLOT_BYTES
        self._map[first : first + len(line)] = line
        SLOT.pack_into(self._map, place, BUSY, time.time_ns(), zlib.crc32(line))
        NUMBER.pack_into(self._map, place, self._written)
        self._written += 1
        NUMBER.pack_into(self._map, WRITTEN_AT, self._written)


class RingReader:
    """Reads the lines of a ring in order.

    Args:
        path: The file in memory.

    Attributes:
        path: The file.
        shape: What the lines are.
        next_line: Number of the line to read next.

    Raises:
        SceneError: The file is no ring.
    """

    def __init__(self, path: Path) -> None:
        with open_binary(path) as file:
            start = file.read(HEADER.size)
            if start[:8] != MAGIC or len(start) < HEADER.size:
                raise SceneError(
                    f"{path} is no ring of lines: it does not begin with "
                    f"{MAGIC.decode()}."
                )
            _, cols, bands, kind, order, slots, slot, written, _ = HEADER.unpack(start)
            names = {0: "bil", 1: "bip"}
            known = str(kind) in DTYPES and kind in ITEM_BYTES and order in names
            if known:
                self.shape = RingShape(cols, bands, kind, names[order], slots)
                size = self.shape.slot_bytes
                whole = HEADER_BYTES + slots * slot
                known = min(cols, bands, slots) > 0 and slot == size
                known &= file.seek(0, 2) >= whole
            if not known:
                raise SceneError(f"The header of the ring {path} contradicts itself.")
            self._map = mmap.mmap(file.fileno(), whole, access=mmap.ACCESS_READ)
            self.path, self._place = path, os.fstat(file.fileno())
        self._slot = slot
        # Lines that were overwritten before this reader came are nobody's loss.
        self.next_line = max(written - slots + 1, 0)

    @property
    def written(self) -> int:
        """Lines written so far."""
        return int(NUMBER.unpack_from(self._map, WRITTEN_AT)[0])

    @property
    def ended(self) -> bool:
        """True if the writer has ended."""
        return bool(NUMBER.unpack_from(self._map, ENDED_AT)[0])

    @property
    def begun_anew(self) -> bool:
        """True if a writer began with another ring in the place of this one."""
        try:
            there = os.path.samestat(os.stat(self.path), self._place)
        except FileNotFoundError:
            there = True  # who has it open may still write
        return not there or self.written < self.next_line

    def read(self) -> bytes | None:
        """Read the next line; None if it is lost. There must be one."""
        line = self.next_line
        self.next_line += 1
        place = HEADER_BYTES + line % self.shape.slots * self._slot
        number, _, checksum = SLOT.unpack_from(self._map, place)
        if number != line:
            return None
        first = place + SLOT_BYTES
        values = self._map[first : first + self.shape.line_bytes]
        if NUMBER.unpack_from(self._map, place)[0] != line:
            return None
        return values if zlib.crc32(values) == checksum else None

    def close(self) -> None:
        """Leave the ring."""
        self._map.close()

"""Hostile variants of good files, and the bounds that no parser of ours may leave."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hsi_runtime.machine import peak_bytes

SECONDS, BYTES = 2.0, 500e6  # that one input may take
LARGEST = 2_000_000  # bytes of an input
REPEATS = (1, 1, 2, 30, 4_000, 200_000)

Edit = tuple[str, int, int, bytes, int]
Draft = tuple[bytes, list[Edit]]


def drafts(
    samples: Sequence[bytes], words: Sequence[bytes]
) -> st.SearchStrategy[Draft]:
    """Draw good files, and what to do to them: a file itself may be long.

    Args:
        samples: Good files.
        words: What the format gives a meaning to.
    """
    pieces = st.one_of(st.sampled_from(list(words)), st.binary(max_size=6))
    edits = st.tuples(
        st.sampled_from(["put", "put", "insert", "insert", "repeat", "remove", "cut"]),
        st.integers(0, 2**24),
        st.integers(1, 60),
        pieces,
        st.sampled_from(REPEATS),
    )
    some = st.lists(edits, min_size=1, max_size=5)
    return st.tuples(st.sampled_from(list(samples)), some)


def edited(sample: bytes, edits: Sequence[Edit]) -> bytes:
    data = sample
    for kind, place, length, piece, times in edits:
        at = place % (len(data) + 1)
        if kind == "put":
            data = data[:at] + piece + data[at + len(piece) :]
        elif kind == "insert":
            data = data[:at] + piece * times + data[at:]
        elif kind == "repeat":
            data = data[:at] + data[at : at + length] * times + data[at + length :]
        elif kind == "remove":
            data = data[:at] + data[at + length :]
        elif at > len(data) // 2:  # short files show little
            data = data[:at]
        data = data[:LARGEST]
    return data


def bounded(parse: Callable[[bytes], None], content: bytes) -> None:
    """Parse an input within the bounds: time of the processor, and memory."""
    with contextlib.suppress(OSError):  # forgets the highest mark, on Linux
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, started = peak_bytes(), time.process_time()
    parse(content)
    seconds, more = time.process_time() - started, peak_bytes() - before
    assert seconds < SECONDS, f"{seconds:.1f} s for {len(content)} bytes"
    assert more < BYTES, f"{more / 1e6:.0f} MB for {len(content)} bytes"


def fuzz(
    parse: Callable[[bytes], None],
    inputs: st.SearchStrategy[Draft],
    examples: int,
    seconds: float = 0.0,
) -> int:
    """Parse so many drawn inputs, and on until the time is over; return their number.

    Short runs draw the same inputs each time, long runs always others.
    """
    parsed = 0

    @settings(
        max_examples=examples,
        database=None,
        derandomize=not seconds,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def one(draft: Draft) -> None:
        nonlocal parsed
        parsed += 1
        bounded(parse, edited(*draft))

    end = time.monotonic() + seconds
    one()
    while time.monotonic() < end:
        one()
    return parsed

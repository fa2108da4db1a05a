import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from small_model import with_receptive_field

from hsi_runtime import machine
from hsi_runtime.errors import ResourceError
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.scenes.scene import SceneInfo
from hsi_runtime.walk.memory import (
    BASE_BYTES,
    MACS_PER_BYTE,
    check_blocks,
    check_limit,
    sizes_kept,
    tile_and_strip,
    tile_on_cpu,
    windows_at_once,
)
from hsi_runtime.walk.strips import BUFFERS
from hsi_runtime.walk.windows import DEFAULT_TILE, SMALL_TILE, STRIP_BYTES

MB = 1_000_000


def test_without_a_limit_the_defaults_hold(document: ModelDocument) -> None:
    assert tile_and_strip(document, None, None) == (DEFAULT_TILE, STRIP_BYTES)
    assert tile_and_strip(document, 40, None) == (40, STRIP_BYTES)


@given(
    working=st.floats(1, 1e6),
    field=st.integers(0, 20).map(lambda n: 2 * n + 1),
    limit=st.integers(1, 2**40),
    more=st.integers(0, 2**40),
)
def test_more_memory_never_gives_smaller_squares(
    document: ModelDocument, working: float, field: int, limit: int, more: int
) -> None:
    described = replace(document, working_bytes=working)
    described = with_receptive_field(described, field)
    try:
        tile, strip = tile_and_strip(described, None, limit)
    except ResourceError:
        return
    larger_tile, larger_strip = tile_and_strip(described, None, limit + more)
    assert larger_tile >= tile >= 1
    assert larger_strip >= strip >= 1
    # What is handed out stays below the limit.
    engine = (tile + field - 1) ** 2 * working
    assert BASE_BYTES + engine + (BUFFERS + 1) * strip <= limit


@given(
    tile=st.none() | st.integers(1, 200),
    working=st.floats(1, 1e6),
    at_once=st.integers(1, 99),
)
def test_graphs_of_several_sizes_are_kept_where_memory_is_not_limited(
    document: ModelDocument, tile: int | None, working: float, at_once: int
) -> None:
    described = replace(document, working_bytes=working)
    assert sizes_kept(described, tile, 10**9, at_once) == 1
    kept = sizes_kept(described, tile, None, at_once)
    assert 2 <= kept <= 8  # scenes of a list are classified two at a time
    assert kept >= sizes_kept(described, tile, None, at_once + 1)


@given(
    tile=st.none() | st.integers(1, 200),
    working=st.floats(1, 1e6),
    threads=st.integers(1, 99),
    limit=st.integers(1, 2**40),
    more=st.integers(0, 2**40),
)
def test_windows_at_once_stay_within_the_memory(
    document: ModelDocument,
    tile: int | None,
    working: float,
    threads: int,
    limit: int,
    more: int,
) -> None:
    described = replace(document, working_bytes=working)
    at_once = windows_at_once(described, tile, limit, threads)
    assert 1 <= at_once <= windows_at_once(described, tile, limit + more, threads)
    assert windows_at_once(described, tile, 2**60, threads) == threads
    try:
        check_limit(described, tile, limit)
    except ResourceError:
        assert at_once == 1
        return
    # What suffices for one window suffices for those computed at once, too.
    side, strip = tile_and_strip(described, tile, limit, DEFAULT_TILE, at_once)
    assert side == tile or at_once == 1 or side >= SMALL_TILE
    engines = at_once * (side + 2 * described.halo) ** 2 * working
    assert BASE_BYTES + engines + (BUFFERS + 1) * strip <= limit


def test_windows_at_once_leave_most_of_the_machine_to_others(
    document: ModelDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = replace(document, working_bytes=10_000.0)
    side = tile_on_cpu(described.macs_per_pixel, described.working_bytes)
    one = (side + 2 * described.halo) ** 2 * 10_000
    monkeypatch.setattr(machine, "machine_bytes", lambda: 20 * one)
    assert windows_at_once(described, None, None, 99) == 3  # of 20 / 4 / 1.6
    assert windows_at_once(described, None, None, 2) == 2
    assert windows_at_once(described, 1000, None, 99) == 1


def test_a_network_that_waits_for_memory_gets_small_squares() -> None:
    for working, side in ((7.0, DEFAULT_TILE), (1714.0, 64), (15e3, SMALL_TILE)):
        assert tile_on_cpu((MACS_PER_BYTE - 1) * working, working) == side
        assert tile_on_cpu(MACS_PER_BYTE * working, working) == DEFAULT_TILE


@given(tile=st.none() | st.integers(1, 200), working=st.floats(1, 1e6))
def test_what_is_said_to_be_needed_suffices(
    document: ModelDocument, tile: int | None, working: float
) -> None:
    described = replace(document, working_bytes=working)
    with pytest.raises(ResourceError) as error:
        tile_and_strip(described, tile, 100 * MB)
    said = str(error.value)
    assert "--max-memory allows 100 MB; this model needs about " in said
    assert f"for squares of {tile or 1} pixels" in said
    needed = int(said.split("about ")[1].split(" MB")[0])
    assert needed > 100
    found, _ = tile_and_strip(described, tile, (needed + 1) * MB)
    assert found == tile if tile else found >= 1


def test_exit_code_is_that_of_resources(document: ModelDocument) -> None:
    with pytest.raises(ResourceError) as error:
        tile_and_strip(document, 128, BASE_BYTES + 1)
    assert error.value.exit_code == 6


def test_tile_asked_for_is_kept_where_it_fits(document: ModelDocument) -> None:
    assert tile_and_strip(document, 300, 2**40)[0] == 300
    assert tile_and_strip(document, None, 2**40)[0] == DEFAULT_TILE


def test_peak_is_this_process_and_not_the_one_that_started_it() -> None:
    held = bytearray(b"x") * 400_000_000
    script = "from hsi_runtime.machine import peak_bytes; print(peak_bytes())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert len(held) < machine.peak_bytes()
    assert 1_000_000 < int(done.stdout) < 300_000_000


@pytest.mark.parametrize(
    ("changes", "megabytes"),
    [
        ({"interleave": "bip", "block": (5000, 5000)}, 400),
        ({"interleave": "bsq", "block": (5000, 5000)}, None),  # one band at a time
        ({"interleave": "bip", "block": (1, 5000)}, None),
        ({"interleave": "bip", "block": (5000, 5000), "mapped": True}, None),
    ],
)
def test_blocks_that_cannot_be_decoded_are_refused(
    changes: dict[str, Any], megabytes: int | None, info_of: Callable[..., SceneInfo]
) -> None:
    info = dataclasses.replace(info_of(5000, 5000), dtype=np.dtype("u4"), **changes)
    check_blocks(info, 2**40)
    check_blocks(info, None)
    if megabytes is None:
        check_blocks(info, 400 * MB)
        return
    with pytest.raises(ResourceError, match=rf"5000 x 5000 pixels, {megabytes} MB"):
        check_blocks(info, 400 * MB)


def test_a_block_beyond_the_machine_is_refused(
    info_of: Callable[..., SceneInfo],
) -> None:
    info = dataclasses.replace(info_of(9, 9), block=(10**6, 10**6))
    with pytest.raises(ResourceError, match="gdal_translate -co TILED=YES"):
        check_blocks(info, None)

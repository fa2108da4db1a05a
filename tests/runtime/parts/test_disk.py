"""Parts and the scratch of a join need what the plan tells, whatever was killed."""

from pathlib import Path

import pytest
from mosaic import Mosaic

from hsi_runtime import files
from hsi_runtime.parts.joining import join_parts
from hsi_runtime.reports import dry_run

HEADER_BYTES = 512  # of a piece, at most


def bytes_in(folder: Path, pattern: str = "*") -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def leave_unfinished(parts: Path) -> None:
    """Leave what an attempt leaves that is killed at its last piece."""
    path = max(parts.glob("*.piece"))
    for _ in range(3):
        files.unfinished(path).write_bytes(path.read_bytes())


@pytest.mark.parametrize("tile", [8, 20])
def test_twice_the_raw_map_is_enough(tile: int, mosaic: Mosaic) -> None:
    name, count = f"disk{tile}", 3
    plan = dry_run(mosaic.request(name, tile=tile), mosaic.model, "cpu", 1)
    parts = mosaic.folder / name / "o.tif.hsi-parts"
    scratch = mosaic.folder / name / "o.tif.hsi-part"
    limit = plan["scratch_bytes"]
    for index in range(count):
        mosaic.part(name, index, count, tile=tile)
        leave_unfinished(parts)
        mosaic.part(name, index, count, tile=tile, resume=False)
        limit = plan["scratch_bytes"] + HEADER_BYTES * len(list(parts.glob("*.piece")))
        assert bytes_in(parts, "*.piece*") <= limit
    leave_unfinished(parts)
    room: list[int] = []

    def measure(*_: int) -> None:
        room.append(bytes_in(parts, "*.piece*") + bytes_in(scratch, "*.raw"))

    request = mosaic.request(name, tile=tile, join=True)
    join_parts(request, mosaic.model, progress=measure)
    most = plan["scratch_bytes_in_parts"]
    assert 0.9 * most < max(room) <= limit + plan["scratch_bytes"]
    assert most == 2 * plan["scratch_bytes"]

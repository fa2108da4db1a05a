"""A scene in parts gives the bytes of one run, whoever computes what, however often."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mosaic import Mosaic

DRAWN = {"preview": True, "stac": True}


@pytest.fixture(scope="module")
def plain(mosaic: Mosaic) -> Path:
    """Return the folder of a plain run with every layer and a preview."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        mosaic.plain("plain", **DRAWN)
    return mosaic.folder / "plain"


def assert_same(plain: Path, made: Path) -> None:
    assert sorted(p.name for p in made.iterdir()) == sorted(
        p.name for p in plain.iterdir()
    )
    for path in plain.iterdir():
        assert (made / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_any_number_of_parts_gives_the_bytes_of_one_run(
    count: int, mosaic: Mosaic, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    done = [mosaic.part(f"n{count}", n, count) for n in reversed(range(count))]
    assert sum(part["pixels"] for part in done) == 96 * 40
    result = mosaic.join(f"n{count}", **DRAWN)
    assert_same(plain, mosaic.folder / f"n{count}")
    assert [row["part"] for row in result["parts"]] == [
        f"{n}/{count}" for n in range(count)
    ]
    assert [row["attempts"] for row in result["parts"]] == [1] * count


def test_a_window_in_parts_gives_the_bytes_of_one_run(mosaic: Mosaic) -> None:
    bounds = {"bounds": (400_010.0, 5_799_830.0, 400_071.0, 5_799_981.0)}
    mosaic.plain("window", **bounds)
    for index in range(3):
        mosaic.part("cut", index, 3, **bounds)
    mosaic.join("cut", **bounds)
    assert_same(mosaic.folder / "window", mosaic.folder / "cut")


@settings(max_examples=8)
@given(
    tasks=st.lists(
        st.integers(1, 9).flatmap(
            lambda count: st.tuples(st.integers(0, count - 1), st.just(count))
        ),
        max_size=4,
    )
)
def test_parts_of_any_cut_in_any_order_fit_together(
    tasks: list[tuple[int, int]], mosaic: Mosaic, plain: Path
) -> None:
    """What another cut has finished is not computed again."""
    shutil.rmtree(mosaic.folder / "any", ignore_errors=True)
    pixels = sum(mosaic.part("any", *task)["pixels"] for task in tasks)
    pixels += sum(mosaic.part("any", index, 2)["pixels"] for index in range(2))
    assert pixels == 96 * 40
    mosaic.join("any")
    for path in plain.glob("*.tif"):
        assert (mosaic.folder / "any" / path.name).read_bytes() == path.read_bytes()


def test_two_at_once_on_one_part_write_the_same(
    mosaic: Mosaic, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second computes all of the part while the first has stored a half."""
    from hsi_runtime.parts.folder import PartsFolder

    write: Callable[..., None] = PartsFolder.write
    stored = 0

    def interrupted(self: PartsFolder, *arguments: object) -> None:
        nonlocal stored
        stored += 1
        if stored == 3:
            (mosaic.folder / "two" / "o.tif.hsi-parts" / "000001.piece").unlink()
            mosaic.part("two", 0, 2, resume=False)
        write(self, *arguments)

    monkeypatch.setattr(PartsFolder, "write", interrupted)
    mosaic.part("two", 0, 2)
    mosaic.part("two", 1, 2)
    result = mosaic.join("two")
    assert [row["attempts"] for row in result["parts"]] == [2, 1]
    for path in plain.glob("*.tif"):
        assert (mosaic.folder / "two" / path.name).read_bytes() == path.read_bytes()

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from hsi_runtime.errors import OutputError, ResourceError
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.output.journal import Journal
from hsi_runtime.output.journal_folder import folder_of
from hsi_runtime.output.layers import Counts, layers
from hsi_runtime.scenes.scene import SceneInfo

ALL = ("classes", "confidence", "probabilities")


def only(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_second_writer_of_one_output_is_refused(
    document: ModelDocument, tmp_path: Path, info_of: Callable[..., SceneInfo]
) -> None:
    output, info = tmp_path / "o.tif", info_of(4, 4)
    rasters = layers(document, ["classes"])
    with Journal(output, info, rasters, {}) as first:
        said = f"Another hsi-run is writing .* .process {os.getpid()} on "
        with (
            pytest.raises(OutputError, match=said),
            Journal(output, info, rasters, {}),
        ):
            pytest.fail("two writers")
        assert only(folder_of(output)) == {
            "lock", "classes.raw", "plan.json", "journal.jsonl"
        }  # fmt: skip
        with Journal(tmp_path / "other.tif", info, rasters, {}) as other:
            other.remove()
        first.remove()
    assert only(tmp_path) == set()


def test_what_a_killed_run_left_is_no_obstacle(
    document: ModelDocument,
    tmp_path: Path,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
) -> None:
    part = tmp_path / "o.tif.hsi-part"
    part.mkdir()
    (part / "lock").touch()
    (part / "classes.raw").write_bytes(b"x" * 10_000)
    write_all(tmp_path / "o.tif", document, probabilities_of(6, 6), wanted=ALL[:1])
    assert only(tmp_path) == {"o.tif", "o.tif.aux.xml"}


def test_full_disk_of_an_output_elsewhere_is_named(
    document: ModelDocument, tmp_path: Path, info_of: Callable[..., SceneInfo]
) -> None:
    rasters = layers(document, ["classes"])
    journal = Journal(tmp_path / "o.tif", info_of(4, 4), rasters, {})
    full = errno.ENOSPC, "No space left on device"
    for error, named in (
        (OSError(*full, "a.gpkg", None, "/stick/b.gpkg"), "/stick"),
        (OSError(*full, "a.gpkg"), str(tmp_path)),
        (OSError(*full), str(tmp_path)),
    ):
        assert str(journal.explain(error)).startswith(f"The disk of {named} is full")


def test_full_disk_is_met_at_the_start(
    document: ModelDocument,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match=r"is full; the outputs need up to 0\.1 MB"):
        write_all(tmp_path / "o.tif", document, probabilities_of(100, 100))
    assert only(tmp_path) == set()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_failing_write_keeps_what_is_done(
    number: int,
    document: ModelDocument,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
) -> None:
    written: list[int] = []
    pwrite = os.pwrite

    def failing(file: int, data: bytes, offset: int) -> int:
        written.append(offset)
        if len(written) == 200:  # of the second piece
            raise OSError(number, "a fault")
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "pwrite", failing)
    expected = OutputError if number == errno.EIO else ResourceError
    with pytest.raises(expected):
        write_all(tmp_path / "o.tif", document, probabilities_of(50, 50))
    assert only(tmp_path) == {"o.tif.hsi-part"}
    monkeypatch.undo()
    write_all(tmp_path / "o.tif", document, probabilities_of(50, 50))
    write_all(tmp_path / "fresh.tif", document, probabilities_of(50, 50))
    for kind in ("", "_confidence", "_probabilities"):
        found = (tmp_path / f"o{kind}.tif").read_bytes()
        assert found == (tmp_path / f"fresh{kind}.tif").read_bytes()


def test_partial_writes_are_continued(
    document: ModelDocument,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda file, data, offset: pwrite(file, data[:7], offset)
    )
    found = probabilities_of(20, 20)
    write_all(tmp_path / "o.tif", document, found, wanted=ALL[:1])
    with rasterio.open(tmp_path / "o.tif") as file:
        expected = np.array([2, 3, 7])[found.argmax(axis=0)]
        np.testing.assert_array_equal(file.read(1), expected)


def values_of(rows: int, cols: int, seed: int) -> dict[str, NDArray[np.uint8]]:
    random = np.random.default_rng(seed)
    return {
        "classes": random.integers(0, 9, (1, rows, cols)).astype(np.uint8),
        "probabilities": random.integers(0, 9, (3, rows, cols)).astype(np.uint8),
    }


PIECES = {
    0: ((0, 2), (0, 9)),
    1: ((2, 6), (0, 4)),
    2: ((2, 6), (4, 9)),
}


def fill(journal: Journal, numbers: tuple[int, ...] = (0, 1, 2)) -> None:
    for number in numbers:
        (top, bottom), (left, right) = PIECES[number]
        values = values_of(bottom - top, right - left, number)
        counts = Counts([number, 1, 2], 3, 4)
        journal.write(number, (top, bottom), (left, right), values, counts)


def test_pieces_are_read_back_where_they_were_written(
    open_journal: Callable[..., Journal],
) -> None:
    with open_journal() as journal:
        fill(journal)
        for number, (down, across) in PIECES.items():
            shape = down[1] - down[0], across[1] - across[0]
            values = values_of(*shape, number)
            for layer in journal.layers:
                for band, plane in enumerate(values[layer.name]):
                    assert journal.read(layer, band, down, across) == plane.tobytes()


def test_next_run_takes_over_finished_pieces(
    open_journal: Callable[..., Journal],
) -> None:
    with open_journal() as journal:
        fill(journal, (2, 0))
    with open_journal() as journal:
        assert set(journal.pieces) == {0, 2}
        assert journal.pieces[2].counts == Counts([2, 1, 2], 3, 4)
        fill(journal, (1,))
    with open_journal() as journal:
        assert set(journal.pieces) == {0, 1, 2}
    with open_journal(resume=False) as journal:
        assert journal.pieces == {}
    with open_journal() as journal:
        assert journal.pieces == {}


def test_journal_may_be_cut_or_flipped_anywhere(
    open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    with open_journal() as journal:
        fill(journal)
    lines = folder_of(tmp_path / "o.tif") / "journal.jsonl"
    whole = lines.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(0, len(whole), 3):
        lines.write_bytes(whole[:size])
        with open_journal() as journal:
            # A line counts with or without its line break.
            done = sum(size >= end - 1 for end in ends)
            assert set(journal.pieces) == set(range(done))
    for at in range(0, len(whole), 2):
        lines.write_bytes(whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :])
        with open_journal() as journal:
            for number, piece in journal.pieces.items():
                assert (piece.rows, piece.cols) == PIECES[number]
                assert piece.counts == Counts([number, 1, 2], 3, 4)


@pytest.mark.parametrize("name", ["classes", "probabilities"])
@pytest.mark.parametrize("damage", ["flip", "lose", "cut"])
def test_pieces_whose_bytes_are_wrong_are_computed_again(
    name: str, damage: str, open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    with open_journal() as journal:
        fill(journal)
    raw = folder_of(tmp_path / "o.tif") / f"{name}.raw"
    data = raw.read_bytes()
    if damage == "flip":
        raw.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif damage == "lose":
        raw.unlink()
    else:
        os.truncate(raw, len(data) - 1)
    with open_journal() as journal:
        expected = {"flip": {1, 2}, "lose": set(), "cut": {0, 1}}[damage]
        assert set(journal.pieces) == expected
        assert raw.stat().st_size == len(data)


def test_full_disk_while_resuming_keeps_what_is_done(
    open_journal: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_journal() as journal:
        fill(journal)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for module, name in ((os, "posix_fallocate"), (os, "replace"), (Path, "open")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises((ResourceError, OutputError)):
                open_journal().__enter__()
    with open_journal() as journal:
        assert set(journal.pieces) == {0, 1, 2}


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_file_systems_without_locks_and_reservation_work(
    number: int,
    open_journal: Callable[..., Journal],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    import fcntl

    def unsupported(*_: object) -> None:
        raise OSError(number, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    monkeypatch.setattr(fcntl, "flock", unsupported)
    with open_journal() as journal:
        fill(journal)
    assert (folder_of(tmp_path / "o.tif") / "classes.raw").stat().st_size == 54
    with open_journal() as journal:
        assert set(journal.pieces) == {0, 1, 2}


def test_lock_that_fails_is_a_sentence(
    open_journal: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", failing)
    with pytest.raises(OutputError, match="cannot be locked: Input/output error"):
        open_journal().__enter__()


def test_data_are_made_durable_every_64_megabytes_and_at_the_end(
    open_journal: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fdatasync = os.fdatasync

    def counted(file: int) -> None:
        synced.append(file)
        fdatasync(file)

    monkeypatch.setattr(os, "fdatasync", counted)
    with open_journal() as journal:
        fill(journal, (0,))
        assert not synced
        monkeypatch.setattr("hsi_runtime.output.journal.SYNC_BYTES", 10)
        fill(journal, (1,))
        assert len(synced) == 3  # two raw files, then the journal
    with pytest.raises(KeyError), open_journal() as journal:
        raise KeyError
    assert len(synced) == 6


def test_run_that_finished_no_piece_leaves_nothing(
    open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    with pytest.raises(KeyError), open_journal():
        raise KeyError
    assert only(tmp_path) == set()
    other = {"classes": np.zeros((1, 2, 9), np.uint8)}  # a layer is missing

    def work() -> None:
        with open_journal() as journal:
            fill(journal, (0,))
            journal.write(1, (2, 4), (0, 9), other, Counts([0] * 3))

    with pytest.raises(KeyError):
        work()
    assert only(tmp_path) == {"o.tif.hsi-part"}

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from hsi_runtime.errors import OutputError, RecipeError
from hsi_train.fitting.resume_state import (
    loaded_state,
    random_state,
    restore_random,
    save_state,
)

ORIGIN = {
    "recipe": "method = 'mf2cnet'",
    "files": {"a.tif": "00", "b.tif": "11"},
    "versions": {"hsi-edge": "1", "torch": "2"},
}


def test_state_is_read_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "resume.pt"
    save_state(path, {"step": 1}, ORIGIN)
    save_state(path, {"step": 2, "weights": torch.arange(3)}, ORIGIN)
    with loaded_state(path, ORIGIN) as state:
        assert state["step"] == 2
        assert torch.equal(state["weights"], torch.arange(3))
    assert [p.name for p in tmp_path.iterdir()] == ["resume.pt"]


def test_older_state_survives_a_write_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "resume.pt"
    save_state(path, {"step": 1}, ORIGIN)

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        save_state(path, {"step": 2}, ORIGIN)
    with loaded_state(path, ORIGIN) as state:
        assert state["step"] == 1


def test_damaged_and_unfit_states_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "resume.pt"
    path.write_bytes(b"torn")
    with (
        pytest.raises(OutputError, match="start again with --overwrite"),
        loaded_state(path, ORIGIN),
    ):
        pytest.fail("a damaged file was given")
    save_state(path, {"step": 1}, ORIGIN)
    with (
        pytest.raises(OutputError, match=r"resume\.pt cannot be .*KeyError"),
        loaded_state(path, ORIGIN) as state,
    ):
        state["weights"]


def test_a_gpu_draws_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU is a stand-in that holds a state."""
    held = {"cuda": torch.tensor([7], dtype=torch.uint8)}
    monkeypatch.setattr("torch.cuda.get_rng_state", lambda d: held[d.type].clone())
    monkeypatch.setattr(
        "torch.cuda.set_rng_state", lambda state, d: held.update({d.type: state})
    )
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    before = random_state(gpu)
    expected = torch.rand(3)
    held["cuda"] = torch.tensor([9], dtype=torch.uint8)
    restore_random(before, gpu)
    assert torch.equal(torch.rand(3), expected)
    assert held["cuda"].item() == 7
    held["cuda"] = torch.tensor([9], dtype=torch.uint8)
    restore_random(before, cpu)
    assert held["cuda"].item() == 9
    assert random_state(cpu).keys() == {"cpu"}


def test_a_full_disk_is_an_error_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own writer reports it as any other failure."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space") as told:
        save_state(tmp_path / "resume.pt", {"step": 1}, ORIGIN)
    assert told.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": {"a.tif": "00", "b.tif": "22"}}, r"other data: b\.tif changed"),
        ({"files": {"a.tif": "00"}}, r"other data: b\.tif changed"),
        ({"files": {}}, r"a\.tif, b\.tif changed.*Restore.*--overwrite"),
        ({"versions": {"hsi-edge": "1", "torch": "3"}}, r"torch 2; this is .*torch 3"),
        ({"recipe": ""}, "with another recipe"),
    ],
)
def test_a_state_that_depends_on_something_else_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "resume.pt"
    save_state(path, {"step": 1}, ORIGIN)
    with (
        pytest.raises(RecipeError, match=message),
        loaded_state(path, ORIGIN | change),
    ):
        pytest.fail("a state of another run was given")


def test_a_state_without_an_origin_is_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "resume.pt"
    torch.save({"step": 1}, path)
    with (
        pytest.raises(RecipeError, match="another version of hsi-train"),
        loaded_state(path, ORIGIN),
    ):
        pytest.fail("an old state was given")

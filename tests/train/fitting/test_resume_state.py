import errno
from pathlib import Path

import pytest
import torch

from hsi_runtime.errors import OutputError
from hsi_train.fitting.resume_state import (
    loaded_state,
    random_state,
    restore_random,
    save_state,
)


def test_state_is_read_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "resume.pt"
    save_state(path, {"step": 1})
    save_state(path, {"step": 2, "weights": torch.arange(3)})
    with loaded_state(path) as state:
        assert state["step"] == 2
        assert torch.equal(state["weights"], torch.arange(3))
    assert [p.name for p in tmp_path.iterdir()] == ["resume.pt"]


def test_older_state_survives_a_write_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "resume.pt"
    save_state(path, {"step": 1})

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        save_state(path, {"step": 2})
    with loaded_state(path) as state:
        assert state == {"step": 1}


def test_damaged_and_unfit_states_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "resume.pt"
    path.write_bytes(b"torn")
    with (
        pytest.raises(OutputError, match="start again with --overwrite"),
        loaded_state(path),
    ):
        pytest.fail("a damaged file was given")
    save_state(path, {"step": 1})
    with (
        pytest.raises(OutputError, match=r"resume\.pt cannot be .*KeyError"),
        loaded_state(path) as state,
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
        save_state(tmp_path / "resume.pt", {"step": 1})
    assert told.value.errno == errno.ENOSPC

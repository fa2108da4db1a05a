from pathlib import Path

import pytest
import torch

from hsi_runtime.errors import OutputError
from hsi_train.resume_state import loaded_state, save_state


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

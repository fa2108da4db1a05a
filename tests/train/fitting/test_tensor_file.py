import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hsi_runtime.errors import ModelFileError, RecipeError
from hsi_train.fitting.tensor_file import read_tensors, write_tensors


def test_tensors_and_the_text_of_a_key(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.arange(4)}, "ours", "said")
    tensors, text = read_tensors(path, "ours")
    assert torch.equal(tensors["x"], torch.arange(4))
    assert text == "said"
    assert read_tensors(path, "theirs")[1] is None


def test_file_without_any_metadata_has_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(2)}, path)
    assert read_tensors(path, "ours")[1] is None


def test_others_may_read_it_as_any_file_of_the_run(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(2)}, "ours", "said")
    (tmp_path / "metrics.json").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("content", [b"", b"text, no tensors", bytes(64)])
def test_damage_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"a\.safetensors is damaged"):
        read_tensors(path, "ours")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_tensor_that_is_not_finite_is_never_written(
    tmp_path: Path, value: float
) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"x": torch.ones(2), "norm.running_var": torch.tensor([1.0, value])}
    with pytest.raises(RecipeError, match=r"norm\.running_var of .*extreme values"):
        write_tensors(path, tensors, "ours", "said")
    assert not any(tmp_path.iterdir())

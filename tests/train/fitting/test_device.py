from typing import Any

import pytest
import torch

from hsi_runtime.errors import EngineError, ResourceError
from hsi_train.fitting.device import (
    memory_explained,
    torch_device,
    trains_in_bf16,
)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert torch_device("auto").type == torch_device("cpu").type == "cpu"
    with pytest.raises(EngineError, match=r"no CUDA device.*--device cpu"):
        torch_device("cuda")


@pytest.mark.parametrize("name", ["cuda:1", "gpu", "", "CPU"])
@pytest.mark.parametrize("present", [True, False])
def test_an_unknown_device_is_never_replaced(
    monkeypatch: pytest.MonkeyPatch, name: str, present: bool
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: present)
    with pytest.raises(EngineError, match="expected auto, cpu or cuda"):
        torch_device(name)


def test_memory_that_runs_out_is_told() -> None:
    def ask_for(values: int) -> Any:
        with memory_explained():
            return torch.empty(values, dtype=torch.float64)

    with pytest.raises(ResourceError, match=r"Memory ran out.*fit\.batch") as told:
        ask_for(2**50)
    assert isinstance(told.value.__cause__, RuntimeError)
    assert ask_for(2).shape == (2,)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="size of tensor"), memory_explained():
        torch.ones(2) + torch.ones(3)
    with pytest.raises(EngineError, match="allocation"), memory_explained():
        raise EngineError("an engine's word on allocation")


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"avx512_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_f": True}, False),
        ({}, False),
    ],
)
def test_bf16_is_for_processors_that_multiply_it(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], expected: bool
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: able)
    assert trains_in_bf16(torch.device("cpu")) is expected


def test_gpus_of_before_bf16_stay_in_single_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for able in (True, False):
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda able=able: able)
        assert trains_in_bf16(torch.device("cuda")) is able

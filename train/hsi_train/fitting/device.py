"""Where training runs, and what it says when that has too little memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hsi_runtime.engines.memory_errors import is_out_of_memory
from hsi_runtime.errors import EngineError, HsiError, ResourceError

BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def torch_device(name: str) -> torch.device:
    """Return the requested device; ``auto`` takes a GPU if one works.

    Raises:
        EngineError: CUDA was requested and does not work, or the name is unknown.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise EngineError(
            f"Training knows no device {name!r}; expected auto, cpu or cuda. "
            "CUDA_VISIBLE_DEVICES chooses among several GPUs."
        )
    present = torch.cuda.is_available()
    if name == "cuda" and not present:
        raise EngineError(
            "--device cuda: torch finds no CUDA device; check the driver and that "
            "torch is a CUDA build, or use --device cpu."
        )
    return torch.device("cuda" if present and name != "cpu" else "cpu")


def trains_in_bf16(device: torch.device) -> bool:
    """Return True if the device multiplies bf16 matrices by itself.

    Elsewhere bf16 is computed in single precision, and converting takes longer than it
    saves. bf16 has the range of fp32, so no loss is scaled.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in BF16_INSTRUCTIONS)


@contextmanager
def memory_explained() -> Iterator[None]:
    """Turn torch's failure to allocate into a sentence; let other errors pass.

    Raises:
        ResourceError: Memory ran out, the machine's or the GPU's.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, HsiError) or not is_out_of_memory(error):
            raise
        raise ResourceError(
            "Memory ran out in training; choose a smaller fit.batch or fit.outputs "
            "(pretrain.batch or pretrain.outputs in pre-training)."
        ) from error

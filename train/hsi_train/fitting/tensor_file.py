"""Our safetensors files: tensors, and a text that says what they are."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hsi_runtime import files
from hsi_runtime.errors import ModelFileError, RecipeError


def write_tensors(path: Path, tensors: dict[str, Tensor], key: str, text: str) -> None:
    """Write tensors, and metadata under a key; others may read the file as any other.

    The library's own way to write a file lets only its owner read it.

    Raises:
        RecipeError: A value is infinite or not a number; nothing is written.
    """
    broken = [n for n, t in tensors.items() if not bool(torch.isfinite(t).all())]
    if broken:
        raise RecipeError(
            f"{', '.join(broken[:3])} of the trained network hold values that are "
            "infinite or not a number. Lower the learning rate, or look for extreme "
            "values in the scenes."
        )
    files.write_bytes(path, save(tensors, metadata={key: text}))


def read_tensors(path: Path, key: str) -> tuple[dict[str, Tensor], str | None]:
    """Read all tensors, and the metadata of a key or None.

    Raises:
        ModelFileError: The file is damaged or no safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(key)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} is damaged: {error}.") from error
    return tensors, text

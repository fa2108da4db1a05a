"""The file from which an interrupted training continues."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hsi_runtime import files
from hsi_runtime.engines.memory_errors import is_out_of_memory
from hsi_runtime.errors import OutputError


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state; an interruption leaves the one before it."""
    # Not by torch itself, which tells a full disk as any other failure.
    content = io.BytesIO()
    torch.save(state, content)
    files.write_bytes(path, content.getvalue())


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the state of torch's generators: the CPU's, and that of a GPU in use."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Let torch draw on where `random_state` was called, on the same kind of device."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


@contextmanager
def loaded_state(path: Path) -> Iterator[dict[str, Any]]:
    """Give the state of a file to a block that takes it over.

    Raises:
        OutputError: The file is damaged, or the block cannot use it.
    """
    try:
        yield torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many kinds for a damaged file
        if is_out_of_memory(error):
            raise
        raise OutputError(
            f"{path} cannot be resumed: it is damaged or of another run "
            f"({type(error).__name__}); start again with --overwrite."
        ) from error

"""The file from which an interrupted training goes on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hsi_runtime.errors import OutputError


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state; an interruption leaves the one before it."""
    partial = path.with_name(path.name + ".part")
    torch.save(state, partial)
    os.replace(partial, path)


@contextmanager
def loaded_state(path: Path) -> Iterator[dict[str, Any]]:
    """Give the state of a file to a block that takes it over.

    Raises:
        OutputError: The file is damaged, or the block cannot use it.
    """
    try:
        yield torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many kinds for a damaged file
        raise OutputError(
            f"{path} cannot be resumed: it is damaged or of another run "
            f"({type(error).__name__}); start again with --overwrite."
        ) from error

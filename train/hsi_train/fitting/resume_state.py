"""The file from which an interrupted training continues."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hsi_runtime import files
from hsi_runtime.engines.memory_errors import is_out_of_memory
from hsi_runtime.errors import HsiError, OutputError, RecipeError

# What must be the same when a run is resumed: files, recipe, versions.
Origin = Mapping[str, Any]


def save_state(path: Path, state: dict[str, Any], origin: Origin) -> None:
    """Write a state with what it depends on; an interruption leaves the one before."""
    # Not by torch itself, which tells a full disk as any other failure.
    content = io.BytesIO()
    torch.save(state | {"origin": dict(origin)}, content)
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
def loaded_state(path: Path, origin: Origin) -> Iterator[dict[str, Any]]:
    """Give the state of a file to a block that takes it over.

    Raises:
        RecipeError: The state depends on something else than ``origin``.
        OutputError: The file is damaged, or the block cannot use it.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        check_same(path, state.get("origin", {}), origin)
        yield state
    except HsiError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        if is_out_of_memory(error):
            raise
        raise OutputError(
            f"{path} cannot be resumed: it is damaged or of another run "
            f"({type(error).__name__}); start again with --overwrite."
        ) from error


def check_same(path: Path, saved: Any, present: Origin) -> None:
    """Refuse to resume what began with other files, settings or code.

    Args:
        path: File of the state.
        saved: Origin in the state.
        present: Origin of the run that is to continue.

    Raises:
        RecipeError: They differ.
    """
    if saved == present:
        return
    if saved.keys() != present.keys():
        raise RecipeError(
            f"{path} is of another version of hsi-train. Start again with --overwrite."
        )
    if saved["files"] != present["files"]:
        before, now = saved["files"], present["files"]
        names = sorted(k for k in before | now if before.get(k) != now.get(k))
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise RecipeError(
            f"{path} belongs to other data: {listed} changed since the run began. "
            "Restore what changed, or start again with --overwrite."
        )
    if saved["versions"] != present["versions"]:
        had, have = (
            ", ".join(f"{k} {v}" for k, v in origin["versions"].items())
            for origin in (saved, present)
        )
        raise RecipeError(
            f"{path} was written by {had}; this is {have}. Resume with the versions "
            "it began with, or start again with --overwrite."
        )
    raise RecipeError(
        f"{path} was written with another recipe. Resume with the same settings, or "
        "start again with --overwrite."
    )

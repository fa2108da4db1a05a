"""The file of a pre-trained encoder: its weights and where they are from.

Safetensors holds tensors and text and cannot run code.
"""

from pathlib import Path

import msgspec
from torch import Tensor, nn

from hsi_runtime.errors import ModelFileError
from hsi_train.fitting.tensor_file import read_tensors, write_tensors

METADATA_KEY = "hsi_encoder"


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an encoder's file says about its weights."""

    method: str
    version: str
    scenes: list[str]
    steps: int
    seed: int
    loss: float


def save_encoder(path: Path, encoder: nn.Module, origin: Origin) -> None:
    """Write an encoder with its origin."""
    tensors = {
        k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()
    }
    text = msgspec.json.encode(origin).decode()
    write_tensors(path, tensors, METADATA_KEY, text)


def read_encoder(path: Path) -> tuple[dict[str, Tensor], Origin]:
    """Read the weights and the origin of an encoder.

    Raises:
        ModelFileError: Missing, damaged, or not an encoder.
    """
    if not path.is_file():
        raise ModelFileError(
            f"There is no encoder {path}; give the {ENCODER} of a run with "
            "--pretrain-scene."
        )
    tensors, text = read_tensors(path, METADATA_KEY)
    if text is None:
        raise ModelFileError(
            f"{path} is no encoder that hsi-train wrote; give the {ENCODER} of a run "
            "with --pretrain-scene."
        )
    try:
        return tensors, msgspec.json.decode(text, type=Origin)
    except msgspec.DecodeError as error:
        raise ModelFileError(f"{path} is of another version: {error}.") from error


def load_encoder(path: Path, encoder: nn.Module, method: str) -> Origin:
    """Load an encoder's weights in place.

    Args:
        path: What `save_encoder` wrote.
        encoder: Encoder of the method to train.
        method: Its name.

    Raises:
        ModelFileError: Missing, damaged, not an encoder, or of another method.
    """
    tensors, origin = read_encoder(path)
    if origin.method != method:
        raise ModelFileError(
            f"{path} is an encoder of {origin.method}, which {method} cannot use."
        )
    try:
        encoder.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelFileError(
            f"{path}: the weights do not fit method {method}: {error}"
        ) from error
    return origin


ENCODER, PRETRAIN_STATE = "encoder.safetensors", "pretrain.pt"

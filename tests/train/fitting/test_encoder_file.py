from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hsi_runtime.errors import ModelFileError
from hsi_train.fitting.encoder_file import (
    METADATA_KEY,
    Origin,
    load_encoder,
    save_encoder,
)

ENCODER = "encoder.safetensors"


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


def origin(method: str = "s2former") -> Origin:
    return Origin(method, "0", ["a.tif"], 3, 0, 1.5)


def test_round_trip(tmp_path: Path) -> None:
    path, one, other = tmp_path / ENCODER, build(), build()
    save_encoder(path, one, origin())
    assert load_encoder(path, other, "s2former") == origin()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_files_that_are_no_encoder(tmp_path: Path) -> None:
    encoder = build()

    def refuse(path: Path, message: str) -> None:
        with pytest.raises(ModelFileError, match=message):
            load_encoder(path, encoder, "s2former")

    refuse(tmp_path / "none", r"no encoder .*none; give the encoder\.safetensors")
    path = tmp_path / ENCODER
    path.write_bytes(b"no tensors")
    refuse(path, "is damaged")
    save_file({"a": torch.ones(1)}, path)
    refuse(path, "is no encoder that hsi-train wrote")
    save_file({"a": torch.ones(1)}, path, metadata={METADATA_KEY: "{}"})
    refuse(path, "of another version")
    save_encoder(path, encoder, origin("s3former"))
    refuse(path, "is an encoder of s3former, which s2former cannot use")
    save_encoder(path, nn.Linear(2, 2), origin())
    refuse(path, "the weights do not fit")
    wider = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5))
    save_encoder(path, wider, origin())
    refuse(path, "size mismatch")

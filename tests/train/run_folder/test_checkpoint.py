import json
import pickle
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hsi_runtime.errors import HsiError, ModelFileError
from hsi_runtime.model.model_file import Bands, ClassEntry, Provenance, Values
from hsi_train import methods
from hsi_train.method import BaseMethod, Problem
from hsi_train.run_folder import checkpoint
from hsi_train.run_folder.checkpoint import FILE_NAME, METADATA_KEY, Description

BANDS = 5


def describe(**changes: Any) -> Description:
    content: dict[str, Any] = {
        "method": "mf2cnet",
        "options": {"features": 4, "hidden": 8},
        "classes": [ClassEntry(code=3, name="Dächer", color="#aabbcc"),
                    ClassEntry(code=9, name="tree", color="#00ff00")],
        "bands": Bands(source_count=7, used=[0, 1, 3, 4, 6],
                       wavelengths_nm=[450.0, 550.25, 650.0, 750.0, 850.0],
                       fwhm_nm=None),
        "values": Values(quantity="reflectance", dtype="uint16", scale=None,
                         offset=None, fill=[0.1, 1 / 3, 2.0, 3.0, 4.0]),
        "resolution_m": 30.0,
        "provenance": Provenance(version="0", seed=1, recipe="x = 1", data_sha256={},
                                 counts={}, overall_accuracy=0.9,
                                 average_accuracy=0.8, kappa=0.7),
    }  # fmt: skip
    return Description(**(content | changes))


def fresh(description: Description) -> BaseMethod:
    problem = Problem(
        band_mean=torch.tensor([100.0, 1 / 3, 300.0, 400.0, 500.0]),
        band_std=torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]),
        class_counts=torch.tensor([10, 20]),
        class_means=torch.arange(10.0).view(2, BANDS),
        top=torch.tensor(9.0),
    )
    return methods.build(description.method, problem, description.options)


SAMPLE = np.arange(BANDS * 13 * 14, dtype=np.uint16).reshape(BANDS, 13, 14)


def write(folder: Path, sample: Any = SAMPLE, **changes: Any) -> Path:
    torch.manual_seed(0)
    description = describe(**changes)
    method = fresh(description)
    method.train()
    method.network(torch.randn(4, BANDS, 14, 14) * 50 + 200)  # other statistics
    return checkpoint.save(folder, method.eval(), description, sample)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32",
                                   "int32", "float32", "float64"])  # fmt: skip
def test_round_trip_with_a_sample_of_each_type(tmp_path: Path, dtype: str) -> None:
    sample = (SAMPLE % 120).astype(dtype)
    path = write(tmp_path, sample)
    assert path == tmp_path / FILE_NAME
    for place in (tmp_path, path):
        loaded = checkpoint.load(place)
        assert loaded.description == describe()
        assert loaded.sample.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(loaded.sample, sample)
        assert not loaded.method.training
        known = fresh(describe()).problem
        assert loaded.method.problem.linear is None
        for name, tensor in known._asdict().items():
            if name != "linear":
                assert torch.equal(tensor, getattr(loaded.method.problem, name))


def test_loaded_network_computes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    description = describe()
    method = fresh(description)
    cube = torch.randn(2, BANDS, 15, 14) * 50 + 200
    method.train().network(cube)
    checkpoint.save(tmp_path, method.eval(), description, SAMPLE)
    torch.manual_seed(1)
    loaded = checkpoint.load(tmp_path)
    with torch.inference_mode():
        assert torch.equal(loaded.method.network(cube), method.network(cube))


def test_same_content_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, two = write(tmp_path), write(tmp_path / "other")
    assert one.read_bytes() == two.read_bytes()


def test_missing(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelFileError, match=r"There is no checkpoint .*hsi-train"):
            checkpoint.load(path)


@pytest.mark.parametrize("content", [b"", b"text, no tensors", bytes(200),
                                     pickle.dumps({"a": 1}), b"\xff" * 64])  # fmt: skip
def test_other_files_of_that_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(ModelFileError, match="is damaged"):
        checkpoint.load(tmp_path)


def test_torch_pickle_is_not_opened(tmp_path: Path) -> None:
    torch.save({"network.weight": torch.ones(3)}, tmp_path / FILE_NAME)
    with pytest.raises(ModelFileError, match="is damaged"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_truncated(tmp_path: Path, share: float) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ModelFileError, match="is damaged"):
        checkpoint.load(tmp_path)


def rewrite(path: Path, change: Any) -> None:
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()[METADATA_KEY])
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    change(metadata, tensors)
    text = {METADATA_KEY: json.dumps(metadata)} if metadata else None
    save_file(tensors, path, metadata=text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, t: m.clear(), "was not written by hsi-train"),
        (lambda m, t: t.pop("sample"), "was not written by hsi-train"),
        (lambda m, t: m.update(new_key=1), "is of another version"),
        (lambda m, t: m.pop("bands"), "is of another version"),
        (lambda m, t: t.pop("network.head.4.bias"), "weights do not fit"),
        (lambda m, t: t.pop("problem.top"), "is of another version"),
        (lambda m, t: m["options"].update(hidden=9), "weights do not fit"),
        (lambda m, t: m.update(members=0), "is of another version.*members"),
        *(
            (lambda m, t, cut=cut: t.update(sample=t["sample"][cut].clone()), "sample")
            for cut in (np.s_[:3], np.s_[:, :12], np.s_[..., :12], np.s_[0])
        ),
        (lambda m, t: m.update(method="later"), "no method 'later'"),
        (lambda m, t: m["options"].update(later=1), "later"),
    ],
)
def test_safetensors_that_do_not_fit(tmp_path: Path, change: Any, message: str) -> None:
    path = write(tmp_path)
    rewrite(path, change)
    with pytest.raises(HsiError, match=message) as caught:
        checkpoint.load(tmp_path)
    assert caught.value.exit_code == 4


def test_description_is_complete_json() -> None:
    text = msgspec.json.encode(describe())
    assert msgspec.json.decode(text, type=Description) == describe()

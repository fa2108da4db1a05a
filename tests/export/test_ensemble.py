"""Members of one model, exported as one graph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from described import described

from hsi_export.exporting import export
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.model.model_file import ABUNDANCES, PROBABILITIES, read_model
from hsi_train import methods
from hsi_train.fitting import tensor_file
from hsi_train.method import BaseMethod, Problem
from hsi_train.run_folder import checkpoint, ensemble

BANDS, CLASSES = 9, 3
OPTIONS: dict[str, dict[str, Any]] = {
    "mf2cnet": {"features": 4, "hidden": 8},
    "s2vnet": {},
    "s2former": {},
    "s2amsnet": {"generators": False},
}


def problem() -> Problem:
    generator = torch.Generator().manual_seed(1)
    means = 1000 + 200 * torch.rand(CLASSES, BANDS, generator=generator)
    return Problem(
        band_mean=means.mean(dim=0).double(),
        band_std=torch.full((BANDS,), 100.0).double(),
        class_counts=torch.full((CLASSES,), 10),
        class_means=means.double(),
        top=torch.tensor(1500.0),
    )


def members(name: str, count: int) -> list[BaseMethod]:
    built = []
    for seed in range(count):
        torch.manual_seed(seed)
        built.append(methods.build(name, problem(), OPTIONS[name]).eval())
        built[-1].probabilities.temperature.fill_(1 + seed / 2)
    return built


def write(name: str, folder: Path, count: int = 2) -> ensemble.Ensemble:
    """Write the checkpoint of an ensemble of untrained members."""
    method = ensemble.of(members(name, count))
    method.probabilities.temperature.fill_(1.3)
    generator = torch.Generator().manual_seed(7)
    side = method.receptive_field + 9
    sample = 1000 + 100 * torch.randn(BANDS, side, side, generator=generator)
    description = described(
        name,
        OPTIONS[name],
        bands=BANDS,
        classes=CLASSES,
        dtype="float32",
        members=count,
    )
    checkpoint.save(folder, method, description, sample.numpy())
    return method


@pytest.mark.parametrize("name", OPTIONS)
def test_one_file_answers_like_the_mean_of_the_members(
    name: str, tmp_path: Path
) -> None:
    method = write(name, tmp_path)
    report = export(tmp_path, tmp_path / "model.onnx")
    assert report["parity"]["max_abs_difference"] < 1e-4
    alone = methods.build(name, problem(), OPTIONS[name])
    parameters = sum(p.numel() for p in alone.network.parameters())
    assert report["parameters"] == 2 * parameters
    model = read_model(tmp_path / "model.onnx")
    cube = checkpoint.load(tmp_path).sample[None].astype(np.float32)
    found = open_backend(model, "cpu", 1).predict(cube, method.outputs)
    with torch.inference_mode():
        each = [
            member.inference_graph()(torch.from_numpy(cube))
            for member in method.members
        ]
    index = method.outputs.index(PROBABILITIES)
    mean = (each[0][index] + each[1][index]) / 2
    expected = torch.softmax(torch.log(mean) / 1.3, dim=1).numpy()
    np.testing.assert_allclose(found[PROBABILITIES], expected, atol=1e-4)
    if name == "s2vnet":
        shares = (each[0][1] + each[1][1]) / 2
        np.testing.assert_allclose(found[ABUNDANCES], shares.numpy(), atol=1e-4)
        spectra = method.endmembers()
        assert spectra is not None
        first, second = (member.endmembers() for member in method.members)
        assert first is not None
        assert second is not None
        torch.testing.assert_close(spectra, (first + second) / 2)


def test_half_precision(tmp_path: Path) -> None:
    write("s2vnet", tmp_path)
    report = export(tmp_path, tmp_path / "half.onnx", fp16=True)
    assert report["precision"] == "fp16"
    assert report["parity"]["max_abs_difference"] < 2e-2


def test_a_checkpoint_without_a_member_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hsi_runtime.errors import ModelFileError

    written: Callable[..., Any] = tensor_file.write_tensors

    def without(path: Path, tensors: dict[str, Any], *rest: Any) -> None:
        kept = {k: v for k, v in tensors.items() if not k.startswith("member.1.")}
        written(path, kept, *rest)

    monkeypatch.setattr(checkpoint, "write_tensors", without)
    write("mf2cnet", tmp_path)
    with pytest.raises(ModelFileError, match="the weights do not fit"):
        checkpoint.load(tmp_path)

import getpass
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from hsi_export import parity, tracing
from hsi_runtime.engines.backend import Backend
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.model.model_file import PROBABILITIES, read_model
from hsi_train.run_folder import checkpoint
from hsi_train.run_folder.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def proto(trained: Any) -> Any:
    return onnx.load(trained.model)


@pytest.fixture(scope="module")
def loaded(trained: Any) -> Checkpoint:
    return checkpoint.load(trained.run)


@pytest.fixture(scope="module")
def backend(trained: Any) -> Backend:
    return open_backend(read_model(trained.model), "cpu")


def test_only_inference_is_left(proto: Any) -> None:
    operators = {node.op_type for node in proto.graph.node}
    assert "Conv" in operators
    assert "Exp" in operators  # of the softmax, in steps
    training = {"Dropout", "BatchNormalization", "RandomNormal", "RandomUniform"}
    assert not operators & training
    assert not {"If", "Loop", "Scan"} & operators
    assert not proto.functions
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"}
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", tracing.OPSET)]


def test_weights_are_inside_and_no_others(proto: Any, loaded: Checkpoint) -> None:
    assert all(
        t.data_location == onnx.TensorProto.DEFAULT for t in proto.graph.initializer
    )
    stored = sum(int(np.prod(t.dims)) for t in proto.graph.initializer)
    # Folding repeats a depthwise kernel for every depth.
    folded = loaded.method.folded_graph().state_dict()
    assert stored < 1.2 * sum(values.numel() for values in folded.values())


def test_batch_height_and_width_are_free(proto: Any) -> None:
    def axes(value: Any) -> list[Any]:
        dims = value.type.tensor_type.shape.dim
        return [d.dim_param or d.dim_value for d in dims]

    (given,), (found,) = proto.graph.input, proto.graph.output
    assert (given.name, found.name) == ("cube", "probabilities")
    batch, bands, height, width = axes(given)
    assert (batch, bands) == ("batch", 30)
    assert isinstance(height, str)
    assert isinstance(width, str)
    assert axes(found)[:2] == ["batch", 4]
    assert all(isinstance(axis, str) for axis in axes(found)[2:])


def test_no_trace_of_this_machine(trained: Any) -> None:
    data = trained.model.read_bytes()
    here = Path(__file__).parents[2]
    named = [here, Path.home(), Path(sys.prefix), Path(tempfile.gettempdir())]
    for path in [*map(str, named), "site-packages", ".py", "Traceback"]:
        if len(path) > 1:
            assert path.encode() not in data, path
    user = getpass.getuser()
    assert f"/{user}/".encode() not in data


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(13, 13), (14, 40), (29, 17), (51, 13)])
def test_sizes_never_traced_answer_like_torch(
    batch: int, size: tuple[int, int], backend: Backend, loaded: Checkpoint
) -> None:
    random = np.random.default_rng(0)
    spectra = loaded.sample.reshape(len(loaded.sample), -1)
    picked = random.integers(0, spectra.shape[1], (batch, *size))
    cube: NDArray[np.float32] = np.moveaxis(spectra[:, picked], 0, 1).astype(np.float32)
    found = backend.predict(np.ascontiguousarray(cube))[PROBABILITIES]
    answer = parity.reference(loaded.method, np.ascontiguousarray(cube))
    expected = answer[PROBABILITIES]
    assert found.shape == (batch, 4, size[0] - 12, size[1] - 12)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_answer_does_not_depend_on_the_window_it_lies_in(
    backend: Backend, loaded: Checkpoint
) -> None:
    cube = loaded.sample.astype(np.float32)[None]
    whole = backend.predict(cube)[PROBABILITIES]
    for row, col in ((0, 0), (7, 11), (whole.shape[2] - 1, whole.shape[3] - 1)):
        patch = np.ascontiguousarray(cube[:, :, row : row + 13, col : col + 13])
        single = backend.predict(patch)[PROBABILITIES]
        np.testing.assert_allclose(single[0, :, 0, 0], whole[0, :, row, col], atol=1e-5)


class Crops(torch.nn.Module):
    """Rows and columns are cut at once; a cut that two layers read is kept."""

    def forward(self, cube: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = cube[:, :, 2:-1]
        inner = cube[:, :2, 3:-2, 1:]
        shifted = cube[:, 1:, :, 4:] + 1
        return rows[..., 1:-3].exp(), rows[..., 3:-1] * 2, shifted, -inner


def test_slices_of_several_axes_become_one() -> None:
    model = tracing.to_onnx(Crops(), ("a", "b", "c", "d"), side=9, bands=3)

    def slices() -> int:
        return sum(node.op_type == "Slice" for node in model.graph)

    assert slices() == 8
    tracing.merge_slices(model.graph)
    assert slices() == 5
    proto = onnx_ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    cube = np.random.default_rng(0).random((2, 3, 11, 14), dtype=np.float32)
    expected = Crops()(torch.from_numpy(cube))
    for found, wanted in zip(session.run(None, {"cube": cube}), expected, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-6)


class Scaled(torch.nn.Module):
    """Computes its weight, of others."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(128, 128, 1, 1))
        self.gain = torch.nn.Parameter(torch.ones(128, 1, 1, 1))

    def forward(self, cube: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.nn.functional.conv2d(cube, self.weight * self.gain),)


class Neutral(torch.nn.Module):
    """Adds and scales by what changes nothing, and by what does."""

    def __init__(self) -> None:
        super().__init__()
        self.zeros = torch.nn.Parameter(torch.zeros(3, 1, 1))
        self.some = torch.nn.Parameter(torch.tensor([0.0, 1.0, 0.0])[:, None, None])

    def forward(self, cube: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kept = (cube - self.zeros) / torch.ones(()) - self.some
        wider = cube[:, :1].exp() + self.zeros  # three bands of one
        return kept.exp(), wider.exp()


def test_sums_and_products_that_change_nothing_are_dropped() -> None:
    method: Any = SimpleNamespace(
        folded_graph=Neutral, outputs=("a", "b"), receptive_field=1
    )
    proto = tracing.trace(method, 3)
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("Sub") == 1
    assert "Div" not in kinds
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    cube = np.random.default_rng(0).random((2, 3, 5, 6), dtype=np.float32)
    expected = Neutral()(torch.from_numpy(cube))
    for found, wanted in zip(session.run(None, {"cube": cube}), expected, strict=True):
        np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-6)


def test_weights_are_computed_before_not_in_every_run() -> None:
    method: Any = SimpleNamespace(
        folded_graph=Scaled, outputs=("probabilities",), receptive_field=1
    )
    proto = tracing.trace(method, 128)
    assert [node.op_type for node in proto.graph.node] == ["Conv"]
    assert [list(t.dims) for t in proto.graph.initializer] == [[128, 128, 1, 1]]

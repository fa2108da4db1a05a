"""The graph with two outputs, as S2VNet gives it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from once import Once

from hsi_export import tracing
from hsi_train import methods
from hsi_train.method import BaseMethod, Batch, Problem

BANDS, CLASSES, SIDE = 9, 4, 11


def spectra(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return 1000 + 300 * torch.randn(*shape, generator=generator)


@pytest.fixture(scope="module")
def method() -> BaseMethod:
    torch.manual_seed(0)
    problem = Problem(
        band_mean=torch.full((BANDS,), 1000.0),
        band_std=torch.full((BANDS,), 300.0),
        class_counts=torch.full((CLASSES,), 10),
        class_means=spectra(CLASSES, BANDS).abs(),
        top=torch.tensor(2000.0),
    )
    built = methods.build("s2vnet", problem, {})
    optimizer = torch.optim.AdamW(built.parameters(), lr=1e-2)
    batch = Batch(spectra(8, BANDS, 12, 12), torch.arange(32).reshape(8, 2, 2) % 4)
    for _ in range(3):
        for loss in built.losses(batch):
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return built.eval()


@pytest.fixture(scope="module")
def proto(method: BaseMethod, once: Once) -> Any:
    def fill(folder: Path) -> None:
        onnx.save(tracing.trace(method, BANDS), folder / "graph.onnx")

    return onnx.load(once("unmixing", fill) / "graph.onnx")


def test_both_outputs_answer_like_torch(method: BaseMethod, proto: Any) -> None:
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    assert names == ["probabilities", "abundances"]
    reference = method.inference_graph().eval()
    for batch, rows, cols in ((1, 0, 0), (3, 7, 50), (2, 61, 3)):
        cube = spectra(batch, BANDS, SIDE + rows, SIDE + cols)
        with torch.inference_mode():
            expected = reference(cube)
        found = session.run(None, {"cube": cube.numpy()})
        for ours, theirs in zip(expected, found, strict=True):
            assert theirs.shape == (batch, CLASSES, rows + 1, cols + 1)
            np.testing.assert_allclose(theirs, ours.numpy(), atol=4e-6)
        again = session.run(None, {"cube": cube.numpy()})
        assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))


def test_only_inference_is_left(method: BaseMethod, proto: Any) -> None:
    operators = {node.op_type for node in proto.graph.node}
    assert not {o for o in operators if "Random" in o or o == "BatchNormalization"}
    stored = sum(int(np.prod(t.dims)) for t in proto.graph.initializer)
    exported = sum(p.numel() for p in method.network.parameters())
    # Head indicators and decay take 312 numbers; shapes and endmembers' constants few.
    assert stored < exported + 500


def test_tensors_have_five_axes_at_most(proto: Any) -> None:
    """The fifth is a head's features; engines of edge devices know no patches."""
    ranks = [
        len(value.type.tensor_type.shape.dim)
        for value in (*proto.graph.value_info, *proto.graph.output)
    ]
    assert len(ranks) > 100
    assert max(ranks) <= 5

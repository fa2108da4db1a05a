from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from described import described
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from hsi_export import compact
from hsi_export.exporting import COMPACT, export
from hsi_runtime.errors import OptionError, VerificationError
from hsi_train import methods
from hsi_train.method import Problem
from hsi_train.run_folder import checkpoint

CHANNELS, DIMENSIONS = 96, 8
RANDOM = np.random.default_rng(0)
BASIS = RANDOM.normal(size=(DIMENSIONS, CHANNELS))


def cube(side: int, seed: int) -> NDArray[np.float32]:
    """Draw spectra of few dimensions, round a mean that is none of them."""
    draws = np.random.default_rng(seed).normal(size=(side, side, DIMENSIONS))
    spectra = 5 + np.sin(np.arange(CHANNELS)) + draws @ BASIS
    return spectra.transpose(2, 0, 1)[None].astype(np.float32)


def weights(outputs: int, side: int, size: float) -> NDArray[np.float32]:
    drawn = RANDOM.normal(0, size, (outputs, CHANNELS, side, side))
    return drawn.astype(np.float32)


def graph(first: str = "first", channels: int = CHANNELS, pads: int = 0) -> Any:
    """Two layers of very different size that read the cube, and one after them."""
    kernels = {first: weights(40, 3, 100.0), "second": weights(40, 1, 0.01)}
    constants = {
        **{name: kernel[:, :channels] for name, kernel in kernels.items()},
        "bias": RANDOM.normal(size=40).astype(np.float32),
        "last": RANDOM.normal(size=(3, 40, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["cube", first, "bias"], ["a"], pads=[pads] * 4),
        helper.make_node("Conv", ["cube", "second"], ["b"]),
        helper.make_node("Conv", ["a", "last"], ["one"]),
        helper.make_node("Conv", ["b", "last"], ["two"]),
    ]
    for node in nodes:
        node.name = node.output[0]
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "test",
        [value("cube", TensorProto.FLOAT, ["n", channels, "h", "w"])],
        [value(n, TensorProto.FLOAT, ["n", 3, None, None]) for n in ("one", "two")],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    opset = helper.make_opsetid("", 20)
    return helper.make_model(made, opset_imports=[opset], ir_version=10)


def evaluate(proto: Any, seen: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    answers: Any = ReferenceEvaluator(proto).run(None, {"cube": seen})
    return list(answers)


def test_layers_share_a_projection_that_loses_nothing_of_such_spectra() -> None:
    proto = graph()
    before = proto.SerializeToString()
    smaller, shared = compact.share_projections(proto, [cube(30, 1)])
    assert proto.SerializeToString() == before
    assert [(s.source, s.layers, s.channels) for s in shared] == [
        ("cube", ["first", "second"], CHANNELS)
    ]
    assert DIMENSIONS <= shared[0].rank < CHANNELS / 2
    seen = cube(9, 2)  # others than those that were looked at
    for exact, near in zip(evaluate(proto, seen), evaluate(smaller, seen), strict=True):
        assert np.abs(near - exact).max() < 0.02 * exact.std()
    products = sum(np.prod(t.dims) for t in smaller.graph.initializer)
    assert products < 0.6 * sum(np.prod(t.dims) for t in proto.graph.initializer)


@pytest.mark.parametrize(
    "left",
    [
        graph(channels=16),
        graph("path.bands_weight"),
        graph(pads=1),
    ],
    ids=["few channels", "linear path", "padding"],
)
def test_what_would_not_pay_or_be_exact_is_left(left: Any) -> None:
    channels = left.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    smaller, shared = compact.share_projections(left, [cube(30, 1)[:, :channels]])
    named = [name for one in shared for name in one.layers]
    assert set(named) <= {"second"}
    assert "path.bands_weight" not in named
    for exact, near in zip(
        evaluate(left, cube(9, 2)[:, :channels]),
        evaluate(smaller, cube(9, 2)[:, :channels]),
        strict=True,
    ):
        assert np.abs(near - exact).max() < 0.02 * exact.std()


def test_spectra_of_any_direction_are_not_projected() -> None:
    noise = RANDOM.normal(size=(1, CHANNELS, 40, 40)).astype(np.float32)
    proto = graph()
    smaller, shared = compact.share_projections(proto, [noise])
    assert not shared
    assert smaller.SerializeToString() == proto.SerializeToString()


def test_mixtures_lie_between_the_classes_at_any_brightness() -> None:
    means = np.array([[1.0, 2, 3], [4, 4, 4]])
    mixed = compact.mixtures(means, 12)
    assert mixed.shape == (1, 3, 12, 12)
    low, high = compact.BRIGHTNESS
    assert (mixed[0, 0] >= low).all()
    assert (mixed[0, 0] <= 4 * high).all()
    assert (mixed == compact.mixtures(means, 12)).all()


def wide_run(folder: Path, bands: int) -> None:
    """Write an untrained S2VNet whose sample has smooth spectra."""
    torch.manual_seed(0)
    random = np.random.default_rng(3)
    curves = np.cos(np.outer(np.arange(6), np.linspace(0, 3, bands)))
    means = torch.from_numpy(1000 + 100 * random.normal(size=(4, 6)) @ curves)
    known = Problem(
        band_mean=means.mean(dim=0),
        band_std=torch.full((bands,), 120.0, dtype=torch.float64),
        class_counts=torch.full((4,), 10),
        class_means=means,
        top=2 * means.max(),
    )
    method = methods.build("s2vnet", known, {}).eval()
    side = method.receptive_field + 20
    sample = 1000 + 100 * random.normal(size=(side, side, 6)) @ curves
    stored = np.rint(sample.transpose(2, 0, 1)).astype(np.int16)
    text = described("s2vnet", {}, bands=bands, classes=4, dtype="int16")
    checkpoint.save(folder, method, text, stored)


def test_export_proves_the_smaller_graph(tmp_path: Path) -> None:
    wide_run(tmp_path, 200)
    result = export(tmp_path, tmp_path / "model.compact.onnx", compact=True)
    (shared,) = result["shared"]
    assert shared["channels"] == 200
    assert len(shared["layers"]) == 2
    parity = result["parity"]
    assert 1e-7 < parity["max_abs_difference"] <= COMPACT.max_abs_difference
    assert parity["equal_class_share"] >= COMPACT.equal_class_share
    both = tmp_path / "model.compact.fp16.onnx"
    halved = export(tmp_path, both, fp16=True, compact=True)
    assert halved["precision"] == "fp16"
    names = {t.name for t in onnx.load(both).graph.initializer}
    assert any("_of_shared" in name for name in names)


def test_a_projection_that_changes_the_map_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide_run(tmp_path, 200)
    monkeypatch.setattr(compact, "LOST", 0.5)
    monkeypatch.setattr(compact, "RANKS", (1,))
    with pytest.raises(VerificationError, match="Parity failed"):
        export(tmp_path, tmp_path / "model.compact.onnx", compact=True)
    assert not (tmp_path / "model.compact.onnx").exists()


def test_a_network_without_such_layers_is_told(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no layers of this network read so many"):
        export(trained.run, tmp_path / "model.onnx", compact=True)
    assert not (tmp_path / "model.onnx").exists()

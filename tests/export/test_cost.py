from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hsi_export.cost import BYTES, SIDE, measure
from hsi_runtime.model.model_file import read_model


def graph_of(nodes: list[Any], weights: dict[str, Any], classes: int) -> Any:
    """Make a model of 4 bands; sizes of the images are left open."""
    shape: list[str | int] = ["batch", 4, "height", "width"]
    outputs: list[str | int] = ["batch", classes, "rows", "cols"]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("cube", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, outputs)],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


def kernel(to: int, of: int, side: int) -> Any:
    return np.zeros((to, of, side, side), dtype=np.float32)


def test_chain_holds_the_input_and_output_of_one_node() -> None:
    nodes = [
        helper.make_node("Conv", ["cube", "w1"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["bent"]),
        helper.make_node("Conv", ["bent", "w2"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    weights = {"w1": kernel(16, 4, 3), "w2": kernel(3, 16, 1)}
    inner = (SIDE - 2) ** 2
    # 4 bands and 16 maps; 16 and 16 (the largest); 16 and 3; 3 and 3.
    expected = BYTES * max(4 * SIDE**2 + 16 * inner, 32 * inner, 19 * inner) / SIDE**2
    found = measure(graph_of(nodes, weights, 3), 3)
    assert found.working_bytes == pytest.approx(expected)


def test_tensor_that_is_needed_later_stays() -> None:
    nodes = [
        helper.make_node("Conv", ["cube", "w1"], ["early"]),
        helper.make_node("Relu", ["early"], ["a"]),
        helper.make_node("Sigmoid", ["a"], ["b"]),
        helper.make_node("Add", ["b", "early"], ["sum"]),
        helper.make_node("Conv", ["sum", "w2"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    weights = {"w1": kernel(8, 4, 1), "w2": kernel(3, 8, 1)}
    # At the sigmoid: early, a and b.
    found = measure(graph_of(nodes, weights, 3), 1)
    assert found.working_bytes == pytest.approx(BYTES * 3 * 8)


def test_weights_are_not_counted() -> None:
    nodes = [
        helper.make_node("Conv", ["cube", "w1"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    small = graph_of(nodes, {"w1": kernel(3, 4, 1)}, 3)
    before = small.SerializeToString()
    assert measure(small, 1).working_bytes == pytest.approx(BYTES * (4 + 3))
    assert small.SerializeToString() == before  # the graph is left as it is


def test_exported_model_says_what_its_graph_holds(trained: Any) -> None:
    document = read_model(trained.model).document
    found = measure(onnx.load(trained.model), document.receptive_field)
    assert document.working_bytes == found.working_bytes
    assert document.macs_per_pixel == found.macs
    # The input is 30 bands; a network holds more than that and less than a thousand.
    assert 30 * BYTES < document.working_bytes < 1000 * 30 * BYTES


def test_layers_are_counted_with_their_context() -> None:
    nodes = [
        helper.make_node("Conv", ["cube", "w1"], ["wide"]),
        helper.make_node("Conv", ["wide", "w2"], ["deep"], group=8),
        helper.make_node("Transpose", ["deep"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["last", "w3"], ["product"]),
        helper.make_node("Transpose", ["product"], ["scores"], perm=[0, 3, 1, 2]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    weights = {
        "w1": kernel(8, 4, 3),
        "w2": kernel(8, 1, 5),
        "w3": np.zeros((8, 3), dtype=np.float32),
    }
    inner, outer = (SIDE - 6) ** 2, (SIDE - 2) ** 2
    expected = 8 * 4 * 9 * outer / inner + 8 * 25 + 8 * 3
    assert measure(graph_of(nodes, weights, 3), 7).macs == pytest.approx(expected)

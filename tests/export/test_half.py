from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from hsi_export import half

CUBE = np.random.default_rng(0).normal(0, 1, (2, 4, 6, 5)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).normal(0, 0.5, (4, 4, 1, 1)).astype(np.float32)


def model(nodes: list[Any], **constants: Any) -> Any:
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4, "h", "w"])
        for name in ("cube", "out")
    ]
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "test", ends[:1], ends[1:], tensors)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )


def evaluate(proto: Any) -> Any:
    outputs: Any = ReferenceEvaluator(proto).run(None, {"cube": CUBE})
    return outputs[0]


def chain() -> Any:
    return model(
        [
            helper.make_node("Mul", ["cube", "two"], ["a"], "first"),
            helper.make_node("Conv", ["a", "weights"], ["b"], "second"),
            helper.make_node("Relu", ["b"], ["c"], "third"),
            helper.make_node("Conv", ["c", "weights"], ["out"], "fourth"),
        ],
        two=np.float32(2),
        weights=WEIGHTS,
    )


@pytest.mark.parametrize(
    "kept", [[], ["first"], ["first", "third"], ["second"], ["fourth"]]
)
def test_result_is_that_of_float32_but_for_rounding(kept: list[str]) -> None:
    proto = chain()
    before = proto.SerializeToString()
    found = half.rewrite(proto, kept)
    assert proto.SerializeToString() == before
    answer = evaluate(found)
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, evaluate(proto), atol=0.02)
    assert np.abs(answer - evaluate(proto)).max() > 1e-5  # it was rounded


def test_all_kept_is_the_graph_itself() -> None:
    proto = chain()
    found = half.rewrite(proto, ["first", "second", "third", "fourth"])
    assert [n.op_type for n in found.graph.node] == ["Mul", "Conv", "Relu", "Conv"]
    np.testing.assert_array_equal(evaluate(found), evaluate(proto))


def test_nothing_is_rounded_on_the_way_to_a_kept_node() -> None:
    found = half.rewrite(chain(), ["first"])
    first = found.graph.node[0]
    assert (first.op_type, first.input[0]) == ("Mul", "cube")
    casts = [n for n in found.graph.node if n.op_type == "Cast"]
    assert [c.input[0] for c in casts] == ["a", "out_half"]


def test_neighbours_of_one_precision_need_no_cast() -> None:
    found = half.rewrite(chain(), ["first", "second"])
    assert [n.op_type for n in found.graph.node] == [
        *("Mul", "Conv", "Cast", "Relu", "Conv", "Cast")
    ]


def test_constants_are_stored_as_they_are_read() -> None:
    def stored(kept: list[str]) -> dict[str, int]:
        tensors = half.rewrite(chain(), kept).graph.initializer
        return {t.name: t.data_type for t in tensors if "weights" in t.name}

    both = {"weights": TensorProto.FLOAT, "weights_half": TensorProto.FLOAT16}
    assert stored(["second"]) == both
    assert stored(["second", "fourth"]) == {"weights": TensorProto.FLOAT}
    assert stored([]) == {"weights_half": TensorProto.FLOAT16}


def test_a_value_that_two_nodes_read_is_cast_once() -> None:
    proto = model(
        [
            helper.make_node("Relu", ["cube"], ["a"], "left"),
            helper.make_node("Neg", ["cube"], ["b"], "right"),
            helper.make_node("Add", ["a", "b"], ["out"], "sum"),
        ]
    )
    found = half.rewrite(proto, [])
    casts = [n for n in found.graph.node if n.op_type == "Cast"]
    assert [c.input[0] for c in casts] == ["cube", "out_half"]
    np.testing.assert_allclose(evaluate(found), evaluate(proto), atol=0.01)


def test_whole_numbers_and_shapes_stay_what_they_are() -> None:
    proto = model(
        [
            helper.make_node("Relu", ["cube"], ["a"], "relu"),
            helper.make_node("Shape", ["a"], ["shape"], "shape"),
            helper.make_node("Reshape", ["a", "flat"], ["line"], "line"),
            helper.make_node("Reshape", ["line", "shape"], ["out"], "back"),
        ],
        flat=np.array([-1]),
    )
    found = half.rewrite(proto, [])
    kinds = {t.name: t.data_type for t in found.graph.initializer}
    assert kinds == {"flat": TensorProto.INT64}
    assert [n.op_type for n in found.graph.node].count("Cast") == 2
    np.testing.assert_allclose(evaluate(found), evaluate(proto), atol=0.01)


def test_result_is_a_valid_model() -> None:
    onnx.checker.check_model(half.rewrite(chain(), ["third"]), full_check=True)

"""Graphs that are refused before an engine sees them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hsi_runtime.engines.opening import open_backend
from hsi_runtime.errors import ModelFileError
from hsi_runtime.model import graph_check
from hsi_runtime.model.model_file import ModelFile, read_model

Change = Callable[[Any], None]
WEIGHTS = np.zeros((3, 4, 5, 5), np.float32)


@pytest.fixture(scope="module")
def model(
    write_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> ModelFile:
    return read_model(write_model(tmp_path_factory.mktemp("model") / "model.onnx"))


def altered(model: ModelFile, change: Change) -> ModelFile:
    proto = onnx.load_from_string(model.onnx)
    change(proto)
    return ModelFile(model.path, model.document, proto.SerializeToString(), "")


def outside(location: str) -> Any:
    tensor = numpy_helper.from_array(WEIGHTS, "weights")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return tensor


def external_weights(location: str) -> Change:
    def change(proto: Any) -> None:
        proto.graph.initializer[0].CopyFrom(outside(location))

    return change


def only_marked_as_external(proto: Any) -> None:
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL


def external_constant(proto: Any) -> None:
    node = helper.make_node("Constant", [], ["unused"], value=outside("weights.bin"))
    proto.graph.node.append(node)


def branch(inner: Any) -> Any:
    """Put nodes into a graph inside a node."""
    body = helper.make_graph(
        inner, "body", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, [])]
    )
    return helper.make_node("If", ["cond"], ["y"], then_branch=body, else_branch=body)


def external_in_a_branch(proto: Any) -> None:
    constant = helper.make_node("Constant", [], ["x"], value=outside("weights.bin"))
    proto.graph.node.append(branch([constant]))


def foreign_operator(proto: Any) -> None:
    proto.graph.node[1].domain = "com.example"


def foreign_operator_in_a_branch(proto: Any) -> None:
    call = helper.make_node("Run", [], ["x"], domain="com.example")
    proto.graph.node.append(branch([call]))


def foreign_operator_set(proto: Any) -> None:
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def own_function(proto: Any) -> None:
    one = helper.make_node("Identity", ["a"], ["b"])
    opset = [helper.make_opsetid("", 20)]
    proto.functions.append(
        helper.make_function("", "Softmax", ["a"], ["b"], [one], opset)
    )


def sparse_weights(proto: Any) -> None:
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    sparse = helper.make_sparse_tensor(values, places, [10**9])
    proto.graph.sparse_initializer.append(sparse)


def nested_deeply(proto: Any) -> None:
    node = helper.make_node("Constant", [], ["x"], value_float=1.0)
    for _ in range(graph_check.MAX_DEPTH + 2):
        node = branch([node])
    proto.graph.node.append(node)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external_weights("weights.bin"), "weights 'weights' are in another file"),
        (external_weights("../weights.bin"), "in another file"),
        (external_weights("/etc/passwd"), "in another file"),
        (only_marked_as_external, "in another file"),
        (external_constant, "in another file"),
        (external_in_a_branch, "in another file"),
        (foreign_operator, "operator Softmax of 'com.example'"),
        (foreign_operator_in_a_branch, "operator Run of 'com.example'"),
        (foreign_operator_set, "operators of 'com.microsoft'"),
        (own_function, "functions or training of its own"),
        (sparse_weights, "sparse weights"),
        (nested_deeply, "nested more than 8 deep"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_graphs_that_no_engine_may_see(
    device: str,
    change: Change,
    message: str,
    model: ModelFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(WEIGHTS.tobytes())
    with pytest.raises(ModelFileError, match=message) as error:
        open_backend(altered(model, change), device)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 4


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_weights_behind_a_link_are_not_opened(
    link: Callable[[Path, Path], None],
    model: ModelFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "secret"
    secret.write_bytes(WEIGHTS.tobytes())
    link(secret, tmp_path / "weights.bin")
    with pytest.raises(ModelFileError, match="in another file"):
        open_backend(altered(model, external_weights("weights.bin")))


def wrong_rank(proto: Any) -> None:
    del proto.graph.output[0].type.tensor_type.shape.dim[3]


def wrong_type(proto: Any) -> None:
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def no_outputs(proto: Any) -> None:
    del proto.graph.output[:]


def no_type(proto: Any) -> None:
    proto.graph.input[0].ClearField("type")


@pytest.mark.parametrize("change", [wrong_rank, wrong_type, no_outputs, no_type])
def test_graph_that_does_not_keep_the_promise(change: Change, model: ModelFile) -> None:
    with pytest.raises(ModelFileError, match=r"its document promises '.*' with [34]"):
        graph_check.check(altered(model, change))


def test_ordinary_graph_passes(model: ModelFile) -> None:
    graph_check.check(model)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_torn_graph_is_refused_in_a_sentence(share: float, model: ModelFile) -> None:
    torn = model.onnx[: int(len(model.onnx) * share)]
    with pytest.raises(ModelFileError):
        graph_check.check(ModelFile(model.path, model.document, torn, ""))

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from once import Once
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from hsi_export import exporting, parity, precision, tracing
from hsi_export.cli import main
from hsi_export.exporting import FP16
from hsi_export.parity import Limits
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.engines.openvino_cpu import OpenvinoCpu
from hsi_runtime.errors import EngineError, VerificationError
from hsi_runtime.model.model_file import read_model
from hsi_train.run_folder import checkpoint

BANDS, CLASSES, FIELD = 4, 3, 3


def network(first: float = 1.0, second: float = 1.0) -> Any:
    """Standardise, 3x3 layer, rectifier, 1x1 layer, softmax; with given gains."""
    random = np.random.default_rng(0)
    weights = {
        "mean": np.full((BANDS, 1, 1), 5000.0),
        "inverse": np.full((BANDS, 1, 1), 1 / 300),
        "w1": first * random.normal(0, 0.2, (8, BANDS, FIELD, FIELD)),
        "w2": second * random.normal(0, 0.5, (CLASSES, 8, 1, 1)),
    }
    nodes = [
        helper.make_node("Sub", ["cube", "mean"], ["centred"], "centre"),
        helper.make_node("Mul", ["centred", "inverse"], ["scaled"], "scale"),
        helper.make_node("Conv", ["scaled", "w1"], ["a"], "layer_one"),
        helper.make_node("Relu", ["a"], ["b"], "rectify"),
        helper.make_node("Conv", ["b", "w2"], ["scores"], "layer_two"),
        helper.make_node("Softmax", ["scores"], ["probabilities"], "shares", axis=1),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", count, "h", "w"])
        for name, count in (("cube", BANDS), ("probabilities", CLASSES))
    ]
    described = helper.make_graph(
        nodes, "test", ends[:1], ends[1:],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(described, opset_imports=opset, ir_version=10)


def windows(spread: float = 300.0) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(1)
    values = 5000 + spread * random.standard_normal((1, BANDS, 9, 11))
    return [np.rint(values).astype(np.float32)]


def check(half: precision.Half, cube: NDArray[np.float32], proto: Any) -> None:
    """Compare with what the graph gives in float32."""
    expected: Any = ReferenceEvaluator(proto).run(None, {"cube": cube})
    precision.check_in_half_arithmetic(half, cube, expected, 0.02)


def kinds(proto: Any) -> dict[str, int]:
    """Element type of the first output of every named node."""
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.value_info}
    types |= {v.name: v.type.tensor_type.elem_type for v in inferred.output}
    return {n.name: types.get(n.output[0], 0) for n in inferred.node}


def test_ordinary_values_become_half_and_the_ends_stay() -> None:
    proto = network()
    before = proto.SerializeToString()
    half = precision.convert(proto, windows())
    assert proto.SerializeToString() == before
    onnx.checker.check_model(half.proto, full_check=True)
    found = kinds(half.proto)
    assert found["layer_one"] == found["layer_two"] == TensorProto.FLOAT16
    assert found["centre"] == found["scale"] == TensorProto.FLOAT
    assert half.kept == ["centre", "scale"]
    assert 1 < half.largest < 100
    for end in (*half.proto.graph.input, *half.proto.graph.output):
        assert end.type.tensor_type.elem_type == TensorProto.FLOAT
    check(half, windows()[0], proto)


def test_layer_on_stored_values_stays_in_float32() -> None:
    proto = network()
    nodes = [n for n in proto.graph.node if n.name not in ("centre", "scale")]
    nodes[0].input[0] = "cube"
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer[2].CopyFrom(
        numpy_helper.from_array(
            numpy_helper.to_array(proto.graph.initializer[2]) / 5000, "w1"
        )
    )
    half = precision.convert(proto, windows())
    assert half.kept == ["layer_one"]
    assert kinds(half.proto)["layer_two"] == TensorProto.FLOAT16


def test_factor_does_not_make_stored_values_fit_for_half_precision() -> None:
    proto = network()
    (scale,) = (n for n in proto.graph.node if n.name == "scale")
    nodes = [n for n in proto.graph.node if n.name != "centre"]
    scale.input[0] = "cube"
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    half = precision.convert(proto, windows())
    assert half.kept == ["layer_one", "scale"]
    assert kinds(half.proto)["layer_two"] == TensorProto.FLOAT16


def test_node_near_the_limit_is_kept_in_float32() -> None:
    gain = 1.0
    reached = precision.convert(network(), windows()).largest
    while not 33_000 < gain * reached < 65_000:
        gain *= 1.3
    proto = network(first=gain, second=1e-5)
    half = precision.convert(proto, windows())
    assert {"layer_one"} <= set(half.kept)
    assert kinds(half.proto)["layer_one"] == TensorProto.FLOAT
    assert kinds(half.proto)["layer_two"] == TensorProto.FLOAT16
    check(half, windows()[0], proto)


@pytest.mark.parametrize(
    ("gains", "node"), [((1e6, 1e-6), "layer_one"), ((1.0, 1e6), "layer_two")]
)
def test_overflow_is_named(gains: tuple[float, float], node: str) -> None:
    with pytest.raises(VerificationError, match=rf"^Conv {node} reaches .*--fp16"):
        precision.convert(network(*gains), windows())


def test_true_half_arithmetic_shows_what_the_engine_hides() -> None:
    quiet, loud = windows(1.0), windows(30_000.0)[0]
    proto = network(first=3000.0, second=1e-3)
    half = precision.convert(proto, quiet)
    check(half, quiet[0], proto)
    with pytest.raises(VerificationError, match="overflows in half arithmetic"):
        check(half, loud, proto)


def test_true_half_arithmetic_shows_what_is_rounded_away() -> None:
    half = precision.convert(network(), windows())
    other = network(second=1.5)
    with pytest.raises(
        VerificationError, match=r"differ by up to .* \(accepted 2e-02\)"
    ):
        check(half, windows()[0], other)


def test_a_value_that_is_no_number_is_an_overflow() -> None:
    broken = windows()
    broken[0][0, 0, 4, 4] = np.nan
    with pytest.raises(VerificationError, match="Conv layer_one reaches nan"):
        precision.convert(network(), broken)


@pytest.fixture(scope="module")
def run(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copied = tmp_path_factory.mktemp("half") / "run"
    copied.mkdir()
    source = trained.run / checkpoint.FILE_NAME
    (copied / source.name).write_bytes(source.read_bytes())
    return copied


@pytest.fixture
def traced_once(trained: Any, once: Once, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trace the form of the network for half precision once: it takes long."""

    def fill(folder: Path) -> None:
        loaded = checkpoint.load(trained.run)
        bands = len(loaded.description.bands.used)
        proto = tracing.trace(loaded.method, bands, folded=False)
        onnx.save(proto, folder / "graph.onnx")

    graph = once("half", fill) / "graph.onnx"

    def traced(method: Any, bands: int, folded: bool = True) -> Any:
        assert not folded
        return onnx.load(graph)

    monkeypatch.setattr(tracing, "trace", traced)
    return graph


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("proved", [False, True])
def test_export_in_half_precision(
    proved: bool, run: Path, trained: Any, invoke: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Random filters leave more pixels undecided than training does.
    limits = Limits(FP16.max_abs_difference, 0.99)
    monkeypatch.setattr(exporting, "FP16", limits)
    monkeypatch.setattr(exporting, "_passes_in_bfloat16", lambda *_: proved)
    code, out, err = invoke(main, run, "--fp16", "--json", "-q", "--overwrite")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["output"] == str(run / "model.fp16.onnx")
    assert found["precision"] == "fp16"
    assert found["kept_fp32"]
    assert found["parity"]["equal_class_share"] >= limits.equal_class_share
    assert 0 < found["parity"]["max_abs_difference"] <= FP16.max_abs_difference
    model = read_model(run / "model.fp16.onnx")
    assert model.document.precision == "fp16"
    assert model.proved_in_bfloat16 == found["bfloat16"] == proved
    whole = read_model(trained.model)
    assert len(model.onnx) < 0.8 * len(whole.onnx)
    loaded = checkpoint.load(run)
    cube = parity.windows_of(loaded.sample, model.document.receptive_field)[-1]
    expected = open_backend(whole).predict(cube)["probabilities"]
    answer = open_backend(model).predict(cube)["probabilities"]
    assert answer.dtype == np.float32
    same = answer.argmax(axis=1) == expected.argmax(axis=1)
    assert same.mean() >= limits.equal_class_share


def test_bfloat16_passes_by_the_limits_of_half_precision(
    trained: Any,
    monkeypatch: pytest.MonkeyPatch,
    need_engine: Callable[[str], None],
) -> None:
    need_engine("openvino")
    model, loaded = read_model(trained.model), checkpoint.load(trained.run)
    try:
        OpenvinoCpu(model, 1, bfloat16=True)
    except EngineError:
        assert not exporting._passes_in_bfloat16(model, loaded)
        return
    for limits, passes in ((Limits(0.5, 0.5), True), (Limits(1e-5, 0.5), False)):
        monkeypatch.setattr(exporting, "FP16", limits)
        assert exporting._passes_in_bfloat16(model, loaded) == passes


def test_command_names_the_operator_that_overflows(
    run: Path,
    traced_once: Path,
    invoke: Any,
    digests: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def loud(*_: Any, **__: Any) -> Any:
        proto = onnx.load(traced_once)
        for tensor in proto.graph.initializer:
            if len(tensor.dims) == 4:  # the head's layers
                raised = numpy_helper.to_array(tensor) * np.float32(1e7)
                tensor.CopyFrom(numpy_helper.from_array(raised, tensor.name))
        return proto

    monkeypatch.setattr(tracing, "trace", loud)
    before = digests(run)
    code, out, err = invoke(main, run, "--fp16", "--overwrite")
    assert (code, out) == (7, "")
    assert "Conv node_" in err
    assert "half precision ends at 65504" in err
    assert digests(run) == before

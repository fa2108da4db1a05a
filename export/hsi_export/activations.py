"""Runs a graph and returns the values of the tensors inside it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime  # noqa: TID251 - a measuring instrument, not an engine for scenes
from numpy.typing import NDArray

from hsi_runtime.model.model_file import INPUT_NAME

Activations = dict[str, NDArray[Any]]


def open_activations(proto: Any) -> Callable[[NDArray[np.float32]], Activations]:
    """Return a function from a cube to all float tensors that nodes make, by name.

    Args:
        proto: Graph in float32; not changed.
    """
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    inferred = onnx.shape_inference.infer_shapes(exposed).graph
    values = (*inferred.value_info, *inferred.output)
    float_type = onnx.TensorProto.FLOAT
    floats = {v.name for v in values if v.type.tensor_type.elem_type == float_type}
    names = [n for node in inferred.node for n in node.output if n in floats]
    outputs = {output.name for output in exposed.graph.output}
    exposed.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in names
        if name not in outputs
    )
    options = onnxruntime.SessionOptions()
    # A fused node would have no inner tensors to look at.
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        exposed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(cube: NDArray[np.float32]) -> Activations:
        tensors = session.run(names, {INPUT_NAME: cube})
        return dict(zip(names, tensors, strict=True))

    return run

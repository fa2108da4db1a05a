"""Runs a graph and shows the tensors inside it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime  # noqa: TID251 - no engine for scenes, an instrument
from numpy.typing import NDArray

from hsi_runtime.model.model_file import INPUT_NAME

Inside = dict[str, NDArray[Any]]


def open_probe(proto: Any) -> Callable[[NDArray[np.float32]], Inside]:
    """Return a function from a cube to all float tensors that nodes make, by name.

    Args:
        proto: In float32; not changed.
    """
    probed = onnx.ModelProto()
    probed.CopyFrom(proto)
    inferred = onnx.shape_inference.infer_shapes(probed).graph
    values = (*inferred.value_info, *inferred.output)
    float_type = onnx.TensorProto.FLOAT
    floats = {v.name for v in values if v.type.tensor_type.elem_type == float_type}
    names = [n for node in inferred.node for n in node.output if n in floats]
    outputs = {output.name for output in probed.graph.output}
    probed.graph.output.extend(
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
        probed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def look(cube: NDArray[np.float32]) -> Inside:
        found = session.run(names, {INPUT_NAME: cube})
        return dict(zip(names, found, strict=True))

    return look

"""Traces the inference graph of a method into ONNX."""

import logging
import warnings
from typing import Any

import onnx
import onnx_ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from hsi_runtime.model_file import INPUT_NAME
from hsi_train.method import BaseMethod

OPSET = 20  # newer ones fuse attention in a way that TensorRT-RTX refuses


def trace(method: BaseMethod, bands: int) -> Any:
    """Export the network, and only it, with free batch, height and width.

    Args:
        method: In evaluation mode, on the CPU.
        bands: Bands of the input.

    Returns:
        A checked ``onnx.ModelProto`` without paths of this machine.
    """
    graph = method.folded_graph().eval()
    side = method.receptive_field
    # Unequal, odd sizes: nothing of the example may end up in the graph.
    example = torch.zeros(2, bands, side + 4, side + 10)
    # torch warns of its own internals, and that torchvision is not there.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=list(method.outputs),
            dynamic_shapes={"cube": {0: "batch", 2: "height", 3: "width"}},
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model
    # Nodes carry stack traces with absolute paths.
    ClearMetadataAndDocStringPass()(model)
    proto = onnx_ir.to_proto(model)
    del proto.metadata_props[:]
    onnx.checker.check_model(proto, full_check=True)
    return proto

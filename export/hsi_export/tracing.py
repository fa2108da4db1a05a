"""Traces the inference graph of a method into ONNX."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import onnx
import onnx_ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxscript.optimizer import fold_constants

from hsi_export.linear_path import fold_paths
from hsi_runtime.model.model_file import INPUT_NAME
from hsi_train.method import BaseMethod

OPSET = 20  # newer ones fuse attention in a way that TensorRT-RTX refuses
STARTS, ENDS, AXES, STEPS = range(1, 5)  # input numbers of a Slice node
NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}  # as the second of two values
LARGEST_WEIGHT = 1 << 28  # values; torch leaves larger than 8,192 for run time


def trace(method: BaseMethod, bands: int, folded: bool = True) -> Any:
    """Export the network, and only it, with free batch, height and width.

    Args:
        method: Trained method in evaluation mode, on the CPU.
        bands: Number of bands of the input.
        folded: Use the form that runs fastest in float32. Not for half precision: a
            layer that reads stored values, as a folded one does, has to stay float32.

    Returns:
        A checked ``onnx.ModelProto`` without paths of this machine.
    """
    with torch.no_grad():  # folded constants are not trained
        graph = method.folded_graph() if folded else method.inference_graph()
        network = fold_paths(graph) if folded else graph
    model = to_onnx(network.eval(), method.outputs, method.receptive_field, bands)
    merge_slices(model.graph)
    fold_constants(
        model, input_size_limit=LARGEST_WEIGHT, output_size_limit=LARGEST_WEIGHT
    )
    drop_neutral(model.graph)
    proto = onnx_ir.to_proto(model)
    del proto.metadata_props[:]
    onnx.checker.check_model(proto, full_check=True)
    return proto


def to_onnx(
    graph: torch.nn.Module, outputs: Sequence[str], side: int, bands: int
) -> onnx_ir.Model:
    """Export a module with free batch, height and width, as torch writes it.

    Args:
        graph: Module from a cube to a tuple of outputs.
        outputs: Names of the outputs.
        side: Side of the smallest window, px.
        bands: Number of bands of the input.
    """
    # Unequal, odd sizes: nothing of the example may end up in the graph.
    example = torch.zeros(2, bands, side + 4, side + 10)
    # torch warns about its own internals, and that torchvision is missing.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=list(outputs),
            dynamic_shapes={"cube": {0: "batch", 2: "height", 3: "width"}},
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model
    # Nodes carry stack traces with absolute paths.
    ClearMetadataAndDocStringPass()(model)
    return model


def merge_slices(graph: onnx_ir.Graph) -> None:
    """Merge two slices into one where the first feeds only the second.

    torch exports a slice for every axis, and an engine copies the tensor for each.
    """
    for node in list(graph):
        if node.op_type != "Slice":
            continue
        first = node.inputs[0].producer() if node.inputs[0] else None
        if first is None or first.op_type != "Slice" or len(first.inputs) != 5:
            continue
        cut = first.outputs[0]
        if len(node.inputs) != 5 or len(cut.uses()) != 1 or cut.is_graph_output():
            continue
        axes = [_constant(n.inputs[AXES]) for n in (first, node)]
        if None in axes or set(axes[0] or ()) & set(axes[1] or ()):
            continue
        for number in (STARTS, ENDS, STEPS):
            both = [n.inputs[number] for n in (first, node)]
            concat = onnx_ir.node("Concat", both, {"axis": 0})
            graph.insert_before(node, concat)
            node.replace_input_with(number, concat.outputs[0])
        name = f"{node.outputs[0].name}_axes"
        joint = onnx_ir.tensor([*(axes[0] or ()), *(axes[1] or ())], name=name)
        constant = onnx_ir.Value(name=name, const_value=joint)
        graph.register_initializer(constant)  # so that a third slice can be merged
        node.replace_input_with(AXES, constant)
        node.replace_input_with(0, first.inputs[0])
        graph.remove(first, safe=True)


def drop_neutral(graph: onnx_ir.Graph) -> None:
    """Drop sums with zeros and products with ones: they cost time for nothing."""
    for node in list(graph):
        neutral = NEUTRAL.get(node.op_type)
        if neutral is None:
            continue
        (value, other), result = node.inputs, node.outputs[0]
        if value is None or other is None or value.shape != result.shape:
            continue
        numbers = onnx_ir.convenience.get_const_tensor(other)
        if numbers is None or (numbers.numpy() != neutral).any():
            continue
        if result.is_graph_output():
            continue
        onnx_ir.convenience.replace_all_uses_with(result, value)
        graph.remove(node, safe=True)


def _constant(value: onnx_ir.Value | None) -> tuple[int, ...] | None:
    tensor = None if value is None else onnx_ir.convenience.get_const_tensor(value)
    return None if tensor is None else tuple(tensor.numpy().flatten().tolist())

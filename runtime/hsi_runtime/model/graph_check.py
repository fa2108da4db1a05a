"""Checks what the graph of a model file holds, before any engine sees it.

A model file may come from anyone. Its graph may use the standard operators only, hold
all its weights itself, fill no memory with constants, run no loops, draw no random
numbers, and take and give what its document promises. Field numbers are those of
``onnx.proto``.
"""

import math

from hsi_runtime.errors import ModelFileError
from hsi_runtime.model.graph_sizes import Sizes
from hsi_runtime.model.model_file import INPUT_NAME, ModelFile
from hsi_runtime.model.protobuf import Reader, integers, messages, text

STANDARD = ("", "ai.onnx")  # names of the domain of ONNX's own operators
FLOAT = 1
MAX_DEPTH = 8  # of graphs within nodes within graphs
RANDOM = ("Bernoulli", "Multinomial")  # and all whose name begins with Random
LOOPS = ("Loop", "Scan", "SequenceMap")  # how often they run, a number may say

Described = dict[str, tuple[int, list[int]]]  # element type and sizes by name


def check(model: ModelFile) -> None:
    """Check the graph of a model file.

    Raises:
        ModelFileError: It holds what it may not, or not what its document promises.
    """
    reader = Reader()
    try:
        content = reader.fields(model.onnx)
        _check_operator_sets(reader, content)
        (graph,) = messages(content, 7)
        _check_graph(reader, graph, Sizes(reader), 0)
        _check_signature(reader, model, graph)
    except ValueError as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{model.path} is refused: {error}.") from error


def _check_operator_sets(
    reader: Reader, content: list[tuple[int, memoryview | int]]
) -> None:
    for entry in messages(content, 8):
        domain = text(reader.fields(entry), 1)
        if domain not in STANDARD:
            raise ValueError(
                f"it uses operators of {domain!r}; only ONNX's are allowed"
            )
    if messages(content, 25) or messages(content, 20):
        raise ValueError("it defines functions or training of its own")


def _check_graph(reader: Reader, graph: memoryview, sizes: Sizes, depth: int) -> None:
    """Check a graph and the graphs within its nodes.

    Args:
        reader: Of the file.
        graph: The message.
        sizes: What is known of the whole numbers that this graph can name.
        depth: Number of graphs around it.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"its graphs are nested more than {MAX_DEPTH} deep")
    content = reader.fields(graph)
    if messages(content, 15):
        raise ValueError("it holds sparse weights")
    for tensor in messages(content, 5):
        _check_tensor(reader, tensor)
        sizes.add_tensor(text(reader.fields(tensor), 8), tensor)
    for node in messages(content, 1):
        parts = reader.fields(node)
        operator, domain = text(parts, 4), text(parts, 7)
        if domain not in STANDARD:
            raise ValueError(
                f"it uses the operator {operator} of {domain!r}; only ONNX's own are "
                "allowed"
            )
        if operator in RANDOM or operator.startswith("Random"):
            raise ValueError(f"{operator} would give another map each time")
        if operator in LOOPS:
            raise ValueError(f"{operator} may run for ever")
        sizes.add_node(operator, parts)
        for attribute in messages(parts, 5):
            values = reader.fields(attribute)
            for tensor in (*messages(values, 5), *messages(values, 10)):
                _check_tensor(reader, tensor)
            for inner in (*messages(values, 6), *messages(values, 11)):
                _check_graph(reader, inner, sizes.inner(), depth + 1)
            if messages(values, 22) or messages(values, 23):
                raise ValueError("it holds sparse weights")


def _check_tensor(reader: Reader, tensor: memoryview) -> None:
    """Refuse weights in another file, whatever its path, or weights of no bytes."""
    content = reader.fields(tensor)
    elsewhere = [v for n, v in content if n == 14 and v != 0]
    if messages(content, 13) or elsewhere:
        raise ValueError(
            f"the weights {text(content, 8)!r} are in another file; a model is one file"
        )
    promised = math.prod(reader.repeated(content, 1))
    if promised > 2 * len(tensor):  # the smallest values take half a byte
        raise ValueError(
            f"the weights {text(content, 8)!r} promise {promised} values and hold "
            f"{len(tensor)} bytes"
        )


def _check_signature(reader: Reader, model: ModelFile, graph: memoryview) -> None:
    """Compare the graph's inputs and outputs with the document."""
    document, content = model.document, reader.fields(graph)
    bands, classes = len(document.bands.used), len(document.classes)
    inputs, outputs = (
        dict(_described(reader, value) for value in messages(content, number))
        for number in (11, 12)
    )
    promised = [(inputs, INPUT_NAME, bands)]
    promised += [(outputs, name, classes) for name in document.outputs]
    for values, name, channels in promised:
        kind, sizes = values.get(name, (0, []))
        if kind != FLOAT or len(sizes) != 4 or sizes[1] != channels:
            raise ModelFileError(
                f"{model.path}: the graph takes {_listed(inputs)} and gives "
                f"{_listed(outputs)}; its document promises {name!r} with {channels} "
                f"{'bands' if name == INPUT_NAME else 'classes'}."
            )
    if len(inputs) != 1:
        raise ModelFileError(
            f"{model.path}: the graph takes {_listed(inputs)}; expected {INPUT_NAME!r} "
            "alone."
        )


def _described(reader: Reader, value: memoryview) -> tuple[str, tuple[int, list[int]]]:
    """Read name, element type and sizes of an input or output; free sizes are 0."""
    content = reader.fields(value)
    kind, sizes = 0, []
    for type_ in messages(content, 2):
        for tensor in messages(reader.fields(type_), 1):
            parts = reader.fields(tensor)
            kind = next(iter(integers(parts, 1)), 0)
            for shape in messages(parts, 2):
                for dim in messages(reader.fields(shape), 1):
                    known = integers(reader.fields(dim), 1)
                    sizes.append(known[0] if known else 0)
    return text(content, 1), (kind, sizes)


def _listed(values: Described) -> str:
    return ", ".join(f"{name} {sizes}" for name, (_, sizes) in values.items()) or "none"

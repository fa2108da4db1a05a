"""Checks what the graph of a model file holds, before any engine sees it.

A model file may come from anyone. Its graph may use the standard operators only, hold
all its weights itself, fill no memory with constants, draw no random numbers, and take
and give what its document promises. Field numbers are those of ``onnx.proto``.
"""

import math

from hsi_runtime.errors import ModelFileError
from hsi_runtime.model.model_file import INPUT_NAME, ModelFile
from hsi_runtime.model.protobuf import fields, messages, repeated, text

STANDARD = ("", "ai.onnx")  # names of the domain of ONNX's own operators
FLOAT = 1
MAX_DEPTH = 8  # of graphs within nodes within graphs
# What one number in a file may blow up to, in values; a window has a few million.
MAX_VALUES = 2**28
# Operators whose result is as large as an input says, and which input.
SIZED_BY = {
    **{"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Pad": 1, "OneHot": 1},
    **{"Range": 1, "Resize": 3},
}
RANDOM = ("Bernoulli", "Multinomial")  # and all whose name begins with Random
MAX_RANK = 16  # axes of a tensor whose size is given by numbers
INTEGERS = {6: 4, 7: 8}  # bytes of INT32 and INT64


def check(model: ModelFile) -> None:
    """Check the graph of a model file.

    Raises:
        ModelFileError: It holds what it may not, or not what its document promises.
    """
    try:
        content = fields(model.onnx)
        _check_operator_sets(content)
        (graph,) = messages(content, 7)
        _check_graph(graph, 0)
        _check_signature(model, graph)
    except ValueError as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{model.path} is refused: {error}.") from error


def _check_operator_sets(content: list[tuple[int, memoryview | int]]) -> None:
    for entry in messages(content, 8):
        domain = text(fields(entry), 1)
        if domain not in STANDARD:
            raise ValueError(
                f"it uses operators of {domain!r}; only ONNX's are allowed"
            )
    if messages(content, 25) or messages(content, 20):
        raise ValueError("it defines functions or training of its own")


def _check_graph(graph: memoryview, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"its graphs are nested more than {MAX_DEPTH} deep")
    content = fields(graph)
    if messages(content, 15):
        raise ValueError("it holds sparse weights")
    sizes: dict[str, int] = {}  # product of each constant of whole numbers
    for tensor in messages(content, 5):
        _check_tensor(tensor)
        sizes[text(fields(tensor), 8)] = _product(tensor)
    for node in messages(content, 1):
        parts = fields(node)
        operator, domain = text(parts, 4), text(parts, 7)
        if domain not in STANDARD:
            raise ValueError(
                f"it uses the operator {operator} of {domain!r}; only ONNX's own are "
                "allowed"
            )
        if operator in RANDOM or operator.startswith("Random"):
            raise ValueError(f"{operator} would give another map each time")
        if operator == "Constant":
            for attribute in messages(parts, 5):
                for tensor in messages(fields(attribute), 5):
                    sizes[text(parts, 2)] = _product(tensor)
        if operator in SIZED_BY:
            _check_size(operator, messages(parts, 1), sizes)
        for attribute in messages(parts, 5):
            values = fields(attribute)
            for tensor in (*messages(values, 5), *messages(values, 10)):
                _check_tensor(tensor)
            for inner in (*messages(values, 6), *messages(values, 11)):
                _check_graph(inner, depth + 1)
            if messages(values, 22) or messages(values, 23):
                raise ValueError("it holds sparse weights")


def _check_tensor(tensor: memoryview) -> None:
    """Refuse weights in another file, whatever its path, or weights of no bytes."""
    content = fields(tensor)
    elsewhere = [v for n, v in content if n == 14 and v != 0]
    if messages(content, 13) or elsewhere:
        raise ValueError(
            f"the weights {text(content, 8)!r} are in another file; a model is one file"
        )
    promised = math.prod(repeated(content, 1))
    if promised > 2 * len(tensor):  # the smallest values take half a byte
        raise ValueError(
            f"the weights {text(content, 8)!r} promise {promised} values and hold "
            f"{len(tensor)} bytes"
        )


def _product(tensor: memoryview) -> int:
    """Multiply the positive numbers of a tensor; 1 where it holds no whole numbers."""
    content = fields(tensor)
    kind = next((v for n, v in content if n == 2 and isinstance(v, int)), 0)
    if kind not in INTEGERS:
        return 1
    size = INTEGERS[kind]
    numbers = [
        int.from_bytes(raw[at : at + size], "little", signed=True)
        for raw in messages(content, 9)
        for at in range(0, min(len(raw), MAX_RANK * size), size)
    ]
    for number in (5, 7):  # int32_data, int64_data
        numbers += repeated(content, number)
    return math.prod(n for n in numbers[:MAX_RANK] if n > 0)


def _check_size(operator: str, inputs: list[memoryview], sizes: dict[str, int]) -> None:
    """Refuse an operator that makes a huge tensor of a few bytes.

    Only sizes that stand in the file are seen; one that is computed is left to the
    engine.
    """
    place = SIZED_BY[operator]
    name = bytes(inputs[place]).decode() if place < len(inputs) else ""
    values = sizes.get(name, 1)
    if values > MAX_VALUES:
        raise ValueError(
            f"{operator} would make {values} values of one constant; at most "
            f"{MAX_VALUES} are allowed"
        )


def _check_signature(model: ModelFile, graph: memoryview) -> None:
    """Compare the graph's inputs and outputs with the document."""
    document, content = model.document, fields(graph)
    bands, classes = len(document.bands.used), len(document.classes)
    inputs, outputs = (
        dict(_described(value) for value in messages(content, number))
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


def _described(value: memoryview) -> tuple[str, tuple[int, list[int]]]:
    """Read name, element type and sizes of an input or output; free sizes are 0."""
    content = fields(value)
    kind, sizes = 0, []
    for type_ in messages(content, 2):
        for tensor in messages(fields(type_), 1):
            parts = fields(tensor)
            kind = next((v for n, v in parts if n == 1 and isinstance(v, int)), 0)
            for shape in messages(parts, 2):
                for dim in messages(fields(shape), 1):
                    known = [v for n, v in fields(dim) if n == 1 and isinstance(v, int)]
                    sizes.append(known[0] if known else 0)
    return text(content, 1), (kind, sizes)


def _listed(values: dict[str, tuple[int, list[int]]]) -> str:
    return ", ".join(f"{name} {sizes}" for name, (_, sizes) in values.items()) or "none"

"""Bounds the tensors that a graph makes out of a few numbers.

Some operators give a tensor as large as one of their inputs says. Such sizes must
stand in the file, or follow from the window by sums; what a graph computes otherwise
could be of any size, and is refused.
"""

import math
from typing import Any

from hsi_runtime.model.protobuf import Content, Reader, integers, messages, text

# What one operator may make, in values; a window has a few million.
MAX_VALUES = 2**28
LONGEST_AXIS = 2**15  # of a tensor that comes from a window
MAX_RANK = 16  # axes of a tensor whose size is given by numbers
# Operators whose result is as large as an input says, and which input.
SIZED_BY = {
    **{"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Pad": 1, "OneHot": 1},
    **{"Resize": 3, "Upsample": 1},
}
SCALES = {"Resize": 2}  # an input that multiplies sizes
# Operators whose whole numbers are no larger than those of their inputs, or than the
# sum of these.
SMALLER = {"Identity", "Squeeze", "Unsqueeze", "Gather", "Slice", "Concat", "Cast"}
SMALLER |= {"Reshape", "Div", "Mod", "Min", "Max"}
SUMS = {"Add", "Sub"}
FLOAT, INTEGERS = 1, {6: 4, 7: 8}  # element types; bytes of INT32 and INT64
SIZE_ATTRIBUTES = ("pads", "output_padding", "output_shape", "kernel_shape")


class Sizes:
    """What is known of the whole numbers of a graph, by the names of its tensors.

    Args:
        reader: Of the file.
        known: Numbers of constants, from the graph around.
        largest: Bounds of the absolute values of others, from the graph around.
    """

    def __init__(
        self,
        reader: Reader,
        known: dict[str, list[int]] | None = None,
        largest: dict[str, int] | None = None,
    ) -> None:
        self.reader = reader
        self.known = dict(known or {})
        self.largest = dict(largest or {})

    def inner(self) -> "Sizes":
        """Return what a graph within a node of this one knows."""
        return Sizes(self.reader, self.known, self.largest)

    def add_tensor(self, name: str, tensor: memoryview) -> None:
        """Note the whole numbers of a constant; other constants are no sizes."""
        content = self.reader.fields(tensor)
        kind = next(iter(integers(content, 2)), 0)
        if kind == FLOAT:
            self._note(name, [])
            return
        if kind not in INTEGERS:
            return
        size = INTEGERS[kind]
        numbers = [
            int.from_bytes(raw[at : at + size], "little", signed=True)
            for raw in messages(content, 9)
            for at in range(0, min(len(raw), MAX_RANK * size), size)
        ]
        for number in (5, 7):  # int32_data, int64_data
            numbers += self.reader.repeated(content, number)
        self._note(name, numbers)

    def add_node(self, operator: str, parts: Content) -> None:
        """Check what a node makes, and note what is known of its result.

        Raises:
            ValueError: It may make a huge tensor.
        """
        inputs = [bytes(name).decode() for name in messages(parts, 1)]
        attributes = [self.reader.fields(a) for a in messages(parts, 5)]
        self._check_attributes(operator, attributes)
        if operator in SIZED_BY:
            self._check_size(operator, inputs)
        if operator == "Range":
            self._check_range(inputs)
        result = text(parts, 2)
        if operator == "Constant":
            self._add_constant(result, attributes)
        elif operator == "Shape":
            self.largest[result] = LONGEST_AXIS
        elif operator in SMALLER | SUMS:
            # Of these, only the first input gives values; others say which.
            first = operator in SMALLER and operator not in ("Concat", "Min", "Max")
            bounds = [self.largest.get(name) for name in inputs[: 1 if first else None]]
            sizes = [bound for bound in bounds if bound is not None]
            if sizes and len(sizes) == len(bounds):
                self.largest[result] = sum(sizes) if operator in SUMS else max(sizes)

    def _note(self, name: str, numbers: list[int]) -> None:
        self.known[name] = numbers[:MAX_RANK]
        self.largest[name] = max(map(abs, numbers), default=0)

    def _add_constant(self, name: str, attributes: list[Content]) -> None:
        for attribute in attributes:
            for tensor in messages(attribute, 5):
                self.add_tensor(name, tensor)
            numbers = self.reader.repeated(attribute, 8) + integers(attribute, 3)
            if text(attribute, 1) in ("value_int", "value_ints"):
                self._note(name, numbers)

    def _check_attributes(self, operator: str, attributes: list[Content]) -> None:
        for attribute in attributes:
            if text(attribute, 1) in SIZE_ATTRIBUTES:
                numbers = self.reader.repeated(attribute, 8)
                if max(map(abs, numbers), default=0) > LONGEST_AXIS:
                    raise ValueError(f"{operator} would make axes of {max(numbers)}")

    def _check_size(self, operator: str, inputs: list[str]) -> None:
        place = SIZED_BY[operator]
        scales = SCALES.get(operator)
        if scales is not None and len(inputs) > scales and inputs[scales]:
            raise ValueError(f"{operator} by factors is not allowed")
        if place >= len(inputs) or not inputs[place]:
            return
        numbers = self.known.get(inputs[place])
        if numbers is None:
            raise ValueError(
                f"{operator} takes a size that the graph computes; it must stand in "
                "the file"
            )
        self._check_values(operator, math.prod(n for n in numbers if n > 0))

    def _check_range(self, inputs: list[str]) -> None:
        bounds = [self.largest.get(name) for name in inputs[:2]]
        step = self.known.get(inputs[2]) if len(inputs) > 2 else None
        if None in bounds or not step or not step[0]:
            raise ValueError(
                "Range takes a limit that the graph computes by more than sums"
            )
        self._check_values("Range", sum(bound for bound in bounds if bound))

    def _check_values(self, operator: str, values: Any) -> None:
        if values > MAX_VALUES:
            raise ValueError(
                f"{operator} would make {values} values of one constant; at most "
                f"{MAX_VALUES} are allowed"
            )

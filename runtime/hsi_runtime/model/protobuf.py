"""Splits protocol-buffer messages, so that reading a model needs no onnx package."""


def fields(data: bytes | memoryview) -> list[tuple[int, memoryview | int]]:
    """Split a message into its fields: number, and bytes or a whole number.

    Fixed-width numbers are given as their bytes.

    Raises:
        ValueError: The bytes are no such message.
    """
    view, at = memoryview(data), 0
    result: list[tuple[int, memoryview | int]] = []
    while at < len(view):
        tag, at = _varint(view, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(view, at)
            result.append((number, value))
            continue
        if kind == 2:
            length, at = _varint(view, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("it is no protocol-buffer message")
        if at + length > len(view):
            raise ValueError("it ends in the middle of a field")
        result.append((number, view[at : at + length]))
        at += length
    return result


def messages(
    content: list[tuple[int, memoryview | int]], number: int
) -> list[memoryview]:
    """List the bytes of every field of a number."""
    return [v for n, v in content if n == number and isinstance(v, memoryview)]


def text(content: list[tuple[int, memoryview | int]], number: int) -> str:
    """Return the last text of a number, or an empty one.

    Raises:
        ValueError: It is no UTF-8.
    """
    result = messages(content, number)
    return bytes(result[-1]).decode() if result else ""


def repeated(content: list[tuple[int, memoryview | int]], number: int) -> list[int]:
    """List the signed whole numbers of a repeated field, packed or not.

    Raises:
        ValueError: They end in the middle of a number.
    """
    result = []
    for value in (v for n, v in content if n == number):
        if isinstance(value, int):
            result.append(value)
            continue
        at = 0
        while at < len(value):
            whole, at = _varint(value, at)
            result.append(whole)
    return [v - (1 << 64) if v >= 1 << 63 else v for v in result]


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            raise ValueError("it ends in the middle of a number")
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("it is no protocol-buffer message")

"""Splits protocol-buffer messages, so that reading a model needs no onnx package."""

MOST_FIELDS = 1_000_000  # of one file; a large graph has some ten thousand

Content = list[tuple[int, memoryview | int]]


class Reader:
    """Splits the messages of one file, whose fields are counted.

    A few bytes make a field, so that a hostile file could keep a reader busy for
    minutes.

    Args:
        most: Fields that may be read.
    """

    def __init__(self, most: int = MOST_FIELDS) -> None:
        self.left = most

    def fields(self, data: bytes | memoryview) -> Content:
        """Split a message into its fields: number, and bytes or a whole number.

        Fixed-width numbers are given as their bytes.

        Raises:
            ValueError: The bytes are no such message, or the file has too many fields.
        """
        view, at = memoryview(data), 0
        result: Content = []
        while at < len(view):
            self._count()
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

    def repeated(self, content: Content, number: int) -> list[int]:
        """List the signed whole numbers of a repeated field, packed or not.

        Raises:
            ValueError: They end in the middle of a number, or are too many.
        """
        result = []
        for value in (v for n, v in content if n == number):
            if isinstance(value, int):
                result.append(value)
                continue
            at = 0
            while at < len(value):
                self._count()
                whole, at = _varint(value, at)
                result.append(whole)
        return [v - (1 << 64) if v >= 1 << 63 else v for v in result]

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ValueError("it has more fields than any model")


def messages(content: Content, number: int) -> list[memoryview]:
    """List the bytes of every field of a number."""
    return [v for n, v in content if n == number and isinstance(v, memoryview)]


def text(content: Content, number: int) -> str:
    """Return the last text of a number, or an empty one.

    Raises:
        ValueError: It is no UTF-8.
    """
    result = messages(content, number)
    return bytes(result[-1]).decode() if result else ""


def integers(content: Content, number: int) -> list[int]:
    """List the plain whole numbers of a field."""
    return [v for n, v in content if n == number and isinstance(v, int)]


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

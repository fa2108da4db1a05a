"""Reads the values of chosen elements of a product's METADATA.XML."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.products import safe_xml


class Value(NamedTuple):
    """The text of an element.

    Attributes:
        text: Text without space around it.
        parent: Number of the element above it; what stands together has the same one.
        number: Attribute ``number`` of the element above it, or an empty text.
    """

    text: str
    parent: int
    number: str


class Metadata:
    """Values of the elements that were asked for.

    Elements are named by the end of their path, such as ``bandID/GainOfBand``, in any
    case; where the levels above differ between versions of a format, that does not
    matter.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, list[Value]] = {}

    def text(self, name: str) -> str:
        """Return the first value of an element, or an empty text."""
        values = self.values.get(name.lower())
        return values[0].text if values else ""

    def texts(self, name: str) -> list[str]:
        """Return all values of an element."""
        return [value.text for value in self.values.get(name.lower(), [])]

    def by_number(self, name: str, key: str = "") -> dict[int, str]:
        """Return the values of an element of each band.

        Args:
            name: The element.
            key: Element beside it that holds the band's number; by default that is the
                attribute ``number`` of the element above both.

        Raises:
            SceneError: A band has no number, or two have one.
        """
        of_parent = {v.parent: v.text for v in self.values.get(key.lower(), [])}
        found: dict[int, str] = {}
        for value in self.values.get(name.lower(), []):
            number = of_parent.get(value.parent, "") if key else value.number
            try:
                band = int(number)
            except ValueError as error:
                raise SceneError(
                    f"{self.path}: an element {name} has no band number."
                ) from error
            if band in found:
                raise SceneError(f"{self.path}: band {band} is described twice.")
            found[band] = value.text
        return found


def read_metadata(path: Path, content: bytes, names: Iterable[str]) -> Metadata:
    """Read the values of some elements of a file.

    Args:
        path: The file, for messages.
        content: Its bytes.
        names: The elements.

    Raises:
        SceneError: It is not XML, or XML of a dangerous kind.
    """
    reader = _Reader(path, names)
    try:
        safe_xml.parse(content, reader.start, reader.end, reader.text.append)
    except ValueError as error:
        raise SceneError(
            f"{path} cannot be read ({error}). It describes a product: copy it again."
        ) from error
    return reader.result


class _Reader:
    """Collects values while a document is parsed."""

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self.result = Metadata(path)
        # By the last name of the path, which is the one to look up.
        self.endings: dict[str, list[list[str]]] = {}
        for name in names:
            steps = name.lower().split("/")
            self.endings.setdefault(steps[-1], []).append(steps)
        self.names: list[str] = []  # of the open elements
        self.open: list[tuple[int, str]] = []  # their counts, and attributes `number`
        self.text: list[str] = []
        self.count = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.count += 1
        self.names.append(name.lower())
        self.open.append((self.count, attributes.get("number", "")))
        self.text.clear()

    def end(self, _: str) -> None:
        for steps in self.endings.get(self.names[-1], []):
            if self.names[-len(steps) :] == steps:
                parent, number = self.open[-2] if len(self.open) > 1 else (0, "")
                value = Value("".join(self.text).strip(), parent, number)
                self.result.values.setdefault("/".join(steps), []).append(value)
        self.text.clear()
        self.names.pop()
        self.open.pop()

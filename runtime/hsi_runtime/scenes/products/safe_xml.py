"""Parses XML of others without what makes XML dangerous.

A document type is refused, since only it declares entities; they can name other files,
and grow without limit. Depth and number of elements are bounded.
"""

from collections.abc import Callable
from typing import Any
from xml.parsers import expat

MOST_DEPTH = 32
MOST_ELEMENTS = 500_000  # EnMAP needs about 150,000


def parse(
    content: bytes,
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None],
    text: Callable[[str], None],
) -> None:
    """Parse a document.

    Args:
        content: The document.
        start: Called with name and attributes of each element that begins.
        end: Called with the name of each element that ends.
        text: Called with text, which may come in pieces.

    Raises:
        ValueError: It is not well formed, declares a document type, or has too many
            elements.
    """
    depth = elements = 0

    def refuse(*_: Any) -> int:
        raise ValueError("it declares a document type, which may hide what it says")

    def started(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, elements
        depth, elements = depth + 1, elements + 1
        if depth > MOST_DEPTH or elements > MOST_ELEMENTS:
            raise ValueError("it has too many elements")
        start(name, attributes)

    def ended(name: str) -> None:
        nonlocal depth
        depth -= 1
        end(name)

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = started
    parser.EndElementHandler = ended
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, LookupError) as error:  # such as an unknown encoding
        raise ValueError(str(error)) from error

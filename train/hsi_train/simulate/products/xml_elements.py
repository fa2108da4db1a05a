"""Composes XML, as metadata of products are written."""

from xml.etree.ElementTree import Element, SubElement


def add(parent: Element, path: str, text: object = None) -> Element:
    """Add an element below a parent, with the elements above it that are missing."""
    *above, name = path.split("/")
    for step in above:
        existing = parent.find(step)
        parent = SubElement(parent, step) if existing is None else existing
    element = SubElement(parent, name)
    if text is not None:
        element.text = str(text)
    return element

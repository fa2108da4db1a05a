"""Turns the text of others into text that every output can hold.

Class names, paths and metadata come from files that somebody else wrote. A terminal
obeys the control characters in them, XML and GeoPackages cannot hold them, and marks
that reverse the order of text make a name look like another one.
"""

import re

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
# Control characters, line and paragraph separators, marks of direction, halves of
# surrogate pairs (from names that are not UTF-8), and what is no character.
_UNFIT = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


def plain(text: str, longest: int | None = None) -> str:
    """Return text that a terminal, XML, HTML, JSON or a file name can hold.

    Args:
        text: Text of others.
        longest: Largest number of characters; a longer text ends in an ellipsis.

    Returns:
        One line, with U+FFFD in place of every character that is not fit.
    """
    if longest is not None and len(text) > longest:
        text = text[: longest - 1] + ELLIPSIS
    return _UNFIT.sub(REPLACEMENT, text)


def plain_lines(text: str) -> str:
    """Return text of several lines, each of them plain."""
    return "\n".join(map(plain, text.split("\n")))

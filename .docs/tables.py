"""Writes Markdown tables."""

import html
import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; a bar in a cell stays a bar."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """Escape bars; those in code as HTML, on which all Markdown viewers agree."""
    return re.sub(r"`([^`]*)`|\|", _escaped, text)


def _escaped(match: re.Match[str]) -> str:
    if match[1] is None:
        return r"\|"
    if "|" not in match[1]:
        return match[0]
    return f"<code>{html.escape(match[1], quote=False).replace('|', '&#124;')}</code>"

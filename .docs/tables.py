"""Writes Markdown tables."""

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; a bar in a cell stays a bar."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """Escape bars outside of code, where they need it."""
    return re.sub(r"(`[^`]*`)|\|", lambda match: match[1] or r"\|", text)

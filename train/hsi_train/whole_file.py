"""Files that are whole or not there, whenever a run is stopped."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".part"


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a name to write to; the finished file then takes the place of ``path``."""
    partial = path.with_name(path.name + PARTIAL)
    yield partial
    os.replace(partial, path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole, in place of one that is there."""
    with replaced(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write text as UTF-8, its line ends as they are."""
    write_bytes(path, content.encode())

"""Lets the built site show pictures that lie outside of the pages' folder."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PAGES = Path(__file__).parent / "pages"
PICTURE = re.compile(r"(!\[[^\]]*\])\((\.\./[^)]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pictures that pages name by a path outside of their folder."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES.glob("*.md")]
    paths = {path for text in texts for _, path in PICTURE.findall(text)}
    for path in sorted(paths):
        source = (PAGES / path).resolve()
        files.append(File.generated(config, source.name, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Name those pictures as they are on the site."""
    return PICTURE.sub(lambda match: f"{match[1]}({Path(match[2]).name})", markdown)

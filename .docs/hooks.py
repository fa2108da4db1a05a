"""Fills the pages of the documentation from the code and the measured results.

A line ``{{ name argument }}`` of a page is replaced by what the function ``name`` of
`DIRECTIVES` writes; an unknown name or argument stops the build.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import results
import source
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
METHODS = "train/hsi_train/methods"


def methods() -> str:
    """Describe every method: what it is after, our departures, its options."""
    sections = []
    for name, paths in source.methods(ROOT / METHODS).items():
        file = paths[0].relative_to(ROOT).as_posix().removesuffix("/__init__.py")
        title, _, text = source.about(str(paths[0])).partition("\n\n")
        options = source.fields(str(source.defining(paths, "Options")), "Options")
        sections.append(
            f"## {title.removesuffix('.')} {{ #{name} }}\n\n"
            f"Name: `{name}`. Source: `{file}`.\n\n{text}\n\n{options}"
        )
    return "\n\n".join(sections)


def quoted(path: str, language: str) -> str:
    """Show a file of the repository."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return f'```{language} title="{path}"\n{text}```'


DIRECTIVES: dict[str, Callable[..., str]] = {
    "about": source.about,
    "benchmark": results.benchmark,
    "call": source.call,
    "command": commands.command,
    "decision": results.decision,
    "errors": commands.errors,
    "fields": source.fields,
    "included": results.included,
    "methods": methods,
    "other_benchmarks": results.other_benchmarks,
    "quoted": quoted,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the directives of a page."""

    def replaced(found: re.Match[str]) -> str:
        name, *arguments = found[1].split()
        return DIRECTIVES[name](*arguments)

    return re.sub(r"^\{\{ (.+) \}\}$", replaced, markdown, flags=re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the pictures that lie elsewhere: of the README and of the benchmarks."""
    for picture in (ROOT / ".github" / "demo.png", *results.pictures()):
        files.append(File.generated(config, picture.name, abs_src_path=str(picture)))
    return files

"""Writes the generated parts of README.md and of the pages: tables and references.

    python .docs/generate.py           writes those that have changed
    python .docs/generate.py --check   names them, and fails if there are any

A part lies between the lines ``<!-- generated: NAME ARGUMENT ... -->`` and
``<!-- end -->``, and is what the function NAME of `PARTS` returns. The text is
committed, so that every page reads complete in any Markdown viewer.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import commands
import few_labels
import results
import source

ROOT = Path(__file__).parents[1]
PAGES = Path(__file__).parent / "pages"
METHODS = ROOT / "train" / "hsi_train" / "methods"
PART = re.compile(r"^<!-- generated: ([^\n]+) -->$.*?^<!-- end -->$", re.M | re.S)


def methods() -> str:
    """Describe every method: what it follows, our departures, its options."""
    sections = []
    for name, paths in source.methods(METHODS).items():
        file = paths[0].relative_to(ROOT).as_posix().removesuffix("/__init__.py")
        title, _, text = source.about(str(paths[0])).partition("\n\n")
        options = source.fields(str(source.defining(paths, "Options")), "Options")
        sections.append(
            f"## {name}\n\n{title} Source: `{file}`.\n\n{text}\n\n"
            f"Options of `{name}`. {options}"
        )
    return "\n\n".join(sections)


def quoted(path: str, language: str) -> str:
    """Show a file of the repository."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return f"`{path}`:\n\n```{language}\n{text}```"


PARTS: dict[str, Callable[..., str]] = {
    "accuracy": results.accuracy,
    "benchmark": results.benchmark,
    "call": source.call,
    "command": commands.command,
    "comparison": results.comparison,
    "errors": commands.errors,
    "fields": source.fields,
    "methods": methods,
    "few_labels": few_labels.few_labels,
    "other_benchmarks": results.other_benchmarks,
    "quoted": quoted,
    "summary": results.summary,
}


def renewed(text: str) -> str:
    """Replace the generated parts of a page.

    Raises:
        KeyError: There is no part of that name.
    """

    def part(match: re.Match[str]) -> str:
        name, *arguments = match[1].split()
        content = PARTS[name](*arguments)
        return f"<!-- generated: {match[1]} -->\n\n{content}\n\n<!-- end -->"

    return PART.sub(part, text)


def files() -> list[Path]:
    """Return the files that may hold generated parts."""
    return [ROOT / "README.md", *sorted(PAGES.glob("*.md"))]


def changed() -> dict[Path, str]:
    """Return the new text of every file whose generated parts are stale."""
    texts = {path: path.read_text(encoding="utf-8") for path in files()}
    new = {path: renewed(text) for path, text in texts.items()}
    return {path: new[path] for path in texts if new[path] != texts[path]}


def main() -> None:
    """Renew the pages, or check them."""
    stale = changed()
    if "--check" in sys.argv[1:]:
        if stale:
            names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
            sys.exit(f"Stale: {names}. Run python .docs/generate.py and commit.")
        return
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()

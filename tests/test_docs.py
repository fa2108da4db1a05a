"""The documentation builds without warnings, links hold and every command runs."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest
from once import Once

ROOT = Path(__file__).parents[1]
PAGES = ROOT / ".docs" / "pages"
BIN = Path(sys.executable).parent
IN_ORDER = [
    "own-scene",
    "spectra",
    "products",
    "python",
    "recipes",
    "model-file",
    "deployment",
    "qgis",
    "follow",
]


class Block(NamedTuple):
    """A fenced block; ``title`` is None where a reader may run it as it stands."""

    kind: str
    title: str | None
    text: str


def blocks(page: str) -> list[Block]:
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    found = re.findall(r'^```(\w+)(?: title="(.*?)")?\n(.*?)^```$', text, re.M | re.S)
    return [Block(kind, title or None, body) for kind, title, body in found]


def run(block: Block, folder: Path) -> str:
    """Run a block as a reader would; return all that it prints."""
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    shell = ["bash", "-e", "-c"] if block.kind == "bash" else [sys.executable, "-c"]
    done = subprocess.run(
        [*shell, block.text],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{block.text}\n{done.stdout}"
    return done.stdout


def masked(text: str) -> list[str]:
    """Replace figures, which differ from run to run; return the lines."""
    found = re.sub(r"\d[\d.,]*(e[-+]?\d+)?", "#", text)
    return [line.strip() for line in found.splitlines()]


def run_page(page: str, folder: Path) -> None:
    printed = ""
    for block in blocks(page):
        if block.title is None and block.kind in ("bash", "python"):
            printed = run(block, folder)
        elif block.title == "prints":
            found = iter(masked(printed))  # other lines may stand between them
            for line in masked(block.text):
                assert line in found, f"{page}: {line!r} is not in\n{printed}"


@pytest.fixture(scope="module")
def quickstart(once: Once) -> Path:
    """Do what the quickstart says; other pages begin where it ends."""
    return once("reader", lambda folder: run_page("quickstart", folder))


@pytest.fixture(scope="module")
def site(once: Once) -> Path:
    """Build the site as ``make docs`` does."""

    def build(folder: Path) -> None:
        installed = "-o .venv/torch -o .venv/dev"
        done = subprocess.run(
            f"make {installed} docs BIN={BIN} SITE={folder}",
            shell=True,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "WARNING" not in done.stderr

    return once("site", build)


@pytest.mark.parametrize("page", IN_ORDER)
def test_commands_and_snippets_run(
    page: str,
    quickstart: Path,
    tmp_path: Path,
    write_crowns: Callable[[Path], None],
) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(quickstart, folder)
    write_crowns(folder)
    run_page(page, folder)


def test_every_page_with_commands_is_run() -> None:
    runnable = {
        path.stem
        for path in PAGES.glob("*.md")
        for block in blocks(path.stem)
        if block.title is None and block.kind in ("bash", "python")
    }
    assert runnable == {"quickstart", *IN_ORDER}


@pytest.mark.parametrize("page", sorted(path.stem for path in PAGES.glob("*.md")))
def test_options_of_all_commands_exist(page: str) -> None:
    """Commands that cannot run here, such as those of a container, use real options."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    spans = re.findall(
        r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    )
    shown = [b.text.replace("\\\n", " ") for b in blocks(page) if b.kind == "bash"]
    for line in [line for part in (*shown, *spans) for line in part.splitlines()]:
        for name, rest in re.findall(r"(hsi-(?:train|export|run))\b([^|;&]*)", line):
            for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", rest):
                assert option in help_of(name), f"{page}: {line}"


HELP: dict[str, str] = {}


def help_of(name: str) -> str:
    if name not in HELP:
        HELP[name] = subprocess.run(
            [BIN / name, "--help"], check=True, capture_output=True, text=True
        ).stdout
    return HELP[name]


class Links(HTMLParser):
    """Collects what a page names, what it loads, and the anchors it has."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.named: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.anchors |= {given[key] for key in ("id", "name") if key in given}
        url = given.get("href", given.get("src"))
        if url is None:
            return
        self.named.append(url)
        passive = tag == "a" or given.get("rel") in ("canonical", "next", "prev")
        if not passive:
            self.loaded.append(url)


def local(pages: list[Path]) -> Iterator[tuple[Path, str]]:
    for page in pages:
        for url in Links(page).named:
            if not urlsplit(url).scheme and not url.startswith("//"):
                yield page, unquote(url)


def test_links_lead_somewhere(site: Path) -> None:
    pages = [p for p in site.glob("*.html") if p.name != "404.html"]
    anchors = {page: Links(page).anchors for page in pages}
    checked = 0
    for page, url in local(pages):
        path, _, anchor = url.partition("#")
        target = (page.parent / path).resolve() if path else page
        target = target / "index.html" if target.is_dir() else target
        assert target.is_file(), f"{page.name}: {url}"
        if anchor and target in anchors:
            assert anchor in anchors[target], f"{page.name}: {url}"
        checked += 1
    assert checked > 500


def test_nothing_is_fetched_from_the_network(site: Path) -> None:
    for page in site.glob("*.html"):
        for url in Links(page).loaded:
            assert not re.match("(https?:)?//", url), f"{page.name}: {url}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", sheet.read_text())


def test_search_works_without_a_server(site: Path) -> None:
    assert (site / "search" / "search_index.js").is_file()
    page = (site / "index.html").read_text(encoding="utf-8")
    assert '<script src="assets/iframe-worker.js">' in page


def without_code(path: Path) -> str:
    """Read a Markdown file but for its code blocks."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def anchors_of(path: Path) -> set[str]:
    """Return the anchors that a Markdown viewer gives to the headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(path), re.M)
    plain = [re.sub(r"[^\w\s-]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", *sorted(PAGES.glob("*.md"))],
    ids=lambda path: path.stem,
)
def test_pages_read_complete_where_they_lie(path: Path) -> None:
    """In a viewer of Markdown: links hold, and nothing waits to be filled in."""
    text = without_code(path)
    for url in re.findall(r"\]\(([^)\s]+)\)", text):
        if urlsplit(url).scheme:
            continue
        file, _, anchor = url.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), url
        assert not anchor or anchor in anchors_of(target), url
    assert "{{" not in text
    for row in re.findall(r"^\|.*$", text, re.M):
        code = re.findall(r"`[^`]*`", row)
        assert not any("|" in span for span in code), f"a bar ends the cell: {row}"
    assert not re.search(r"^#.*\{.*#|^---\n", text, re.M), "markup of the site only"

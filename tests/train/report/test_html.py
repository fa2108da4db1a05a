import base64
import io
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hsi_runtime.model.model_file import ClassEntry
from hsi_train.report import html
from hsi_train.report.html import Safe
from hsi_train.report.plots import plot_style

ReadPage = Callable[[str], Any]

EVIL = "<script>alert(\"1\")</script> & 'x'"


def content_of(uri: str, kind: str) -> bytes:
    head = f"data:{kind};base64,"
    assert uri.startswith(head)
    return base64.b64decode(uri.removeprefix(head))


def test_text_is_escaped_once(read_page: ReadPage) -> None:
    once = html.text(EVIL)
    assert html.text(once) == once
    assert "<" not in once
    assert '"' not in once
    assert read_page(once).text == EVIL


@pytest.mark.parametrize(
    "odd", ["\x00", "\t", "\n", "\x1b", "\x85", "\ud800", "\u202e", "\uffff"]
)
def test_what_no_page_can_hold_is_replaced(odd: str) -> None:
    assert html.text(f"a{odd}b") == "a\ufffdb"
    html.text(odd).encode()


@pytest.mark.parametrize("name", ["水 田", "غابة", "Öl & Gras", "a_b $c$ {d}", "🌲"])
def test_any_script_is_welcome(read_page: ReadPage, name: str) -> None:
    shown = html.named(ClassEntry(code=1, name=name, color="#102030"))
    page = read_page(shown)
    assert page.text == name
    assert {"class": "swatch", "style": "--c:#102030"} in page.all("span")


def test_a_recipe_keeps_its_lines_and_holds_nothing_else(read_page: ReadPage) -> None:
    recipe = 'a = "<b>"\n\x1b[31mb = "\ud800\u202e"\n'
    shown = html.page("", html.preformatted(recipe))
    shown.encode()  # no halves of pairs
    assert 'a = "<b>"\n\ufffd[31mb = "\ufffd\ufffd"\n' in read_page(shown).text


def test_every_brick_escapes(read_page: ReadPage) -> None:
    bricks = html.joined(
        EVIL,
        html.paragraph(EVIL, "warning"),
        html.section("Title & <b>", html.paragraph("x")),
        html.table([EVIL, "b"], [[EVIL, "d"]]),
        html.figure("data:,", EVIL, EVIL),
        html.swatch("#000000", EVIL),
        html.scale(["#000000"], EVIL, "1"),
    )
    page = read_page(bricks)
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert page.rows == [[EVIL, "b"], [EVIL, "d"]]
    assert page.all("img") == [{"src": "data:,", "alt": EVIL}]


def test_empty_pieces_are_left_out() -> None:
    assert html.joined("a", "", Safe(), "b") == "a\nb"


def test_shares_are_written_in_per_cent(read_page: ReadPage) -> None:
    assert html.percent(0.98765) == "98.77 %"
    assert html.percent(None) == "-"
    assert html.bar(None) == "-"
    page = read_page(html.bar(0.5))
    assert page.text == "50.00 %"
    assert page.all("span") == [{"class": "bar", "style": "--w:50.0%"}]


def test_columns_of_a_grid(read_page: ReadPage) -> None:
    page = read_page(html.grid([html.figure("data:,", "a")], 2, 3, "map"))
    assert page.all("div") == [{"class": "grid map", "style": "--few:2;--many:3;"}]
    assert len(page.all("figure")) == 1


def test_pictures_are_in_the_page() -> None:
    image = Image.new("RGB", (5, 3), "#336699")
    exact = Image.open(io.BytesIO(content_of(html.png(image), "image/png")))
    assert (np.asarray(exact) == (0x33, 0x66, 0x99)).all()
    assert exact.size == (5, 3)
    close = Image.open(io.BytesIO(content_of(html.jpeg(image), "image/jpeg")))
    assert close.size == (5, 3)


def plot_of(label: str) -> str:
    with plot_style():
        drawn = Figure(figsize=(3, 2))
        axis = drawn.subplots()
        axis.plot([1, 2, 3], [1, 4, 9])
        axis.set_xlabel(label)
        return html.svg(drawn)


def test_a_plot_keeps_its_text_and_names_nobody() -> None:
    root = ElementTree.fromstring(
        content_of(plot_of("a < $b$ & 水 0.12345"), "image/svg+xml")
    )
    words = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a < $b$ & 水 0.12345" in words
    addresses = re.findall(
        rb"https?://[^\s\"<]+", content_of(plot_of("x"), "image/svg+xml")
    )
    # Names of vocabularies, which nothing fetches.
    assert {a.split(b"/")[2] for a in addresses} <= {b"www.w3.org"}
    assert not [a for a in addresses if a.endswith(b".dtd")]


def test_coordinates_are_short() -> None:
    root = ElementTree.fromstring(content_of(plot_of("x"), "image/svg+xml"))
    paths = " ".join(e.get("d", "") for e in root.iter())
    assert re.search(r"\d\.\d", paths)
    assert not re.search(r"\d\.\d{3}", paths)


def test_the_same_plot_has_the_same_bytes() -> None:
    assert plot_of("x") == plot_of("x")
    assert plot_of("x") != plot_of("y")

"""The building blocks of the report: safe text, tables, figures and pictures."""

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Protocol

from matplotlib.figure import Figure
from PIL import Image

from hsi_runtime.model.plain_text import plain, plain_lines

JPEG_QUALITY = 88


class Named(Protocol):
    """Something with a name and a ``#rrggbb``."""

    @property
    def name(self) -> str: ...

    @property
    def color(self) -> str: ...


class Safe(str):
    """HTML that is ready for the page; any other text is escaped."""

    __slots__ = ()


def text(content: object) -> Safe:
    """Escape text for the page; `Safe` HTML stays as it is."""
    if isinstance(content, Safe):
        return content
    return Safe(html.escape(plain(str(content))))


def preformatted(content: str) -> Safe:
    """Return text of several lines as it is laid out."""
    return Safe(f"<pre>{html.escape(plain_lines(content))}</pre>")


def joined(*parts: str) -> Safe:
    """Join pieces of HTML, escaping those that are not `Safe`."""
    return Safe("\n".join(text(part) for part in parts if part))


def paragraph(content: str, css: str = "") -> Safe:
    """Return a paragraph."""
    kind = f' class="{css}"' if css else ""
    return Safe(f"<p{kind}>{text(content)}</p>")


def anchor(title: str) -> str:
    """Return the id of a section, to which links within the page lead."""
    return re.sub("[^a-z]+", "-", title.lower())


def section(title: str, content: Safe) -> Safe:
    """Return a part of the page with its heading."""
    return Safe(
        f'<section id="{anchor(title)}"><h2>{text(title)}</h2>\n{content}</section>'
    )


def page(title: str, *parts: str) -> str:
    """Return a whole page, with its style inside."""
    style = resources.files("hsi_train.report").joinpath("page.css").read_text("utf-8")
    head = Safe(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{text(title)}</title><style>\n{style}</style></head><body><main>"
    )
    return joined(head, *parts, Safe("</main></body></html>")) + "\n"


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], css: str = "numbers"
) -> Safe:
    """Return a table; the first cell of a row is its name."""

    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{text(c)}</{tag}>' for c in cells)}</tr>"

    top = f"<thead>{line(head, 'th')}</thead>" if head else ""
    body = "\n".join(line(row, "td") for row in rows)
    return Safe(
        f'<div class="wide"><table class="{css}">{top}<tbody>{body}</tbody></table>'
        "</div>"
    )


def figure(uri: str, alt: str, caption: str = "", width_px: float = 0) -> Safe:
    """Return a picture with a description for those who cannot see it.

    Args:
        uri: Data of the picture.
        alt: Description.
        caption: Text below the picture.
        width_px: Width below which the picture is scrolled instead of shrunk.
    """
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    kind = f' class="scroll" style="--w:{width_px:.0f}px"' if width_px else ""
    return Safe(f'<figure{kind}><img src="{uri}" alt="{text(alt)}">{below}</figure>')


def grid(
    figures: Iterable[str], few: int, many: int, css: str = "", style: str = ""
) -> Safe:
    """Return figures side by side: ``few`` columns on a phone, ``many`` elsewhere."""
    inside = "\n".join(figures)
    kind = f"grid {css}".strip()
    columns = f"--few:{few};--many:{many};{style}"
    return Safe(f'<div class="{kind}" style="{columns}">\n{inside}</div>')


def swatch(color: str, label: str) -> Safe:
    """Return a colour with its meaning."""
    box = f'<span class="swatch" style="--c:{color}"></span>'
    return Safe(f'<span class="key">{box}{text(label)}</span>')


def named(info: Named) -> Safe:
    """Return the colour and the name of a class, which may be written right to left."""
    return swatch(info.color, Safe(f"<bdi>{text(info.name)}</bdi>"))


def legend(entries: Iterable[Safe]) -> Safe:
    """Return a list of colours with their meanings."""
    return Safe(f'<ul class="legend">{"".join(f"<li>{e}</li>" for e in entries)}</ul>')


def scale(colors: Sequence[str], low: str, high: str) -> Safe:
    """Return a continuous range of colours."""
    stops = ",".join(colors)
    return Safe(
        f'<span class="scale">{text(low)}<span style="--c:{stops}"></span>'
        f"{text(high)}</span>"
    )


def percent(share: float | None) -> str:
    """Format a share in [0, 1] as a percentage; None is a dash."""
    return "-" if share is None else f"{100 * share:.2f} %"


def bar(share: float | None) -> Safe:
    """Return a percentage on a bar of its length."""
    if share is None:
        return text(percent(None))
    return Safe(
        f'<span class="bar" style="--w:{100 * share:.1f}%">{percent(share)}</span>'
    )


def png(image: Image.Image) -> str:
    """Encode a picture without loss."""
    return _uri(image, "png", optimize=True)


def jpeg(image: Image.Image) -> str:
    """Encode a photograph."""
    return _uri(image, "jpeg", quality=JPEG_QUALITY, optimize=True)


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return _data(f"image/{kind}", buffer.getvalue())


def svg(drawn: Figure) -> str:
    """Encode a plot; its text stays text, in the fonts of the reader."""
    buffer = io.BytesIO()
    silent = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    drawn.savefig(buffer, format="svg", metadata=silent)
    content = buffer.getvalue()
    content = content[content.index(b"<svg") :]  # without the address of a DTD
    content = re.sub(rb"<[^>]*>", _shortened, content)  # in tags, not in text
    return _data("image/svg+xml", content)


def _shortened(tag: re.Match[bytes]) -> bytes:
    """Shorten the numbers of a tag to hundredths of a point, enough for print."""
    return re.sub(rb"(\d\.\d\d)\d+", rb"\1", tag[0])


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

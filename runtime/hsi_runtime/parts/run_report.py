"""Shows what the parts of a scene took, as a page: a timeline, and a table.

It is made of what ``hsi-run --json`` prints, and needs no script and no other file.
"""

import html
from pathlib import Path
from typing import Any, NamedTuple

from hsi_runtime import files
from hsi_runtime.errors import OutputError, reason
from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.model.plain_text import plain
from hsi_runtime.output import names
from hsi_runtime.planning import output_paths
from hsi_runtime.request import Request

WIDTH, LANE, BAR, LABEL = 960, 22, 16, 220  # px
TICKS = 6
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2em auto;
  max-width: 1000px; padding: 0 1em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: 2px 12px 2px 0; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child, td.name, th.name { text-align: left }
svg { width: 100%; height: auto; font: 11px system-ui, sans-serif }
.done { fill: #2a7f9e } .died { fill: #c8553d }
.key { display: inline-block; width: 1em; height: 0.8em; margin: 0 0.3em 0 1em }
"""


class Bar(NamedTuple):
    """An attempt in the timeline.

    Attributes:
        part: I/N.
        worker: Host and process.
        start: Seconds after the first attempt began.
        stop: When it ended; for one that died, when the part was begun again.
        done: Whether it finished.
    """

    part: str
    worker: str
    start: float
    stop: float
    done: bool


def check(request: Request, model: ModelFile) -> None:
    """Refuse a report that must not be written, before any work.

    Raises:
        OutputError: It exists, or is an input or another output.
    """
    if request.report is not None:
        outputs = names.files_of(output_paths(request), request.outputs())
        inputs = [request.scene, model.path]
        names.check_outputs([*outputs, request.report], inputs, request.overwrite)


def write(path: Path, result: dict[str, Any]) -> None:
    """Write the page of a join.

    Args:
        path: The file.
        result: What ``hsi-run --json`` prints, with ``parts``.

    Raises:
        OutputError: It cannot be written; the map is there.
    """
    try:
        files.write_text(path, page(result))
    except OSError as error:
        raise OutputError(
            f"The report {path} cannot be written: {reason(error)}. The map is "
            "complete."
        ) from error


def page(result: dict[str, Any]) -> str:
    """Return the page of a join; see `write`."""
    rows = result["parts"]
    bars = bars_of(rows)
    title = f"Parts of {Path(result['scene']).name}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>{_text(title)}</h1>\n{_summary(result, bars)}\n"
        "<h2>Timeline</h2>\n<p>A line for each worker, a bar for each attempt:"
        '<span class="key" style="background:#2a7f9e"></span>finished'
        '<span class="key" style="background:#c8553d"></span>died, at the latest where '
        "the bar ends. Times are those of the shared folder.</p>\n"
        f"{_timeline(bars)}\n<h2>Parts</h2>\n{_table(rows)}\n</body></html>\n"
    )


def bars_of(rows: list[dict[str, Any]]) -> list[Bar]:
    """Arrange all attempts in time."""
    attempts = [(row["part"], one) for row in rows for one in row["tries"]]
    first = min((one["started"] for _, one in attempts), default=0.0)
    ends = [one["started"] + one["seconds"] - first for _, one in attempts]
    bars = []
    for part, one in attempts:
        start = one["started"] - first
        stop = start + one["seconds"]
        if not one["done"]:
            others = [o["started"] - first for p, o in attempts if p == part]
            stop = min((o for o in others if o > start), default=max(ends))
        bars.append(Bar(part, one["worker"], start, max(stop, start), one["done"]))
    return sorted(bars, key=lambda bar: bar.start)


def _summary(result: dict[str, Any], bars: list[Bar]) -> str:
    rows = result["parts"]
    pixels = sum(row["pixels"] for row in rows)
    wall = max((bar.stop for bar in bars), default=0.0)
    died = sum(not bar.done for bar in bars)
    engine = ", ".join(result[key] for key in ("device", "precision") if key in result)
    facts = {
        "scene": result["scene"],
        "class map": result["output"],
        "engine": engine,
        "parts": f"{len(rows):,}",
        "workers": f"{len({bar.worker for bar in bars}):,}",
        "attempts": f"{len(bars):,}, of which {died:,} died",
        "pixels computed": f"{pixels:,}",
        "seconds": f"{wall:,.1f}",
        "pixels/s": f"{pixels / wall:,.0f}" if wall else "",
    }
    lines = [
        f'<tr><td>{_text(name)}</td><td class="name">{_text(fact)}</td></tr>'
        for name, fact in facts.items()
        if fact
    ]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _timeline(bars: list[Bar]) -> str:
    """Draw a lane for each worker, in the order in which they began."""
    workers = list(dict.fromkeys(bar.worker for bar in bars))
    wall = max((bar.stop for bar in bars), default=0.0) or 1.0
    scale = (WIDTH - LABEL) / wall
    height = LANE * len(workers) + LANE
    drawn = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img">']
    for number, worker in enumerate(workers):
        drawn.append(f'<text x="0" y="{LANE * number + 13}">{_text(worker, 34)}</text>')
    for tick in range(TICKS + 1):
        x = LABEL + (WIDTH - LABEL) * tick / TICKS
        drawn.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - LANE}" '
            'stroke="#ddd"/>'
            f'<text x="{x:.1f}" y="{height - 6}" text-anchor="end">'
            f"{wall * tick / TICKS:,.1f} s</text>"
        )
    for bar in bars:
        state = "done" if bar.done else "died"
        x, width = LABEL + bar.start * scale, max((bar.stop - bar.start) * scale, 1.5)
        drawn.append(
            f'<rect class="{state}" x="{x:.1f}" y="{LANE * workers.index(bar.worker)}" '
            f'width="{width:.1f}" height="{BAR}" fill-opacity="0.8"><title>'
            f"{_text(f'part {bar.part}, {bar.start:.1f} to {bar.stop:.1f} s, {state}')}"
            "</title></rect>"
        )
    return "\n".join([*drawn, "</svg>"])


def _table(rows: list[dict[str, Any]]) -> str:
    heads = "part", "attempts", "worker", "seconds", "pixels", "pixels/s"
    lines = [f"<tr>{''.join(f'<th>{name}</th>' for name in heads)}</tr>"]
    for row in rows:
        cells = (
            row["part"],
            f"{row['attempts']:,}",
            row["worker"],
            f"{row['seconds']:,.1f}",
            f"{row['pixels']:,}",
            f"{row['pixels_per_second']:,.0f}",
        )
        lines.append(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in cells)}</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _text(content: object, longest: int | None = None) -> str:
    """Escape text for the page."""
    return html.escape(plain(str(content), longest))

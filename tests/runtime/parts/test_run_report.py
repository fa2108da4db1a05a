"""The page of a join: every attempt, nothing from elsewhere, everything escaped."""

import json
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from mosaic import Mosaic

from hsi_runtime import classify
from hsi_runtime.cli import main
from hsi_runtime.errors import OptionError, OutputError
from hsi_runtime.parts.run_report import bars_of, page


def attempt(started: float, **changes: Any) -> dict[str, Any]:
    made = {"worker": "a:1", "started": started, "seconds": 10.0, "pixels": 500}
    return {**made, "done": True, **changes}


def row(part: str, *tries: dict[str, Any]) -> dict[str, Any]:
    last = tries[-1]
    return {
        "part": part,
        "attempts": len(tries),
        "worker": last["worker"],
        "seconds": last["seconds"],
        "pixels": last["pixels"],
        "pixels_per_second": 50.0,
        "tries": list(tries),
    }


DEAD = {"done": False, "seconds": 0.0, "pixels": 0}
ROWS = [
    row("0/3", attempt(1000.0), attempt(1004.0, worker="b:2")),
    row("1/3", attempt(1002.0, worker="c:3", **DEAD), attempt(1020.0)),
    row("2/3", attempt(1005.0, worker="<b>d</b>:4", **DEAD)),
]
RESULT = {"scene": "<i>s</i>.tif", "output": "o&.tif", "parts": ROWS}


class Checked(HTMLParser):
    """Collects tags, and attributes that lead elsewhere; all tags must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.away: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.away += [n for n, _ in attrs if n in ("src", "href") or n[:2] == "on"]
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def test_attempts_in_time() -> None:
    """One that died is drawn until its part began again, or to the end."""
    bars = [(bar.part, bar.start, bar.stop, bar.done) for bar in bars_of(ROWS)]
    assert bars == [
        ("0/3", 0, 10, True),
        ("1/3", 2, 20, False),
        ("0/3", 4, 14, True),
        ("2/3", 5, 30, False),
        ("1/3", 20, 30, True),
    ]


def test_page_shows_all_and_needs_nothing() -> None:
    text = page(RESULT)
    checked = Checked(text)
    assert checked.tags.count("rect") == 5
    assert not checked.away
    assert not {"script", "link", "img", "i", "b"} & set(checked.tags)
    assert "http" not in text
    assert "&lt;i&gt;s&lt;/i&gt;.tif" in text
    assert "5, of which 2 died" in text
    assert "part 1/3, 2.0 to 20.0 s, died" in text


def test_page_of_attempts_without_duration() -> None:
    rows = [row("0/1", attempt(7.0, seconds=0.0, pixels=0))]
    Checked(page({**RESULT, "parts": rows}))
    Checked(page({**RESULT, "parts": []}))


def test_a_join_writes_it_on_request(
    mosaic: Mosaic, invoke: Callable[..., Any], tmp_path: Path
) -> None:
    for index in range(2):
        mosaic.part("report", index, 2)
    request = mosaic.request("report")
    given = [
        *(request.scene, "-m", mosaic.model.path, "-o", request.output, "--tile", 8),
        *("--confidence", "--probabilities", "--abundances", "--novelty"),
        *("--sets", 0.9, "--reject", 0.4, "--join", "--json"),
    ]
    (tmp_path / "there.html").write_text("mine")
    refused = invoke(main, *given, "--report", tmp_path / "there.html")
    assert (refused.code, "there.html exists" in refused.err) == (5, True)
    assert (tmp_path / "there.html").read_text() == "mine"
    same = invoke(main, *given, "--report", request.output)
    assert (same.code, "Two outputs would be written" in same.err) == (5, True)
    done = invoke(main, *given, "--report", tmp_path / "run.html")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert (tmp_path / "run.html").read_text() == page(result)
    now = os.stat(tmp_path / "run.html").st_mtime
    for part in result["parts"]:
        (one,) = part["tries"]
        assert now - 600 < one["started"] <= now
        assert one["pixels"] == part["pixels"]
    assert re.findall(r"part \d/2", page(result)) == ["part 0/2", "part 1/2"]


def test_only_parts_are_reported_on(
    mosaic: Mosaic, invoke: Callable[..., Any], tmp_path: Path
) -> None:
    scene, model = mosaic.folder / "scene.tif", mosaic.model.path
    report = tmp_path / "run.html"
    for more in ([], ["--part", "0/2"]):
        found = invoke(main, scene, "-m", model, "--report", report, *more)
        assert (found.code, "join them" in found.err) == (2, True)
    many = invoke(main, scene, scene, "-m", model, "--report", report, "--join")
    assert many.code == 5
    with pytest.raises(OptionError, match="join them"):
        classify(scene, model, tmp_path / "o.tif", report=report)


def test_a_report_that_cannot_be_written(
    mosaic: Mosaic, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The map is there; the parts are, too, so the join can be repeated."""
    from hsi_runtime import files

    mosaic.part("full", 0, 1)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    report = tmp_path / "run.html"
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_text", full)
        with pytest.raises(OutputError, match=r"run\.html cannot be written: No space"):
            mosaic.join("full", report=report)
    assert mosaic.join("full", report=report)["status"] == "skipped"
    assert "<svg" in report.read_text()

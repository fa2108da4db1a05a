import json
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsi_runtime.model.plain_text import plain, plain_lines

ANY_TEXT = st.text(st.characters(), max_size=60)  # surrogates and controls included


@given(ANY_TEXT)
def test_every_output_can_hold_the_result(text: str) -> None:
    shown = plain(text)
    assert len(shown) == len(text)
    assert shown.encode().decode() == shown
    element = ElementTree.Element("a", name=shown)
    element.text = shown
    parsed = ElementTree.fromstring(ElementTree.tostring(element))
    assert (parsed.text or "", parsed.attrib["name"]) == (shown, shown)
    assert json.loads(json.dumps(shown, ensure_ascii=False)) == shown
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    assert plain(shown) == shown


@pytest.mark.parametrize(
    "text", ["", "wet soil", "Öl", "水 \U0001f33e", "a\u200dक", "<a> & \"b\" 'c'", "…"]
)
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert plain(text) == text


@pytest.mark.parametrize(
    "unfit",
    ["\0", "\x1b", "\r", "\n", "\t", "\x7f", "\x9b", "\u2028", "\u202e", "\ud800",
     "\uffff"],
)  # fmt: skip
def test_what_is_not_fit_becomes_a_replacement_character(unfit: str) -> None:
    assert plain(f"a{unfit}b") == "a\N{REPLACEMENT CHARACTER}b"


def test_long_text_ends_in_an_ellipsis() -> None:
    assert plain("abcdef", 4) == "abc\N{HORIZONTAL ELLIPSIS}"
    assert plain("abcd", 4) == "abcd"


def test_lines_stay_lines() -> None:
    assert plain_lines("a\x1b[2J\nb\r") == "a\ufffd[2J\nb\ufffd"

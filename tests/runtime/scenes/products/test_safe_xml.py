from pathlib import Path

import pytest

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.products.metadata_xml import read_metadata
from hsi_runtime.scenes.products.safe_xml import MOST_DEPTH, parse

NAMES = ("band/gain", "band/number", "time")
ENTITIES = "".join(
    f'<!ENTITY b{n} "{f"&b{n - 1};" * 10 if n else "ha"}">' for n in range(9)
)
LAUGHS = f"<!DOCTYPE lolz [{ENTITIES}]><lolz>&b8;</lolz>"
OUTSIDE = (
    '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><d><time>&x;</time></d>'
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LAUGHS, "document type"),
        (OUTSIDE, "document type"),
        ('<!DOCTYPE d SYSTEM "http://127.0.0.1:9/d.dtd"><d/>', "document type"),
        ("<a>" * (MOST_DEPTH + 1) + "</a>" * (MOST_DEPTH + 1), "too many elements"),
        ("<a><b></a>", "mismatched"),
        ("<a>", "no element|not well-formed"),
        ("", "no element"),
        ("<a>\x01</a>", "not well-formed"),
        ("<a>&unknown;</a>", "undefined entity"),
        ('<?xml version="1.0" encoding="klingon"?><a/>', "unknown encoding"),
    ],
)
def test_dangerous_and_broken_xml_is_refused(content: str, message: str) -> None:
    with pytest.raises(SceneError, match=message):
        read_metadata(Path("m.xml"), content.encode(), NAMES)


def test_the_number_of_elements_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hsi_runtime.scenes.products.safe_xml.MOST_ELEMENTS", 10)
    nothing = [lambda *_: None] * 3
    parse(b"<a>" + b"<b/>" * 9 + b"</a>", *nothing)
    with pytest.raises(ValueError, match="too many elements"):
        parse(b"<a>" + b"<b/>" * 10 + b"</a>", *nothing)


def test_values_are_found_by_the_end_of_their_path_in_any_case() -> None:
    content = b"""<?xml version="1.0" encoding="UTF-8"?>
    <doc><time> 10:00 </time>
      <bands><Band number="2"><GAIN>0.5</GAIN></Band><band number="1"><gain>1</gain>
      <offset>3</offset></band></bands>
      <gain>9</gain><other><gain>8</gain></other></doc>"""
    metadata = read_metadata(Path("m.xml"), content, NAMES)
    assert metadata.text("TIME") == "10:00"
    assert metadata.by_number("band/gain") == {2: "0.5", 1: "1"}
    assert metadata.texts("band/gain") == ["0.5", "1"]
    assert metadata.text("missing") == ""
    assert metadata.by_number("missing") == {}


def test_bands_are_numbered_by_an_element_beside_the_value() -> None:
    band = "<band><number>{}</number><gain>{}</gain></band>"
    content = f"<d>{band.format(7, 1.5)}{band.format(3, 2.5)}</d>".encode()
    metadata = read_metadata(Path("m.xml"), content, NAMES)
    assert metadata.by_number("band/gain", "band/number") == {7: "1.5", 3: "2.5"}
    for twice in (band.format(7, 1) * 2, band.format("x", 1), "<band><gain/></band>"):
        metadata = read_metadata(Path("m.xml"), f"<d>{twice}</d>".encode(), NAMES)
        with pytest.raises(SceneError, match=r"described twice|no band number"):
            metadata.by_number("band/gain", "band/number")

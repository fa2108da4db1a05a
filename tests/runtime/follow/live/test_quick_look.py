from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hsi_runtime.follow.live import quick_look
from hsi_runtime.follow.live.quick_look import QuickLook
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.output.layers import layers


def test_the_picture_grows(
    document: ModelDocument, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick_look, "REDRAW_S", -1.0)
    look = QuickLook(tmp_path / "c.png", layers(document, ["classes"])[0], 5)
    for row, code in enumerate((2, 3, 7, 255), start=1):
        look.add(np.full((1, 5), code, np.uint8))
        with Image.open(tmp_path / "c.png") as picture:
            assert picture.size == (5, row)
            colours = [picture.getpixel((0, r)) for r in range(row)]
    assert colours == [(0, 0xAA, 0), (0x80, 0x40, 0), (0, 0, 255), (255, 255, 255)]
    assert [p.name for p in tmp_path.iterdir()] == ["c.png"]


def test_a_long_flight_is_thinned_out(
    document: ModelDocument, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick_look, "MOST_ROWS", 10)
    look = QuickLook(tmp_path / "c.png", layers(document, ["classes"])[0], 8)
    for row in range(35):
        code = 2 if row < 20 else 3
        look.add(np.full((1, 8), code, np.uint8))
    look.draw()
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size == (2, 9)  # every fourth row and column
        greens = [picture.getpixel((0, r)) == (0, 0xAA, 0) for r in range(9)]
    assert greens == [True] * 5 + [False] * 4

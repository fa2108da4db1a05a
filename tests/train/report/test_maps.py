from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hsi_train import methods
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.fitting import predict
from hsi_train.fitting import statistics as patches
from hsi_train.report import maps
from hsi_train.report.html import Safe
from hsi_train.splitting import split

MakeData = Callable[..., LabelledData]
ReadPage = Callable[[str], Any]

CPU = torch.device("cpu")
TITLES = ("Three bands", "Labels", "Split", "Class map", "Confidence")


def drawn(data: LabelledData) -> Safe:
    data = split.per_class(data, 3, 0)
    problem = patches.describe_problem(data)
    torch.manual_seed(0)
    method = methods.build("mf2cnet", problem, {"features": 4, "hidden": 4}).eval()
    return maps.maps(method, data, CPU)


def codes(rows: int = 12, cols: int = 15) -> Any:
    return np.random.default_rng(0).integers(0, 4, (rows, cols))


def test_a_scene_has_all_its_pictures(make_data: MakeData, read_page: ReadPage) -> None:
    data = make_data(codes())
    page = read_page(drawn(data))
    names = [image["alt"] for image in page.all("img")]
    assert names == [f"{title} of memory.tif" for title in TITLES]
    labelled = int((data.scenes[0].classes >= 0).sum())
    assert f"{labelled} pixels" in page.text
    assert f"train 9 test {labelled - 9}" in page.text
    assert "validation" not in page.text
    for info in data.classes:
        assert info.name in page.text


def test_composites_name_their_bands(make_data: MakeData, read_page: ReadPage) -> None:
    data = make_data(codes())
    centres = np.array([460.4, 550, 640, 650, 860, 900])
    info = replace(data.reference, wavelengths_nm=centres, bands=6)
    data = replace(data, scenes=[replace(data.scenes[0], info=info)])
    page = read_page(drawn(data))
    assert len(page.all("img")) == 6
    assert "red 640 nm (band 3), green 550 nm (band 2), blue 460 nm (band 1)" in (
        page.text
    )
    assert "red 860 nm (band 5), green 650 nm (band 4), blue 550 nm (band 2)" in (
        page.text
    )
    assert "no wavelengths" not in page.text


def test_the_place_of_a_labelled_part_is_said(
    make_data: MakeData, read_page: ReadPage
) -> None:
    data = make_data(codes())
    info = replace(data.reference, rows=2000, cols=30, resolution_m=4.0)
    scene = replace(data.scenes[0], info=info, row=1000, col=7)
    page = read_page(drawn(replace(data, scenes=[scene])))
    assert (
        "12 rows x 15 columns of 4 m pixels: the labelled part, from row 1,001 and "
        "column 8, of 2,000 x 30"
    ) in page.text


def test_only_some_of_many_scenes_are_drawn(
    make_data: MakeData, read_page: ReadPage
) -> None:
    data = make_data(*(codes() for _ in range(maps.MAX_MAPS + 2)))
    page = read_page(drawn(data))
    assert "2 more scenes are not drawn" in page.text
    assert len(page.all("img")) == maps.MAX_MAPS * len(TITLES)


def test_a_large_scene_is_classified_where_it_has_labels(
    make_data: MakeData, read_page: ReadPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = codes(predict.TILE, 2 * predict.TILE)
    found[:, predict.TILE :] = 0
    data = make_data(found)
    whole = drawn(data)
    assert "only the tiles that hold labels" not in whole
    monkeypatch.setattr(maps, "MAX_MAP_PIXELS", found.size - 1)
    part = drawn(data)
    assert "only the tiles that hold labels" in part
    before, after = (read_page(text).all("img") for text in (whole, part))
    changed = [a["alt"] for a, b in zip(before, after, strict=True) if a != b]
    assert changed == ["Class map of memory.tif", "Confidence of memory.tif"]


@pytest.mark.parametrize(
    ("shape", "scenes", "columns"),
    [
        ((83, 86), 1, (2, 3)),
        ((100, 300), 1, (1, 2)),
        ((500, 10_000), 1, (1, 1)),
        ((10_000, 500), 1, (3, 6)),
        ((20, 20), 6, (3, 6)),
    ],
)
def test_the_layout_follows_the_shape(
    read_page: ReadPage, shape: tuple[int, int], scenes: int, columns: tuple[int, int]
) -> None:
    page = read_page(maps.layout([Safe("x")] * 6, shape, scenes))
    (grid,) = page.all("div")
    assert grid["style"].startswith("--few:{};--many:{};".format(*columns))
    assert ("strip" in grid["class"]) == (shape == (500, 10_000))
    assert ("aspect:20.00" in grid["style"]) == (shape == (500, 10_000))
    assert ("tall" in grid["class"]) == (shape == (10_000, 500))


def test_nodata_everywhere_is_drawn(make_data: MakeData, read_page: ReadPage) -> None:
    """One of two scenes lacks a band, so none of its pixels is valid."""
    data = make_data(codes(), codes())
    blank = data.scenes[1]
    cube = blank.cube.copy()
    cube[2] = np.nan
    dead = replace(
        blank,
        cube=cube,
        valid=np.zeros_like(blank.valid),
        classes=np.full_like(blank.classes, -1),
    )
    page = read_page(drawn(replace(data, scenes=[data.scenes[0], dead])))
    assert len(page.all("img")) == 2 * len(TITLES)

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from hsi_train import method as methods
from hsi_train import metrics, patches, predict, recipe, split
from hsi_train.classes import ClassInfo
from hsi_train.fit import Epoch, Progress
from hsi_train.labelled_scene import LabelledData
from hsi_train.report import MAX_MAPS, write_report
from hsi_train.split import Role

MakeData = Callable[..., LabelledData]

NAMES = ["roofs & <b>walls</b>", "5 $ a_b $ {", "_hidden", "水 und Bäume"]


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def report_of(
    make_data: MakeData,
    folder: Path,
    scenes: int = 1,
    validation: bool = False,
    name: str = "mf2cnet",
) -> str:
    rng = np.random.default_rng(0)
    data = make_data(*(rng.integers(0, 5, (16, 20)) for _ in range(scenes)))
    classes = [
        ClassInfo(c.code, name, c.color)
        for c, name in zip(data.classes, NAMES, strict=True)
    ]
    data = LabelledData(data.scenes, classes, data.bands, [])
    splits = split.per_class(data, 5, 0)
    statistics = patches.statistics(data.scenes, splits)
    problem = patches.problem(data.scenes, splits, 4)
    options = {"features": 4, "hidden": 4} if name == "mf2cnet" else {}
    method = methods.build(name, problem, options).eval()
    cpu = torch.device("cpu")
    matrix = predict.evaluate(
        method.network,
        data.scenes,
        splits,
        Role.TEST,
        statistics.mean,
        method.halo,
        4,
        cpu,
    )
    result = {
        "classes": [{"code": c.code, "name": c.name} for c in classes],
        **metrics.report(matrix, classes),
        "counts": {"train": 20, "validation": 0, "test": 200},
        "receptive_field": 13,
        "parameters": 1234,
        "seed": 7,
        "seconds": 1.5,
        "warnings": ["3 < 4 & a warning", "another warning"],
    }
    kappa = 0.5 if validation else None
    progress = Progress([Epoch(n, 1 / n, 0.1, kappa, kappa, 0.1) for n in (1, 2, 3)])
    wanted = recipe.parse(
        {"method": "mf2cnet", "data": {"scenes": ["<i>$x$</i>.tif"], "labels": ["b"]}}
    )
    path = folder / "report.html"
    write_report(
        path, method, data, splits, statistics, progress, result,
        replace(wanted, options={}), cpu,
    )  # fmt: skip
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("validation", [False, True])
def test_page_is_self_contained(
    make_data: MakeData, tmp_path: Path, validation: bool
) -> None:
    text = report_of(make_data, tmp_path, validation=validation)
    page = Page(text)
    assert {t for t, _ in page.tags} & {"script", "link", "iframe", "object"} == set()
    for _, attributes in page.tags:
        assert not {"href", "srcset", "action"} & attributes.keys()
        source = attributes.get("src")
        assert source is None or source.startswith("data:image/png;base64,")
    assert not re.search(r"https?://|@import|url\(", text)
    assert text.startswith("<!doctype html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_page_names_every_class_and_warning(
    make_data: MakeData, tmp_path: Path
) -> None:
    page = Page(report_of(make_data, tmp_path))
    for name in NAMES:
        assert name in page.text
    assert "3 < 4 & a warning" in page.text
    assert "another warning" in page.text
    assert "<i>$x$</i>.tif" in page.text
    assert not {"b", "i"} & {t for t, _ in page.tags}
    warnings = [a for t, a in page.tags if a.get("class") == "warning"]
    assert len(warnings) == 2


def test_unmixing_is_drawn_where_a_method_unmixes(
    make_data: MakeData, tmp_path: Path
) -> None:
    plain = Page(report_of(make_data, tmp_path))
    unmixed = Page(report_of(make_data, tmp_path, name="s2vnet"))
    assert "Endmembers" not in plain.text
    assert "Endmembers and abundances" in unmixed.text
    images = [sum(t == "img" for t, _ in page.tags) for page in (plain, unmixed)]
    assert images[1] == images[0] + 2  # spectra, maps of the one scene


def test_only_some_of_many_scenes_are_drawn(
    make_data: MakeData, tmp_path: Path
) -> None:
    page = Page(report_of(make_data, tmp_path, scenes=MAX_MAPS + 2))
    assert "2 more scenes are not drawn" in page.text
    assert sum(t == "img" for t, _ in page.tags) == MAX_MAPS + 2

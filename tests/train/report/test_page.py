import base64
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from hsi_runtime.model.model_file import Bands, ClassEntry, Provenance, Values
from hsi_train import methods, recipe
from hsi_train.data.labelled_scene import LabelledData
from hsi_train.data.roles import Role
from hsi_train.fitting import predict
from hsi_train.fitting import statistics as patches
from hsi_train.fitting.progress import Epoch, Progress
from hsi_train.measuring import metrics
from hsi_train.report.page import write_report
from hsi_train.report.run_result import RunResult
from hsi_train.run_folder.checkpoint import Description
from hsi_train.splitting import split
from hsi_train.target import Target

MakeData = Callable[..., LabelledData]
ReadPage = Callable[[str], Any]

CPU = torch.device("cpu")
NAMES = ["roofs & <b>walls</b>", "5 $ a_b $ {", "_hidden", "水 und Bäume"]
ALWAYS = ["Maps", "Accuracy of each class", "Confusion matrix", "Training",
          "Mean spectra", "Provenance", "Recipe"]  # fmt: skip


def made_report(
    make_data: MakeData,
    folder: Path,
    names: list[str] = NAMES,
    validation: bool = False,
    method_name: str = "mf2cnet",
    more: dict[str, Any] | None = None,
) -> tuple[str, dict[str, Any]]:
    """Write the report of an untrained network; return page and result."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, len(names) + 1, (24, 30))
    data = make_data(codes)
    classes = [
        ClassEntry(code=c.code, name=name, color="#8090a0")
        for c, name in zip(data.classes, names, strict=True)
    ]
    data = split.per_class(dataclasses.replace(data, classes=classes), 2, 0)
    problem = patches.describe_problem(data)
    small = {"features": 4, "hidden": 4} if method_name == "mf2cnet" else {}
    torch.manual_seed(0)
    method = methods.build(method_name, problem, small).eval()
    scorer = predict.Scorer(method.network, problem.fill, method.halo, CPU)
    matrix = scorer.score(data, Role.TEST).confusion()
    result = {
        **metrics.report(matrix, classes),
        "counts": {"train": 2 * len(classes), "validation": 0, "test": 200},
        "test_pixels_in_training_windows": 3,
        "receptive_field": 13,
        "parameters": 1234,
        "best_epoch": 2,
        "seed": 7,
        "seconds": 1.5,
        "training": {
            "steps": 300,
            "stop_reason": "epochs",
            "phases": {"held_out": 0, "warm_up": 30, "steady": 180, "decay": 90},
            "balance": 0.5,
        },
        "warnings": ["3 < 4 & a warning", "another warning"],
        **(more or {}),
    }
    kappa = 0.5 if validation else None
    progress = Progress(
        [Epoch(n, 1 / n, 0.1, kappa, kappa, 0.1) for n in (1, 2, 3)], best_epoch=2
    )
    wanted = recipe.parse(
        {"method": "mf2cnet", "data": {"scenes": ["<i>$x$</i>.tif"], "labels": ["b"]}}
    )
    described = Description(
        method=method_name,
        options={},
        classes=[],
        bands=Bands(
            source_count=5, used=[0, 1, 2, 3, 4], wavelengths_nm=None, fwhm_nm=None
        ),
        values=Values(
            quantity="radiance", dtype="float32", scale=None, offset=None, fill=[]
        ),
        resolution_m=None,
        provenance=Provenance(
            version="1", seed=7, recipe=recipe.dump(replace(wanted, options={})),
            data_sha256={"b": "00ff"}, counts={}, overall_accuracy=1,
            average_accuracy=1, kappa=1,
        ),
    )  # fmt: skip
    path = folder / "report.html"
    target_data = Target([], described.bands, described.values, classes, 0, [])
    run = RunResult(
        method=method,
        device=CPU,
        data=data,
        progress=progress,
        metrics=result,
        description=described,
        target_data=target_data if "target" in result else None,
    )
    write_report(path, run)
    return path.read_text(encoding="utf-8"), result


def headings(text: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", text)


@pytest.mark.parametrize("validation", [False, True])
def test_page_is_self_contained(
    make_data: MakeData, read_page: ReadPage, tmp_path: Path, validation: bool
) -> None:
    text, _ = made_report(make_data, tmp_path, validation=validation)
    page = read_page(text)
    tags = {tag for tag, _ in page.tags}
    assert tags.isdisjoint({"script", "link", "iframe", "object", "base", "form"})
    for _, attributes in page.tags:
        assert attributes.keys().isdisjoint({"srcset", "action", "onclick"})
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:").startswith("data:")
    assert not re.search(r"https?:|@import|url\(", text)
    for image in page.all("img"):
        kind, data = image["src"].split(";base64,")
        if kind == "data:image/svg+xml":
            root = ElementTree.fromstring(base64.b64decode(data))
            for element in root.iter():
                for name, value in element.attrib.items():
                    assert (
                        not name.endswith("href")
                        or value[:5] in ("data:",)
                        or (value.startswith("#"))
                    )
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_page_is_a_document(
    make_data: MakeData, read_page: ReadPage, tmp_path: Path
) -> None:
    text, _ = made_report(make_data, tmp_path)
    assert text.startswith("<!doctype html>")
    page = read_page(text)
    assert page.all("html") == [{"lang": "en"}]
    assert "width=device-width" in page.all("meta")[1]["content"]
    assert all(image["alt"] for image in page.all("img"))
    places = [a["id"] for _, a in page.tags if "id" in a]
    assert len(set(places)) == len(places)
    assert [link["href"] for link in page.all("a")] == [f"#{p}" for p in places]


def test_sections_of_every_run(
    make_data: MakeData, read_page: ReadPage, tmp_path: Path
) -> None:
    text, result = made_report(make_data, tmp_path)
    assert headings(text) == ALWAYS
    page = read_page(text)
    overall = f"{100 * result['overall_accuracy']:.2f} %"
    assert f"mf2cnet: {overall} of the test pixels are right" in page.text
    rows = {row[0]: row for row in page.rows if len(row) != 4}  # no confusions
    for c in result["per_class"]:
        shares = [c["precision"], c["recall"], c["f1"]]
        written = ["-" if s is None else f"{100 * s:.2f} %" for s in shares]
        assert rows[c["name"]][1:6] == [*written, str(c["support"]), "2"]
    assert rows["Values"][1] == "radiance, stored as float32"
    assert "There are no validation pixels" in page.text
    assert "Rare classes count for more (balance 0.5)" in page.text


def test_sections_that_need_more(
    make_data: MakeData, read_page: ReadPage, tmp_path: Path
) -> None:
    text, result = made_report(make_data, tmp_path)
    target = {
        key: result[key]
        for key in ("overall_accuracy", "average_accuracy", "kappa", "per_class")
    }
    more: dict[str, Any] = {
        "target": target | {
            "counts": {"compared": 4711},
            "largest_class_share": 0.375,
            "warnings": ["Target: <odd>"],
        },
        "calibration": {
            "temperature": 1.25,
            "note": None,
            "pixels": 50,
            "expected_calibration_error": 0.01,
            "expected_calibration_error_uncalibrated": 0.08,
            "bins": [{"confidence": 0.9, "accuracy": 0.91, "count": 3}],
            "uncalibrated_bins": [{"confidence": 0.99, "accuracy": 0.91, "count": 3}],
            "reject": None,
            "reject_accuracy": None,
            "reject_coverage": None,
        },
        "area_adjusted": {
            "overall_accuracy": [0.8, 0.75, 0.85],
            "classes": [
                {
                    "code": 2,
                    "name": NAMES[1],
                    "area_share": [0.25, 0.2, 0.3],
                    "area_m2": None,
                    "users_accuracy": [0.9, 0.85, 0.95],
                    "producers_accuracy": [0.7, 0.6, 0.8],
                }
            ],
        },
    }  # fmt: skip
    text, _ = made_report(
        make_data, tmp_path, validation=True, method_name="s2vnet", more=more
    )
    assert headings(text) == [
        "Maps", "Accuracy of each class", "Confusion matrix", "Area-adjusted accuracy",
        "Source and target", "Calibration", "Training", "Mean spectra",
        "Endmembers and abundances", "Provenance", "Recipe",
    ]  # fmt: skip
    page = read_page(text)
    assert ["Temperature", "1.250"] in page.rows
    assert "4,711" in next(row for row in page.rows if row[0] == "Pixels")
    assert ["Share of the largest class", "", "37.50 %"] in page.rows
    assert [NAMES[1], "25.0 % [20.0, 30.0]", "90.0 % [85.0, 95.0]",
            "70.0 % [60.0, 80.0]"] in page.rows  # fmt: skip
    assert "Overall accuracy:\n80.0 % [75.0, 85.0]" in page.text
    assert "Target: <odd>" in page.text
    assert "There are no validation pixels" not in page.text
    nothing = dict.fromkeys(("calibration", "area_adjusted"))
    text, _ = made_report(make_data, tmp_path, more=nothing)
    assert headings(text) == ALWAYS


def test_names_and_warnings_are_text(
    make_data: MakeData, read_page: ReadPage, tmp_path: Path
) -> None:
    text, _ = made_report(make_data, tmp_path)
    page = read_page(text)
    for name in (*NAMES, "3 < 4 & a warning", "another warning", "<i>$x$</i>.tif"):
        assert name in page.text
    assert not page.all("i")
    assert len(page.all("b")) == 5  # titles of the pictures
    warnings = [a for _, a in page.tags if a.get("class") == "warning"]
    assert len(warnings) == 2


def test_many_classes(make_data: MakeData, read_page: ReadPage, tmp_path: Path) -> None:
    names = [f"class number {n} with a name" for n in range(64)]
    text, _ = made_report(make_data, tmp_path, names)
    page = read_page(text)
    spectra = [i for i in page.all("img") if i["alt"].startswith("Mean spectrum")]
    assert len(spectra) == 64
    (matrix,) = [a for a in page.all("figure") if "class" in a]
    assert matrix["class"] == "scroll"
    assert 800 < float(matrix["style"].strip("-w:px")) < 1152  # the page has 72 rem
    assert len(text) < 5e6


def test_the_same_run_has_the_same_page(make_data: MakeData, tmp_path: Path) -> None:
    first, second = (made_report(make_data, tmp_path)[0] for _ in range(2))
    assert first == second

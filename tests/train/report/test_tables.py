from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hsi_runtime.model.model_file import Bands, ClassEntry, Provenance, Values
from hsi_train.measuring import metrics
from hsi_train.report import tables
from hsi_train.run_folder.checkpoint import Description

ReadPage = Callable[[str], Any]

CLASSES = [
    ClassEntry(code=3, name="roof <1>", color="#111111"),
    ClassEntry(code=5, name="水", color="#222222"),
    ClassEntry(code=9, name="soil", color="#333333"),
]
MATRIX = np.array([[90, 10, 0], [0, 0, 0], [1, 20, 3]])
CALIBRATION: dict[str, Any] = {
    "temperature": 1.8,
    "pixels": 5000,
    "note": None,
    "expected_calibration_error": 0.021,
    "expected_calibration_error_uncalibrated": 0.094,
    "bins": [],
    "uncalibrated_bins": [],
    "reject": 0.615,
    "reject_accuracy": 0.99,
    "reject_coverage": 0.8,
}


def result_of(**more: Any) -> dict[str, Any]:
    return {
        **metrics.report(MATRIX, CLASSES),
        "counts": {"train": 1200, "validation": 0, "test": 124},
        "test_pixels_in_training_windows": 7,
        "receptive_field": 13,
        "parameters": 12345,
        "best_epoch": 4,
        "seed": 7,
        "seconds": 61.6,
        **more,
    }


def test_cards(read_page: ReadPage) -> None:
    text = read_page(tables.cards(result_of())).text
    assert "Overall accuracy75.00 %" in text
    assert "Average accuracy51.25 %" in text
    assert "Lowest recall12.50 %of soil" in text
    assert "Test pixels1247 inside training windows" in text
    assert "Calibration" not in text
    text = read_page(tables.cards(result_of(calibration=CALIBRATION))).text
    assert "Calibration error2.10 %9.40 % before calibration" in text


def test_the_best_rival_is_at_the_head_and_in_a_table(read_page: ReadPage) -> None:
    first = {
        "name": "lda",
        "variant": "spectra, means of 3 x 3 px",
        "overall_accuracy": 0.7,
        "average_accuracy": 0.6,
        "difference": 0.05,
        "interval": [0.01, 0.08],
    }
    second = first | {"name": "rbf-svm", "overall_accuracy": 0.8, "interval": None}
    result = result_of(rivals=[first, second])
    text = read_page(tables.cards(result)).text
    assert "Best simple rival80.00 %average 60.00 %; rbf-svm" in text
    rows = read_page(tables.rivals_table(result)).rows
    assert rows[1][1:] == ["70.00 %", "60.00 %", "+5.0", "+1.0 to +8.0"]
    assert rows[2][4] == "fewer than five blocks"
    assert "rival" not in read_page(tables.cards(result_of())).text


def test_accuracy_of_each_class(read_page: ReadPage) -> None:
    counts = np.array([[0, 1200, 30, 100, 0], [0, 5, 0, 0, 0], [0, 6, 0, 24, 9]])
    page = read_page(tables.class_table(result_of(), CLASSES, counts))
    assert page.rows == [
        ["class", "precision", "recall", "F1", "test pixels", "training",
         "validation", "code"],
        ["roof <1>", "98.90 %", "90.00 %", "94.24 %", "100", "1,200", "30", "3"],
        ["水", "0.00 %", "-", "-", "0", "5", "0", "5"],
        ["soil", "100.00 %", "12.50 %", "22.22 %", "24", "6", "0", "9"],
    ]  # fmt: skip


def test_confusions_come_in_order(read_page: ReadPage) -> None:
    page = read_page(tables.confusion_table(result_of(), CLASSES))
    assert page.rows == [
        ["true", "taken for", "pixels", "of the true"],
        ["soil", "水", "20", "83.33 %"],
        ["roof <1>", "水", "10", "10.00 %"],
        ["soil", "roof <1>", "1", "4.17 %"],
    ]


def test_only_the_most_frequent_confusions_are_listed(read_page: ReadPage) -> None:
    matrix = np.arange(36).reshape(6, 6)
    classes = [ClassEntry(code=n, name=f"{n}", color="#000000") for n in range(6)]
    table = tables.confusion_table({"confusion": matrix.tolist()}, classes)
    rows = read_page(table).rows[1:]
    assert [row[2] for row in rows] == ["34", "33", "32", "31", "30", "29", "27", "26",
                                        "25", "24"]  # fmt: skip


def test_a_perfect_map_has_no_confusion() -> None:
    assert not tables.confusion_table({"confusion": [[5, 0], [0, 3]]}, CLASSES)


def adjusted(area: list[float] | None) -> dict[str, Any]:
    return {
        "overall_accuracy": [0.8, 0.75, 0.85],
        "classes": [
            {
                "code": c.code,
                "name": c.name,
                "area_share": [0.25, 0.2, 0.3],
                "area_m2": area,
                "users_accuracy": [0.9, 0.85, 0.95],
                "producers_accuracy": [0.7, 0.6, 0.8],
            }
            for c in CLASSES
        ],
    }


@pytest.mark.parametrize(
    ("area", "unit", "shown"),
    [
        ([2.5e8, 2e8, 3e8], "km²", "250.0 [200.0, 300.0]"),
        ([2.5e6, 2e6, 3e6], "ha", "250.0 [200.0, 300.0]"),
        ([25_000.0, 20_000.0, 30_000.0], "m²", "25,000 [20,000, 30,000]"),
    ],
)
def test_areas_have_intervals_and_a_fitting_unit(
    read_page: ReadPage, area: list[float], unit: str, shown: str
) -> None:
    page = read_page(tables.area_table(adjusted(area), CLASSES))
    assert page.rows[0][2] == f"area [{unit}]"
    assert page.rows[2] == ["水", "25.0 % [20.0, 30.0]", shown,
                            "90.0 % [85.0, 95.0]", "70.0 % [60.0, 80.0]"]  # fmt: skip


def test_areas_without_a_ground_unit(read_page: ReadPage) -> None:
    page = read_page(tables.area_table(adjusted(None), CLASSES))
    assert page.rows[0] == ["class", "share of the map area", "user's accuracy",
                            "producer's accuracy"]  # fmt: skip
    assert {len(row) for row in page.rows} == {4}


def test_a_class_that_the_map_or_the_sample_lacks(read_page: ReadPage) -> None:
    table = adjusted(None)
    table["classes"][1] |= {"users_accuracy": None, "producers_accuracy": None}
    page = read_page(tables.area_table(table, CLASSES))
    assert page.rows[2] == ["水", "25.0 % [20.0, 30.0]", "-", "-"]


def test_calibration(read_page: ReadPage) -> None:
    page = read_page(tables.calibration_table(CALIBRATION))
    assert dict(page.rows) == {
        "Temperature": "1.800",
        "Fitted on": "5,000 validation pixels",
        "Expected calibration error before": "9.40 %",
        "Expected calibration error after": "2.10 %",
        "Suggested --reject": "0.615",
        "Accuracy of what it keeps, of validation": "99.00 %",
        "Share of pixels that it keeps, of validation": "80.00 %",
    }
    plain = CALIBRATION | {"temperature": 1.0, "note": "not fitted: why"}
    rows = read_page(tables.calibration_table(plain)).rows
    assert rows[0] == ["Temperature", "1.000, not fitted: why"]
    nothing = dict.fromkeys(("reject", "reject_accuracy", "reject_coverage"))
    page = read_page(tables.calibration_table(CALIBRATION | nothing))
    assert len(page.rows) == 4


def test_sets_of_classes(read_page: ReadPage) -> None:
    offered = {"level": 0.9, "threshold": 0.125, "coverage": 0.93, "mean_size": 1.5}
    page = read_page(tables.sets_table(result_of(sets=[offered])))
    assert page.rows[1] == ["0.9", "93.00 %", "1.50", "0.125"]
    assert not tables.sets_table(result_of(sets=[]))


def description(wavelengths: list[float] | None) -> Description:
    return Description(
        method="mf2cnet",
        options={},
        classes=[],
        bands=Bands(
            source_count=9, used=[0, 4, 2], wavelengths_nm=wavelengths, fwhm_nm=None
        ),
        values=Values(
            quantity="radiance", dtype="int16", scale=None, offset=None, fill=[]
        ),
        resolution_m=None,
        provenance=Provenance(
            version="1.2",
            seed=7,
            recipe="",
            data_sha256={"a&b.tif": "00ff"},
            counts={},
            overall_accuracy=1,
            average_accuracy=1,
            kappa=1,
        ),
    )


def test_provenance(read_page: ReadPage) -> None:
    table = tables.provenance_table(result_of(), description([400, 800, 600]))
    rows = dict(read_page(table).rows)
    assert rows["Bands"] == "3 of 9, 400 to 800 nm"
    assert rows["Values"] == "radiance, stored as int16"
    assert rows["Version of hsi-edge"] == "1.2"
    assert rows["Parameters"] == "12,345"
    assert rows["Time"] == "62 s"
    assert rows["SHA-256 of a&b.tif"] == "00ff"
    assert "Encoder" not in rows


def test_provenance_of_an_encoder(read_page: ReadPage) -> None:
    origin = {"method": "s2former", "version": "1", "scenes": ["x.tif", "<y>.tif"],
              "steps": 6000, "seed": 3, "loss": 0.5}  # fmt: skip
    table = tables.provenance_table(result_of(pretraining=origin), description(None))
    rows = dict(read_page(table).rows)
    assert rows["Encoder"] == "s2former, 6,000 steps, seed 3, on x.tif, <y>.tif"
    assert rows["Bands"] == "3 of 9"

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hsi_train.report.seeds import write_report

ReadPage = Callable[[str], Any]


def test_page_shows_mean_and_spread_and_leads_to_each_run(
    tmp_path: Path, read_page: ReadPage
) -> None:
    def figure(*values: float | None, std: float | None = 0.02) -> dict[str, Any]:
        return {"mean": values[0], "std": std, "values": list(values)}

    found = {
        "seeds": [3, 4],
        "overall_accuracy": figure(0.9, 0.92),
        "average_accuracy": figure(0.8, 0.82),
        "kappa": figure(0.7, 0.72),
        "per_class": {
            "1": {"name": "roof <i>", **figure(0.6, 0.61)},
            "2": {"name": "untested", **figure(None, None, std=None)},
        },
    }
    write_report(tmp_path / "report.html", found, "mf2cnet")
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = read_page(content)
    assert "mf2cnet: 90.0 ± 2.0 % of the test pixels are right, mean of 2 seeds" in (
        page.text
    )
    head = ["", "mean", "standard deviation", "seed 3", "seed 4"]
    assert page.rows == [
        head,
        ["Overall accuracy", "90.00 %", "2.00 %", "90.00 %", "92.00 %"],
        ["Average accuracy", "80.00 %", "2.00 %", "80.00 %", "82.00 %"],
        ["Kappa", "0.700", "0.020", "0.700", "0.720"],
        head,
        ["roof <i>", "60.00 %", "2.00 %", "60.00 %", "61.00 %"],
        ["untested", "-", "-", "-", "-"],
    ]
    links = re.findall('href="(.*?)"', content)
    assert links == ["seed-3/report.html", "seed-4/report.html"] * 2

"""Writes ``report.html`` of several folds: accuracy of each, mean and interval."""

from pathlib import Path
from typing import Any

from hsi_runtime import files
from hsi_train.report.html import Safe, page, paragraph, percent, section, table, text

FIGURES = {
    "overall_accuracy": "Overall accuracy",
    "average_accuracy": "Average accuracy",
}


def write_report(path: Path, summary: dict[str, Any], method: str) -> None:
    """Write the page; its links lead to ``fold-K/report.html`` beside it.

    Args:
        path: Path of the page.
        summary: Content of ``folds.json``.
        method: Name of the method.
    """
    count = summary["folds"]
    mean = percent(summary["overall_accuracy"]["mean"])
    headline = f"{method}: {mean} of the test pixels are right, mean of {count} folds"
    links = [
        Safe(f'<a href="fold-{k}/report.html">fold {k}</a>')
        for k in range(1, count + 1)
    ]
    head = ["", "mean", "95 % interval", *links]
    rows = [_row(name, summary[key]) for key, name in FIGURES.items()]
    for rival in summary["rivals"]:
        rows += [
            _row(f"{rival['name']}: {name.lower()}", rival[key])
            for key, name in FIGURES.items()
        ]
        rows.append(_row(f"{rival['name']}: the network's gain", rival["difference"]))
    content = page(
        method,
        Safe(f"<h1>{text(headline)}</h1>"),
        paragraph(
            "Each labelled pixel is tested by one fold, whose training windows do not "
            "show it. The folds' trainings share most pixels, so that the interval is "
            "rather too narrow. The last model was trained on all labels, as long as "
            "the folds found; no pixel is left to test it."
        ),
        *(
            paragraph(f"No fold tests {name}: its labels lie in one block.", "warning")
            for name in summary["untested"]
        ),
        paragraph(Safe('<a href="model/report.html">The model</a>')),
        section("Accuracy of the test pixels", table(head, rows)),
    )
    files.write_text(path, content)


def _row(name: str, figure: dict[str, Any]) -> list[str]:
    return [text(name), *_mean(figure), *(percent(v) for v in figure["values"])]


def _mean(figure: dict[str, Any]) -> tuple[str, str]:
    if figure["interval"] is None:
        return percent(figure["mean"]), "-"
    low, high = (100 * value for value in figure["interval"])
    return percent(figure["mean"]), f"{low:.1f} to {high:.1f} %"

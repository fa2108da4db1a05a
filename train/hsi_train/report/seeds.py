"""Writes ``report.html`` of several seeds: mean, spread, and links to each run."""

from pathlib import Path
from typing import Any

from hsi_runtime import files
from hsi_train.report.html import Safe, page, paragraph, percent, section, table, text


def write_report(path: Path, summary: dict[str, Any], method: str) -> None:
    """Write the page; its links lead to ``seed-K/report.html`` beside it.

    Args:
        path: Path of the page.
        summary: Content of ``seeds.json``.
        method: Name of the method.
    """
    seeds, overall = summary["seeds"], summary["overall_accuracy"]
    headline = f"{method}: {len(seeds)} seeds, tested on nothing"
    if overall["mean"] is not None:
        headline = (
            f"{method}: {_spread(overall)} of the test pixels are right, "
            f"mean of {len(seeds)} seeds"
        )
    links = [Safe(f'<a href="seed-{k}/report.html">seed {k}</a>') for k in seeds]
    head = ["", "mean", "standard deviation", *links]
    names = {
        "Overall accuracy": overall,
        "Average accuracy": summary["average_accuracy"],
    }
    kappa = summary["kappa"]
    figures = [
        *(_row(text(name), figure) for name, figure in names.items()),
        ["Kappa", *("-" if v is None else f"{v:.3f}" for v in _figures(kappa))],
    ]
    recalls = [
        _row(Safe(f"<bdi>{text(c['name'])}</bdi>"), c)
        for c in summary["per_class"].values()
    ]
    content = page(
        method,
        Safe(f"<h1>{text(headline)}</h1>"),
        paragraph(
            "Each seed has its own training, and its own split unless one is given, so "
            "the standard deviation shows how much of a figure is chance. The links "
            "lead to the report of each seed; hsi-export takes its folder.",
            "soft",
        ),
        section("Accuracy of the test pixels", table(head, figures)),
        section("Recall of each class", table(head, recalls)),
    )
    files.write_text(path, content)


def _figures(figure: dict[str, Any]) -> list[float | None]:
    return [figure["mean"], figure["std"], *figure["values"]]


def _row(name: Safe, figure: dict[str, Any]) -> list[str]:
    return [name, *(percent(value) for value in _figures(figure))]


def _spread(figure: dict[str, Any]) -> str:
    return f"{100 * figure['mean']:.1f} ± {100 * figure['std']:.1f} %"

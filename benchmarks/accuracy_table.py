"""Turns the cells of the accuracy benchmark into a Markdown table."""

from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import common

FIGURES = ("overall_accuracy", "average_accuracy", "kappa", "seconds", "cpu_seconds")

Result = dict[str, Any]


def summary(cells: list[Result]) -> Result:
    """Summarise the cells of one row on one data set.

    Returns:
        Seeds, failures by seed, classes without test pixels and, of the cells that are
        done, mean and population standard deviation of each figure: shares in [0, 1],
        seconds of a run by the clock and of the processor.
    """
    done = [c for c in cells if "error" not in c]
    out: Result = {
        "seeds": [c["seed"] for c in done],
        "failed": {str(c["seed"]): c["error"] for c in cells if "error" in c},
    }
    if done:
        out["untested"] = [k for k, v in done[0]["recalls"].items() if v is None]
    for figure in FIGURES if done else ():
        values = [c[figure] for c in done]
        out[figure] = {"mean": fmean(values), "std": pstdev(values), "each": values}
    return out


def table(results: list[Result]) -> dict[str, dict[str, Result]]:
    """Summarise by data set and row, in the order in which they first come."""
    grouped: dict[str, dict[str, list[Result]]] = {}
    for cell in results:
        rows = grouped.setdefault(cell["data"], {})
        rows.setdefault(cell["row"], []).append(cell)
    return {
        data: {row: summary(cells) for row, cells in rows.items()}
        for data, rows in grouped.items()
    }


def markdown(content: dict[str, dict[str, Result]], command: str) -> str:
    """Write one table for each data set, accuracy in per cent."""
    lines = [
        "Accuracy on the test pixels in per cent, mean ± population standard deviation",
        "over the seeds. All rows of a data set use the same splits. Seconds are those",
        "of a run: wall time and, in brackets, processor time.",
        "",
        f"    {command}",
    ]
    for data, rows in content.items():
        lines += ["", f"## {data}", ""]
        untested = {k for figures in rows.values() for k in figures.get("untested", [])}
        if untested:
            names = ", ".join(sorted(untested))
            lines += [f"No test pixel of {names}: not in the averages.", ""]
        lines += [
            "| method | overall | average | kappa x 100 | seconds (CPU) | seeds |",
            "|---|---|---|---|---|---|",
        ]
        for row, figures in rows.items():
            seeds = f"{len(figures['seeds'])}"
            if figures["failed"]:
                seeds += f"; failed: {', '.join(figures['failed'])}"
            if not figures["seeds"]:
                lines.append(f"| {row} | failed | - | - | - | {seeds} |")
                continue
            shares = [
                f"{100 * figures[k]['mean']:.2f} ± {100 * figures[k]['std']:.2f}"
                for k in FIGURES[:3]
            ]
            wall, cpu = (figures[k]["mean"] for k in FIGURES[3:])
            seconds = f"{wall:.0f} ({cpu:.0f})"
            lines.append(f"| {row} | {' | '.join(shares)} | {seconds} | {seeds} |")
    return "\n".join(lines) + "\n"


def write(folder: Path, results: list[Result], command: str) -> None:
    text = f"{markdown(table(results), command)}\n{common.machine_text()}\n"
    (folder / "accuracy.md").write_text(text, encoding="utf-8")

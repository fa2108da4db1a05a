"""Turns the cells of the accuracy benchmark into Markdown tables."""

from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import common
import numpy as np
from scipy import stats

from hsi_train.rivals.comparing import interval

FIGURES = ("overall_accuracy", "average_accuracy", "kappa", "seconds", "cpu_seconds")
SHOWN = FIGURES[:3]
SAME = "lda-sum"  # the rival that is method lda
RIVAL = "best rival"
AFTER = "expected_calibration_error"
BEFORE = f"{AFTER}_uncalibrated"
LEVEL = 0.9  # of the prediction sets that are shown

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


def best_rival(cells: list[Result]) -> Result | None:
    """Name the rival with the highest mean overall accuracy on a data set.

    Returns:
        Its name, its row of ``metrics.json`` by seed, and its variants; None where no
        cell has rivals besides the linear ones.
    """
    by_name: dict[str, dict[int, Result]] = {}
    for cell in cells:
        rivals = cell.get("rivals", [])
        if len(rivals) <= 2:  # the cheap ones, of a network's run
            continue
        for rival in rivals:
            if rival["name"] != SAME:
                by_name.setdefault(rival["name"], {})[cell["seed"]] = rival
    if not by_name:
        return None

    def mean(name: str) -> float:
        return fmean(r["overall_accuracy"] for r in by_name[name].values())

    name = max(by_name, key=mean)
    rows = by_name[name]
    variants = sorted({rival["variant"] for rival in rows.values()})
    return {"name": name, "rows": rows, "variants": variants}


def difference(cells: list[Result], best: Result) -> Result | None:
    """Compare a row with the best rival on the same pixels.

    Where splits are drawn, the interval is over draws (Student's t); where one split is
    given, over blocks of its test pixels, the row's seeds averaged.

    Returns:
        Mean difference of the overall accuracy and its 95 % interval, or None for that;
        None where no seed has both.
    """
    done = [c for c in cells if "error" not in c and c.get("test_blocks")]
    splits = {c.get("split") for c in done}
    if len(splits) == 1 and len(best["rows"]) == 1:
        (rival,) = best["rows"].values()
        right = np.mean([c["test_blocks"]["right"] for c in done], axis=0)
        pixels = np.array(done[0]["test_blocks"]["pixels"])
        gain = right - np.array(rival["right"])
        limits = interval(gain, pixels)
        return {"mean": float(gain.sum() / pixels.sum()), "interval": limits}
    both = [c for c in done if c["seed"] in best["rows"]]
    gains = [
        c["overall_accuracy"] - best["rows"][c["seed"]]["overall_accuracy"]
        for c in both
    ]
    if not gains:
        return None
    mean = fmean(gains)
    if len(gains) < 3:
        return {"mean": mean, "interval": None}
    half = stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains)
    return {"mean": mean, "interval": (mean - half, mean + half)}


def table(results: list[Result]) -> dict[str, dict[str, Result]]:
    """Summarise by data set and row, in the order in which they first come.

    The best rival is a row of its own, and each other row has its difference from it.
    """
    grouped: dict[str, dict[str, list[Result]]] = {}
    for cell in results:
        rows = grouped.setdefault(cell["data"], {})
        rows.setdefault(cell["row"], []).append(cell)
    out: dict[str, dict[str, Result]] = {}
    for data, rows in grouped.items():
        out[data] = {row: summary(cells) for row, cells in rows.items()}
        best = best_rival([cell for cells in rows.values() for cell in cells])
        if best is None:
            continue
        for row, cells in rows.items():
            out[data][row]["difference"] = difference(cells, best)
        values = list(best["rows"].values())
        out[data][RIVAL] = {
            "name": best["name"],
            "variants": best["variants"],
            "seeds": list(best["rows"]),
            "failed": {},
        } | {
            figure: {
                "mean": fmean(v[figure] for v in values),
                "std": pstdev(v[figure] for v in values),
                "each": [v[figure] for v in values],
            }
            for figure in FIGURES[:2]
        }
    return out


def markdown(content: dict[str, dict[str, Result]], command: str) -> str:
    """Write one table for each data set, accuracy in per cent."""
    lines = [
        "Accuracy on the test pixels in per cent, mean ± population standard deviation",
        "over the seeds where there are several. All rows of a data set use the same",
        "splits. The best rival is that of the simple classifiers with the highest",
        "overall accuracy on the test pixels; what each sees was chosen without them.",
        "Differences from it are in points of overall accuracy with a 95 % interval:",
        "over draws of the split, or, where one split is given, over blocks of test",
        "pixels. Seconds are those of a run: wall time and, in brackets, processor",
        "time.",
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
            "| method | overall | average | kappa x 100 | to the best rival | "
            "seconds (CPU) | seeds |",
            "|---|---|---|---|---|---|---|",
            *(_line(row, figures) for row, figures in rows.items()),
        ]
        if RIVAL in rows:
            chosen = "; ".join(rows[RIVAL]["variants"])
            lines += ["", f"{rows[RIVAL]['name']} sees: {chosen}."]
    return "\n".join(lines) + "\n"


def confidence(cells: list[Result]) -> list[str]:
    """Tabulate how well probabilities and prediction sets keep what they promise.

    Args:
        cells: Of all data sets; those without validation pixels are left out.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for cell in cells:
        if "error" not in cell and (AFTER in cell or cell.get("sets")):
            groups.setdefault((cell["data"], cell["row"]), []).append(cell)
    if not groups:
        return []
    lines = [
        "",
        "## Confidence",
        "",
        "Expected calibration error on the test pixels, in points, before and after",
        "temperature scaling, and the largest rise by it in one run. Then the share of",
        f"test pixels whose class is in its set of level {LEVEL:g}, mean and least of",
        "the runs, and the mean number of classes in a set.",
        "",
        *common.table_head(
            ("data", "method", "runs", "before", "after", "largest rise",
             "in the set", "least", "classes in a set")
        ),
    ]  # fmt: skip
    for (data, row), group in groups.items():
        errors = [(100 * c[BEFORE], 100 * c[AFTER]) for c in group if AFTER in c]
        sets = [s for c in group for s in c.get("sets", []) if s["level"] == LEVEL]
        figures = [""] * 6
        if errors:
            before, after = map(fmean, zip(*errors, strict=True))
            rise = max(b - a for a, b in errors)
            figures[:3] = [f"{before:.1f}", f"{after:.1f}", f"{rise:+.1f}"]
        if sets:
            shares = [100 * s["coverage"] for s in sets]
            size = fmean(s["mean_size"] for s in sets)
            figures[3:] = [f"{fmean(shares):.1f}", f"{min(shares):.1f}", f"{size:.2f}"]
        lines.append(f"| {' | '.join([data, row, str(len(group)), *figures])} |")
    return lines


def _line(row: str, figures: Result) -> str:
    seeds = f"{len(figures['seeds'])}"
    if figures["failed"]:
        seeds += f"; failed: {', '.join(figures['failed'])}"
    if not figures["seeds"]:
        return f"| {row} | failed | - | - | - | - | {seeds} |"
    several = len(figures["seeds"]) > 1
    shares = [
        f"{100 * figures[k]['mean']:.2f}"
        + (f" ± {100 * figures[k]['std']:.2f}" if several else "")
        if k in figures
        else ""
        for k in SHOWN
    ]
    seconds = ""
    if "seconds" in figures:
        wall, cpu = (figures[k]["mean"] for k in FIGURES[3:])
        seconds = f"{wall:.0f} ({cpu:.0f})"
    name = row if row != RIVAL else f"{RIVAL}: {figures['name']}"
    cells = [name, *shares, _points(figures.get("difference")), seconds, seeds]
    return f"| {' | '.join(cells)} |"


def _points(difference: Result | None) -> str:
    if difference is None:
        return ""
    text = f"{100 * difference['mean']:+.2f}"
    if difference["interval"] is not None:
        low, high = (100 * limit for limit in difference["interval"])
        text += f" ({low:+.2f} to {high:+.2f})"
    return text


def write(folder: Path, results: list[Result], command: str) -> None:
    sure = "\n".join([*confidence(results), ""])
    text = f"{markdown(table(results), command)}{sure}\n{common.machine_text()}\n"
    (folder / "accuracy.md").write_text(text, encoding="utf-8")

"""Writes tables from what the benchmarks measured: ``benchmarks/results``."""

import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import source
from tables import table

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "results"
PAGES = Path(__file__).parent / "pages"
DATA = {
    "salinas_a": "SalinasA, 10 pixels a class",
    "salinas_a_5": "SalinasA, 5 pixels a class",
    "salinas_a_disjoint": "SalinasA, opposite corners",
    "enmap_potsdam": "EnMAP Potsdam, given blocks",
    "indian_pines_fixed": "Indian Pines, published fixed split",
    "indian_pines_disjoint": "Indian Pines, published disjoint mask",
    "neon_mlbs": "NEON MLBS, tree crowns",
    "simulated_60": "simulated, 60 bands, 10 classes",
    "simulated_150": "simulated, 150 bands, 3 classes",
    "simulated_220": "simulated, 220 bands, 13 classes",
}
RIVAL, SAME = "best rival", "lda-sum"  # the rival that is method lda
SPEED = "dense_speed"
# Methods, and when to take each.
USES = {
    "lda": "a first try: linear, fitted in seconds; few labels",
    "mf2cnet": "fields and textures: convolutional, few settings",
    "s2vnet": "large scenes, small machines; subpixel shares",
    "s2former": "few labels; can pre-train on unlabelled scenes",
    "s2amsnet": "maps of another day or place than the labels",
}
# Not shown as figures of a result: shown elsewhere, or for the program only.
HIDDEN = ("benchmark", "machine", "command", "method", "code")

Result = dict[str, Any]
Shares = tuple[float, float]  # overall and average accuracy


def summary() -> str:
    """Write the table of the README: one accuracy and one speed for each method."""
    data = "enmap_potsdam"
    accuracy = _accuracy()
    rows = [
        [f"`{method}`", use, _share(accuracy[method].get(data)), _speed(method)[0]]
        for method, use in USES.items()
    ]
    use = "for comparison: the best of scikit-learn's that see window means"
    rows.append([RIVAL, use, _share(accuracy[RIVAL].get(data)), ""])
    head = ["method", "take it for", "overall / average accuracy, %", "pixels/s"]
    return "\n\n".join([table(head, rows), *_note(["accuracy/cells.jsonl"])])


def comparison() -> str:
    """Set the accuracy of all methods side by side on all scenes, and their cost."""
    accuracy = _accuracy()
    columns = [*USES, RIVAL]
    rows = [
        [title, *_best_marked([accuracy[name].get(data) for name in columns])]
        for data, title in DATA.items()
        if any(data in accuracy[name] for name in columns)
    ]
    shares = table(["", *(f"`{name}`" for name in USES), RIVAL], rows)
    head = ["", "pixels/s", "MMAC a pixel", "times faster than patches"]
    cost = table(head, [[f"`{method}`", *_speed(method)] for method in USES])
    speeds = [f"{SPEED}_{method}.json" for method in USES]
    return "\n\n".join([shares, *_note(["accuracy/cells.jsonl"]), cost, *_note(speeds)])


def _accuracy() -> dict[str, dict[str, list[Shares]]]:
    """Return overall and average accuracies of all seeds, by row and by data set."""
    cells = [
        cell
        for cell in lines_of(FOLDER / "accuracy" / "cells.jsonl")
        if "error" not in cell
    ]
    accuracy: dict[str, dict[str, list[Shares]]] = {name: {} for name in USES}
    for cell in cells:
        by_data = accuracy.setdefault(cell["row"], {})
        by_data.setdefault(cell["data"], []).append(_shares(cell))
    accuracy[RIVAL] = _best_rivals(cells)
    return accuracy


def _best_rivals(cells: list[Result]) -> dict[str, list[Shares]]:
    """Return the accuracies of the best simple rival, by data set."""
    return {
        data: list(seeds.values()) for data, (_, seeds) in best_rivals(cells).items()
    }


def best_rivals(cells: list[Result]) -> dict[str, tuple[str, dict[int, Shares]]]:
    """Return the best simple rival of each data set, and its accuracies by seed.

    The best has the highest mean overall accuracy; only runs that fitted all rivals
    count.
    """
    fitted: dict[str, dict[str, dict[int, Shares]]] = {}
    for cell in cells:
        rivals = [r for r in cell.get("rivals", []) if r["name"] != SAME]
        for rival in rivals if len(rivals) > 1 else []:
            by_name = fitted.setdefault(cell["data"], {})
            by_name.setdefault(rival["name"], {})[cell["seed"]] = _shares(rival)
    return {
        data: max(names.items(), key=lambda item: _mean([*item[1].values()]))
        for data, names in fitted.items()
    }


def _shares(result: Result) -> Shares:
    return result["overall_accuracy"], result["average_accuracy"]


def _mean(seeds: list[Shares]) -> float:
    """Return the mean overall accuracy."""
    return fmean(overall for overall, _ in seeds)


def _note(files: Iterable[str]) -> list[str]:
    """Say so where results are of an earlier version of the code, and why."""
    declared = tomllib.loads((FOLDER / "stale.toml").read_text(encoding="utf-8"))
    reasons = sorted({declared[file] for file in files if file in declared})
    note = f"*Measured with an earlier version of the code: {'; '.join(reasons)}.*"
    return [note] if reasons else []


def _best_marked(cells: list[list[Shares] | None]) -> list[str]:
    """Write the cells of a row, the highest mean overall accuracy in bold."""
    highest = max(_mean(seeds) for seeds in cells if seeds)
    return [
        f"**{_share(seeds)}**" if seeds and _mean(seeds) == highest else _share(seeds)
        for seeds in cells
    ]


def _share(seeds: list[Shares] | None) -> str:
    """Write mean overall and average accuracy, the first with its deviation."""
    if not seeds:
        return "not run"
    overall, average = zip(*seeds, strict=True)
    spread = f" ± {100 * pstdev(overall):.1f}" if len(seeds) > 1 else ""
    return (
        f"{100 * _mean(seeds):.1f}{spread} / {100 * fmean(average):.1f} ({len(seeds)})"
    )


def _speed(method: str) -> list[str]:
    path = FOLDER / f"{SPEED}_{method}.json"
    if not path.is_file():
        return ["", "", ""]
    measured = json.loads(path.read_text())
    rate, ratio = measured["dense_pixels_per_second"], measured["ratio_median"]
    return [f"{rate:,}", f"{measured['macs_per_pixel'] / 1e6:.2f}", f"{ratio:g}"]


def accuracy() -> str:
    """Include the tables of the accuracy benchmark."""
    text = _included(FOLDER / "accuracy" / "accuracy.md")
    return "\n\n".join([text, *_note(["accuracy/cells.jsonl"])])


def _included(path: Path) -> str:
    """Include a Markdown file, its headings one level lower."""
    text = path.read_text(encoding="utf-8").strip()
    return re.sub(r"^#", "##", text, flags=re.MULTILINE)


def benchmark(name: str) -> str:
    """Write what a benchmark measures, its command, and all its figures.

    ``NAME.md`` in the results, where a benchmark wrote one, stands for our table.

    Raises:
        LookupError: It has no results.
    """
    script = f"benchmarks/{name}.py"
    question, _, text = source.about(script).partition("\n\n")
    paths = files_of(name)
    if not paths:
        raise LookupError(f"{script} has no results in {FOLDER.name}")
    own = [_included(p) for p in paths if p.suffix == ".md"]
    if own:
        tables = own
    else:
        figures = [json.loads(p.read_text()) for p in paths if p.suffix == ".json"]
        tables = [_figures(figures, name)]
    note = _note(p.name for p in paths)
    return "\n\n".join([f"## {question}", text, *tables, *note])


def files_of(name: str) -> list[Path]:
    """Find what a benchmark wrote: ``NAME.*`` or ``NAME_CASE.*``."""
    scripts = [p.stem for p in (ROOT / "benchmarks").glob("*.py")]

    def owner(path: Path) -> str:
        fitting = [s for s in scripts if f"{path.stem}_".startswith(f"{s}_")]
        return max(fitting, key=len, default="")

    kinds = (".json", ".jsonl", ".md")
    paths = sorted(p for p in FOLDER.iterdir() if p.suffix in kinds)
    return [p for p in paths if owner(p) == name]


def other_benchmarks() -> str:
    """Write the results of every benchmark that no page names."""
    named = "\n".join(p.read_text(encoding="utf-8") for p in PAGES.glob("*.md"))
    shown = set(re.findall(r"generated: benchmark (\w+)", named)) | {"accuracy"}
    names = sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py"))
    return "\n\n".join(benchmark(n) for n in names if n not in shown and files_of(n))


def lines_of(path: Path) -> list[Result]:
    """Read a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _figures(contents: list[Result], name: str) -> str:
    """Write the figures of JSON results by case, and the machine.

    Cases are the results, or the parts of a single one that share figures.
    """
    cases: dict[str, dict[str, str]] = {}
    common: dict[str, str] = {}
    for content in contents:
        shown = {k: v for k, v in content.items() if k not in HIDDEN}
        parts = {k: v for k, v in shown.items() if isinstance(v, dict)}
        lists = [v for v in shown.values() if isinstance(v, list)]
        if len(parts) > 1 and not lists and set.intersection(*map(set, parts.values())):
            cases |= {key: dict(_leaves(part)) for key, part in parts.items()}
            common |= dict(_leaves({k: v for k, v in shown.items() if k not in parts}))
        else:
            case = str(content.get("benchmark", name)).removeprefix(name).strip("_")
            cases[case] = dict(_leaves(shown))
    figures = list(dict.fromkeys(f for case in cases.values() for f in case))
    same = {f: {case.get(f, "") for case in cases.values()} for f in figures}
    if len(cases) > 1:
        common |= {f: values.pop() for f, values in same.items() if len(values) == 1}
    varying = [f for f in figures if f not in common]
    # The shorter side gives the columns.
    if len(cases) <= len(varying):
        body = ([f, *(case.get(f, "") for case in cases.values())] for f in varying)
        text = table(["", *cases], body)
    else:
        rows = (
            [name, *(case.get(f, "") for f in varying)] for name, case in cases.items()
        )
        text = table(["", *varying], rows)
    also = "; ".join(f"{figure}: {value}" for figure, value in common.items())
    machine = _machine(contents[-1]["machine"])
    return "\n\n".join([text, *([f"{also}."] if also else []), machine])


def _machine(machine: Result) -> str:
    return (
        f"Machine: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 1e9:.0f} GB, Python {machine['python']}; "
        f"load {machine['load']:.1f} at the end."
    )


def _leaves(content: Result, prefix: str = "") -> list[tuple[str, str]]:
    """Name every figure of a result by its path."""
    out: list[tuple[str, str]] = []
    for key, value in content.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            out += _leaves(value, f"{name}: ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for number, item in enumerate(value):
                out += _leaves(item, f"{name} {number}: ")
        else:
            out.append((name, _number(value)))
    return out


def _number(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_number, value)) if len(value) == 2 else str(value)
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)

"""Writes tables from what the benchmarks measured: ``benchmarks/results``."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import source
from tables import table

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "results"
PAGES = Path(__file__).parent / "pages"
METHODS = ROOT / "train" / "hsi_train" / "methods"
DATA = {
    "salinas_a": "SalinasA, 10 pixels a class",
    "salinas_a_5": "SalinasA, 5 pixels a class",
    "salinas_a_disjoint": "SalinasA, opposite corners",
    "enmap_potsdam": "EnMAP Potsdam, given blocks",
}
SPEED = "dense_speed"
UNTOLD = ("benchmark", "machine", "command", "method")  # said otherwise

Result = dict[str, Any]


def decision() -> str:
    """Set accuracy and cost of every method and baseline side by side."""
    cells = lines_of(FOLDER / "accuracy" / "cells.jsonl")
    accuracy: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        if "error" not in cell:
            found = accuracy.setdefault(cell["row"], {}).setdefault(cell["data"], [])
            found.append(cell["overall_accuracy"])
    names = list(source.methods(METHODS))
    rows = []
    for row in [*accuracy, *(n for n in names if not any(map(_is_of(n), accuracy)))]:
        method = max((n for n in names if _is_of(n)(row)), key=len, default=None)
        measured = accuracy.get(row, {})
        rows.append(
            [
                row.replace("_", " ")
                if method is None
                else f"`{method}`" + row.removeprefix(method).replace("_", ", "),
                *(_spread(measured.get(data)) for data in DATA),
                *_speed(method),
            ]
        )
    head = ["", *DATA.values(), "pixels/s", "MMAC a pixel", "times faster than patches"]
    return table(head, rows)


def _is_of(method: str) -> Callable[[str], bool]:
    """Tell the rows of a method, which may be variants such as ``NAME_scratch``."""
    return lambda row: f"{row}_".startswith(f"{method}_")


def _spread(values: list[float] | None) -> str:
    if not values:
        return "not run"
    spread = f" ± {100 * pstdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):.1f}{spread} ({len(values)})"


def _speed(method: str | None) -> list[str]:
    path = FOLDER / f"{SPEED}_{method}.json"
    if method is None or not path.is_file():
        return ["", "", ""]
    found = json.loads(path.read_text())
    rate, ratio = found["dense_pixels_per_second"], found["ratio_median"]
    return [f"{rate:,}", f"{found['macs_per_pixel'] / 1e6:.2f}", f"{ratio:g}"]


def included(path: str) -> str:
    """Include a Markdown file, its headings one level lower."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return re.sub(r"^#", "##", text, flags=re.MULTILINE)


def benchmark(name: str) -> str:
    """Write what a benchmark measures, its command, and all its figures.

    ``NAME.md`` in the results, where a benchmark wrote one, stands for our table;
    ``NAME.svg`` is shown above it.

    Raises:
        LookupError: It has no results.
    """
    script = f"benchmarks/{name}.py"
    question, _, text = source.about(script).partition("\n\n")
    paths = files_of(name)
    if not paths:
        raise LookupError(f"{script} has no results in {FOLDER.name}")
    sections = [f"## {question}", text]
    if (FOLDER / f"{name}.svg").is_file():
        sections.append(f"![{question}]({name}.svg)")
    own = [included(f"{p.relative_to(ROOT)}") for p in paths if p.suffix == ".md"]
    if own:
        return "\n\n".join(sections + own)
    lines = [lines_of(p) for p in paths if p.suffix == ".jsonl"]
    figures = [json.loads(p.read_text()) for p in paths if p.suffix == ".json"]
    sections += [_means(found) for found in lines]
    return "\n\n".join(sections + ([_figures(figures, name)] if figures else []))


def files_of(name: str) -> list[Path]:
    """Find what a benchmark wrote: ``NAME.*`` or ``NAME_CASE.*``."""
    scripts = [p.stem for p in (ROOT / "benchmarks").glob("*.py")]

    def owner(path: Path) -> str:
        fitting = [s for s in scripts if f"{path.stem}_".startswith(f"{s}_")]
        return max(fitting, key=len, default="")

    kinds = (".json", ".jsonl", ".md")
    paths = sorted(p for p in FOLDER.iterdir() if p.suffix in kinds)
    return [p for p in paths if owner(p) == name]


def pictures() -> list[Path]:
    """Find what the benchmarks drew."""
    return sorted(FOLDER.glob("*.svg"))


def other_benchmarks() -> str:
    """Write the results of every benchmark that no page names."""
    named = "\n".join(p.read_text(encoding="utf-8") for p in PAGES.glob("*.md"))
    shown = set(re.findall(r"\{\{ benchmark (\w+) \}\}", named)) | {"accuracy"}
    names = sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py"))
    return "\n\n".join(benchmark(n) for n in names if n not in shown and files_of(n))


def lines_of(path: Path) -> list[Result]:
    """Read a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _means(lines: list[Result]) -> str:
    """Average overall accuracy, in per cent, over lines whose texts are the same.

    Checksums are told apart, and shown by their beginning.
    """
    groups: dict[tuple[str, ...], list[Result]] = {}
    keys = [k for k, v in lines[0].items() if isinstance(v, str)]
    for line in lines:
        texts = (re.sub("^([0-9a-f]{8})[0-9a-f]{56}$", r"\1", line[k]) for k in keys)
        groups.setdefault(tuple(texts), []).append(line)
    shares = [k for k in _flat(lines[0]) if k.endswith("overall_accuracy")]
    rows = []
    for names, members in groups.items():
        flat = [_flat(m) for m in members]
        found = [_spread([f[k] for f in flat if k in f]) for k in shares]
        rows.append([*names, *found])
    titles = [k.replace("_", " ").replace(".", " ") for k in shares]
    return table([*keys, *titles], rows)


def _flat(content: Result, prefix: str = "") -> dict[str, float]:
    """Name every number by its path; lists of results become their means."""
    out: dict[str, float] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            out |= _flat(value, f"{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            each = [_flat(v, f"{name}.") for v in value]
            out |= {k: fmean(e[k] for e in each) for k in each[0]}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            out[name] = value
    return out


def _figures(contents: list[Result], name: str) -> str:
    """Write the figures of JSON results: a row a case, or a list; and the machine."""
    rows: dict[str, dict[str, str]] = {}
    said: dict[str, str] = {}
    for content in contents:
        told = {k: v for k, v in content.items() if k not in UNTOLD}
        parts = {k: v for k, v in told.items() if isinstance(v, dict)}
        if len(parts) > 1 and len({tuple(v) for v in parts.values()}) == 1:
            rows |= {key: dict(_leaves(part)) for key, part in parts.items()}
            said |= dict(_leaves({k: v for k, v in told.items() if k not in parts}))
        else:
            case = str(content.get("benchmark", name)).removeprefix(name).strip("_")
            rows[case or name] = dict(_leaves(told))
    lists = []
    if len(rows) > 1 and len({tuple(row) for row in rows.values()}) == 1:
        first = next(iter(rows.values()))
        same = {k for k in first if len({row[k] for row in rows.values()}) == 1}
        said |= {k: v for k, v in first.items() if k in same}
        columns = [k for k in first if k not in same]
        values = ([case, *(row[k] for k in columns)] for case, row in rows.items())
        lists.append(table(["", *columns], values))
    else:
        for case, row in rows.items():
            lists.append(table((case.replace("_", " "), ""), row.items()))
    if said:
        lists.append("; ".join(f"{k}: {v}" for k, v in said.items()) + ".")
    return "\n\n".join([*lists, _machine(contents[-1]["machine"])])


def _machine(found: Result) -> str:
    return (
        f"Machine: {found['cpu']}, {found['cores']} cores, "
        f"{found['memory_bytes'] / 1e9:.0f} GB, Python {found['python']}; "
        f"load {found['load']:.1f} at the end."
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

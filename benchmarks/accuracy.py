"""How accurate is each method, and each baseline, on real scenes?

    HSI_DATA=... python benchmarks/accuracy.py --methods mf2cnet svm forest \
        --data salinas_a enmap_potsdam --seeds 5

Trains every method on every data set with every seed, each in a process of its own. The
scenes are those in $HSI_DATA; accuracy_variants.toml names variants of the methods.
Each finished training, a cell, is one line of ``cells.jsonl``. Its key covers all that
decides the result: recipe, options, split, data, seed and the code that trains. Repeat
the command to train what is missing, continue what was interrupted and retry what
failed. The table is ``accuracy.md``.
"""

import argparse
import hashlib
import json
import os
import resource
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import accuracy_data
import accuracy_table
import baselines
import code_digest
import common
import tomli_w
from accuracy_data import Division

from hsi_runtime.errors import HsiError, RecipeError
from hsi_train import methods, recipe
from hsi_train.methods import names
from hsi_train.run_folder import folder

HERE = Path(__file__).parent
KEPT = (*accuracy_table.FIGURES, "counts")

Result = dict[str, Any]


class Cell(NamedTuple):
    """One training: a row of the table, a data set, a seed.

    Attributes:
        data: Name of the data set.
        row: Method, variant or baseline.
        seed: Of the split and of the training.
        recipe: All of it, as hsi-train reads it.
        code: What trains the row, see `code_digest`.
        key: Of all that decides the result.
    """

    data: str
    row: str
    seed: int
    recipe: dict[str, Any]
    code: code_digest.Code
    key: str

    @property
    def name(self) -> str:
        return f"{self.data}-{self.row}-{self.seed}-{self.key[:8]}"


def variants() -> dict[str, dict[str, Any]]:
    return tomllib.loads((HERE / "accuracy_variants.toml").read_text(encoding="utf-8"))


def settings_of(row: str, data: str) -> dict[str, Any]:
    """Return what a row adds to a data set's recipe: method, fit, options.

    A method's own shipped recipe of the scene counts, but for data and split.

    Raises:
        RecipeError: There is no such row.
    """
    if row in baselines.BASELINES:
        return {"method": row}
    chosen: dict[str, Any] | None = {"method": row}
    if row not in names():
        chosen = variants().get(row)
    if chosen is None or chosen["method"] not in names():
        wrong = row if chosen is None else f"{row} of method {chosen['method']}"
        usable = [k for k, v in variants().items() if v["method"] in names()]
        raise RecipeError(
            f"There is no method, variant or baseline {wrong}; methods: "
            f"{', '.join(names())}; variants: {', '.join(usable)}; baselines: "
            f"{', '.join(baselines.BASELINES)}."
        )
    name = chosen["method"]
    scene = accuracy_data.data_set(data).recipe.rpartition("-")[0]
    shipped = f"{scene}-{name}"
    content = recipe.load(shipped) if shipped in recipe.shipped() else {}
    for key in chosen.pop("without", []):
        content.pop(key, None)
    for key, value in chosen.items():
        inner = isinstance(value, dict)
        content[key] = content.get(key, {}) | value if inner else value
    methods.check_options(name, content.get("options", {}))
    accuracy_data.check_receptive_field(name)
    return content


def code_of(name: str) -> code_digest.Code:
    """Identify the code that trains a method or fits a baseline."""
    if name in baselines.BASELINES:
        return code_digest.of("baselines", "hsi_train.training")
    return code_digest.of_training(name)


def make_cell(data: str, row: str, seed: int, division: Division) -> Cell:
    settings = settings_of(row, data)
    # Where a method's recipe has more to say of the data, that is kept.
    source = settings.get("data", {}) | division.data
    content = settings | {"data": source, "split": division.split, "seed": seed}
    recipe.parse(content)
    code = code_of(settings["method"])
    decides = {
        "recipe": {k: v for k, v in content.items() if k != "split"},
        "split": division.digest,
        "code": code["sha256"],
    }
    text = json.dumps(decides, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    return Cell(data=data, row=row, seed=seed, recipe=content, code=code, key=key)


def train(cell: Cell, work: Path, threads: int) -> Result:
    """Train a cell in a process of its own and return its metrics.

    Raises:
        RuntimeError: The process failed; the message is its last words.
    """
    path, run = work / "recipes" / f"{cell.name}.toml", work / "runs" / cell.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps(cell.recipe), encoding="utf-8")
    if cell.row in baselines.BASELINES:
        command = [sys.executable, str(HERE / "baselines.py"), str(path)]
    else:
        command = [str(Path(sys.executable).with_name("hsi-train")), str(path)]
        command += ["-o", str(run), "--json", "-q", "--device", "cpu"]
        if (run / folder.STATE).is_file():
            command.append("--resume")
        elif run.exists():
            command.append("--overwrite")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(lines[-1])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result: Result = json.loads(done.stdout)
    # The time of a busy machine says little; this also counts the imports.
    result["cpu_seconds"] = (
        after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    )
    return result


def finished(path: Path) -> dict[str, Result]:
    """Read the cells that are done, by key."""
    return {cell["key"]: cell for cell in common.read_lines(path)}


def run_cells(
    cells: Iterable[Cell], path: Path, execute: Callable[[Cell], Result]
) -> list[Result]:
    """Run the cells that have no line yet; a failed one keeps its message."""
    known, results = finished(path), []
    for cell in cells:
        identity: Result = {"data": cell.data, "row": cell.row, "seed": cell.seed}
        identity |= {"key": cell.key, "code": cell.code}
        if cell.key in known:
            results.append(known[cell.key])
            continue
        try:
            measured = execute(cell)
        except RuntimeError as error:
            print(f"{cell.name} failed: {error}", file=sys.stderr, flush=True)
            results.append(identity | {"error": str(error)})
            continue
        line = identity | {key: measured[key] for key in KEPT}
        line["recalls"] = {c["name"]: c["recall"] for c in measured["per_class"]}
        line |= {k: measured[k] for k in ("settings", "parameters") if k in measured}
        common.add_line(path, line, ("data", "row", "seed"))
        print(f"{cell.name}: {measured['overall_accuracy']:.2%}", flush=True)
        results.append(line)
    return results


def seeds_of(text: str, default: int) -> tuple[str, range]:
    """Parse NAME or NAME:SEEDS."""
    name, _, count = text.partition(":")
    accuracy_data.data_set(name)
    if count and not count.isdigit():
        raise RecipeError(f"--data {text}: expected NAME or NAME:SEEDS.")
    return name, range(int(count) if count else default)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rows, data_sets = [*baselines.BASELINES, *names()], list(accuracy_data.DATA_SETS)
    parser.add_argument(
        "--methods", nargs="+", default=rows, metavar="ROW",
        help=f"{', '.join(rows)} [default: all these]; {', '.join(variants())}",
    )  # fmt: skip
    parser.add_argument(
        "--data", nargs="+", default=data_sets, metavar="NAME[:SEEDS]",
        help=f"{', '.join(data_sets)} [default: all these]",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "accuracy")
    parser.add_argument("--work", type=Path, default=Path("build/accuracy"))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    command = shlex.join(["python", "benchmarks/accuracy.py", *sys.argv[1:]])
    try:
        # A misspelt name must not wait for hours of training.
        data = [seeds_of(text, arguments.seeds) for text in arguments.data]
        for row in arguments.methods:
            for name, _ in data:
                settings_of(row, name)
        arguments.output.mkdir(parents=True, exist_ok=True)
        results = []
        for name, seeds in data:
            divided = accuracy_data.divisions(name, seeds, arguments.work / "splits")
            cells = [
                make_cell(name, row, seed, divided[seed])
                for row in arguments.methods
                for seed in seeds
            ]
            results += run_cells(
                cells,
                arguments.output / "cells.jsonl",
                lambda cell: train(cell, arguments.work, arguments.threads),
            )
            accuracy_table.write(arguments.output, results, command)
    except HsiError as error:
        raise SystemExit(f"Error: {error}") from error
    print((arguments.output / "accuracy.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

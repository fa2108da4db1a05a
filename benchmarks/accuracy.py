"""How accurate is each method, and the best of its simple rivals?

    HSI_DATA=... HSI_BENCHMARKS=... python benchmarks/accuracy.py

Trains every method on every data set with every seed, each in a process of its own, as
it ships: a recipe names data and split, and sets nothing else. Runs of ``lda`` also fit
all simple rivals (``--rivals all``), whose settings no test pixel chooses. Scenes whose
folder is not named are left out; accuracy_variants.toml names variants of the methods.
An encoder is pre-trained once for each variant and seed.
Each finished training, a cell, is one line of ``cells.jsonl``. Its key covers all that
decides the result: recipe, options, split, data, seed and the code that trains. Repeat
the command to train what is missing, continue what was interrupted and retry what
failed. The table is ``accuracy.md``.
"""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import accuracy_data
import accuracy_table
import code_digest
import common
import tomli_w
from accuracy_data import Division

from hsi_runtime.errors import HsiError, RecipeError
from hsi_train import methods, recipe
from hsi_train.fitting import encoder_file
from hsi_train.methods import names
from hsi_train.run_folder import checkpoint, folder

HERE = Path(__file__).parent
KEPT = (*accuracy_table.FIGURES, "counts", "rivals", "test_blocks", "sets")
ERRORS = (accuracy_table.AFTER, accuracy_table.BEFORE)
WITH_RIVALS = "lda"  # the method whose runs fit all rivals

Result = dict[str, Any]


class Cell(NamedTuple):
    """One training: a row of the table, a data set, a seed.

    Attributes:
        data: Name of the data set.
        row: Method or variant.
        seed: Of the split and of the training.
        recipe: All of it, as hsi-train reads it.
        split: Digest of data and split.
        code: What trains the row, see `code_digest`.
        key: Of all that decides the result.
    """

    data: str
    row: str
    seed: int
    recipe: dict[str, Any]
    split: str
    code: code_digest.Code
    key: str

    @property
    def name(self) -> str:
        return f"{self.data}-{self.row}-{self.seed}-{self.key[:8]}"


def variants() -> dict[str, dict[str, Any]]:
    return tomllib.loads((HERE / "accuracy_variants.toml").read_text(encoding="utf-8"))


def settings_of(row: str) -> dict[str, Any]:
    """Return what a row adds to data and split: the method, and a variant's settings.

    Raises:
        RecipeError: There is no such row.
    """
    chosen: dict[str, Any] | None = {"method": row}
    if row not in names():
        chosen = variants().get(row)
    if chosen is None or chosen["method"] not in names():
        wrong = row if chosen is None else f"{row} of method {chosen['method']}"
        usable = [k for k, v in variants().items() if v["method"] in names()]
        raise RecipeError(
            f"There is no method or variant {wrong}; methods: {', '.join(names())}; "
            f"variants: {', '.join(usable)}."
        )
    methods.check_options(chosen["method"], chosen.get("options", {}))
    accuracy_data.check_receptive_field(chosen["method"])
    return chosen | {"rivals": "all" if row == WITH_RIVALS else "cheap"}


def make_cell(data: str, row: str, seed: int, division: Division) -> Cell:
    content = settings_of(row)
    content |= {"data": division.data, "split": division.split, "seed": seed}
    recipe.parse(content)
    code = code_digest.of_training(content["method"])
    # Where files lie decides nothing; the digest of the division covers their content.
    files = {
        key: [Path(file).name for file in division.data[key]]
        for key in ("scenes", "labels")
    }
    decides = {
        "recipe": {k: v for k, v in content.items() if k != "split"}
        | {"data": division.data | files},
        "split": division.digest,
        "code": code["sha256"],
    }
    text = json.dumps(decides, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    return Cell(
        data=data,
        row=row,
        seed=seed,
        recipe=content,
        split=division.digest,
        code=code,
        key=key,
    )


def train(cell: Cell, work: Path, threads: int) -> Result:
    """Train a cell in a process of its own and return its metrics.

    Raises:
        RuntimeError: The process failed; the message is its last words.
    """
    path, run = work / "recipes" / f"{cell.name}.toml", work / "runs" / cell.name
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder = encoder_of(cell, work)
    content = cell.recipe
    if encoder is not None and encoder.is_file():
        content = content | {"pretrain": {"init": str(encoder)}}
    path.write_text(tomli_w.dumps(content), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("hsi-train")), str(path)]
    command += ["-o", str(run), "--json", "-q", "--device", "cpu"]
    if folder.interrupted(run):
        command.append("--resume")
    elif run.exists():
        command.append("--overwrite")
    before = common.children_seconds()
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(lines[-1])
    seconds = common.children_seconds() - before
    if encoder is not None and not encoder.is_file():
        encoder.parent.mkdir(exist_ok=True)
        shutil.copyfile(run / encoder_file.ENCODER, encoder)
    joined = run / checkpoint.MODEL / folder.METRICS  # of members
    text = joined.read_text("utf-8") if joined.is_file() else done.stdout
    result: Result = json.loads(text)
    # The time of a busy machine says little; this also counts the imports.
    result["cpu_seconds"] = seconds
    return result


def encoder_of(cell: Cell, work: Path) -> Path | None:
    """Name the encoder that the first run of a seed pre-trains, and all others use."""
    table = cell.recipe.get("pretrain")
    if table is None:
        return None
    decides = json.dumps([table, cell.recipe.get("options"), cell.seed, cell.code])
    name = hashlib.sha256(decides.encode()).hexdigest()
    return work / "encoders" / f"{cell.row}-{cell.seed}-{name[:8]}.safetensors"


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
        identity |= {"split": cell.split, "key": cell.key, "code": cell.code}
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
        line |= {
            k: measured["calibration"][k] for k in ERRORS if measured["calibration"]
        }
        common.add_line(path, line, ("data", "row", "seed"))
        print(f"{cell.name}: {measured['overall_accuracy']:.2%}", flush=True)
        results.append(line)
    return results


def seeds_of(text: str) -> tuple[str, range]:
    """Parse NAME or NAME:SEEDS."""
    name, _, count = text.partition(":")
    default = accuracy_data.data_set(name).seeds
    if count and not count.isdigit():
        raise RecipeError(f"--data {text}: expected NAME or NAME:SEEDS.")
    return name, range(int(count) if count else default)


def cells_of(name: str, seeds: range, rows: Iterable[str], work: Path) -> list[Cell]:
    """List the cells of a data set.

    The runs with all rivals draw nothing but the split: one is enough where that is
    the same for all seeds.
    """
    divided = accuracy_data.divisions(name, seeds, work / "splits")
    given = len({division.digest for division in divided.values()}) == 1
    return [
        make_cell(name, row, seed, divided[seed])
        for row in rows
        for seed in (seeds[:1] if given and row == WITH_RIVALS else seeds)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rows, data_sets = names(), list(accuracy_data.DATA_SETS)
    parser.add_argument(
        "--methods", nargs="+", default=rows, metavar="ROW",
        help=f"{', '.join(rows)} [default: all these]; {', '.join(variants())}",
    )  # fmt: skip
    parser.add_argument(
        "--data", nargs="+", default=data_sets, metavar="NAME[:SEEDS]",
        help=f"{', '.join(data_sets)} [default: all; SalinasA 10 seeds, else 5]",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=HERE / "results" / "accuracy")
    parser.add_argument("--work", type=Path, default=Path("build/accuracy"))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    command = shlex.join(["python", "benchmarks/accuracy.py", *sys.argv[1:]])
    try:
        # A misspelt name must not wait for hours of training.
        data = [seeds_of(text) for text in arguments.data]
        for row in arguments.methods:
            settings_of(row)
        arguments.output.mkdir(parents=True, exist_ok=True)
        results = []
        for name, seeds in data:
            if not accuracy_data.data_set(name).present:
                needs = accuracy_data.data_set(name).needs
                print(f"{name} is left out: ${needs} is not set.", file=sys.stderr)
                continue
            results += run_cells(
                cells_of(name, seeds, arguments.methods, arguments.work),
                arguments.output / "cells.jsonl",
                lambda cell: train(cell, arguments.work, arguments.threads),
            )
            lines = common.read_lines(arguments.output / "cells.jsonl")
            failed = [cell for cell in results if "error" in cell]
            accuracy_table.write(arguments.output, [*lines, *failed], command)
    except HsiError as error:
        raise SystemExit(f"Error: {error}") from error
    if not results:
        raise SystemExit("Error: no data set is here. Set the variables named above.")
    print((arguments.output / "accuracy.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

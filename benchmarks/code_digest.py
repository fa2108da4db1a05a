"""Identifies the code that a result was measured with, so that an old one is noticed.

A result holds what `of` returns: the modules where the measured work begins, and one
SHA-256 over their files and all files that these import. Imports are read, not run,
and followed within the packages that the modules belong to. Comments, docstrings and
blank lines do not count; neither does the report of a run, which shows figures and
decides none.

Code that was changed without changing what it computes keeps its results: where
.ci/same_outputs.py found all outputs equal byte by byte, ``same.toml`` tells which
earlier digest stands for the new one.
"""

import ast
import hashlib
import io
import json
import tokenize
import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
STALE, SAME = "stale.toml", "same.toml"
SAME_HEAD = """\
# Digests of code and, after each, the digest of earlier code in results: of both, all
# outputs are equal byte by byte. Written by .ci/same_outputs.py --record.
"""
FOLDERS = ("train", "export", "runtime", "benchmarks")
TRAINING = "hsi_train.training"
DECIDES_NOTHING = ("hsi_train.report",)

Code = dict[str, Any]


def of_training(*methods: str) -> Code:
    """Identify the code that trains these methods."""
    return of(TRAINING, *(f"hsi_train.methods.{m}" for m in methods))


def of_running(*methods: str) -> Code:
    """Identify the code that exports these methods and runs their model files."""
    ours = (f"hsi_train.methods.{m}" for m in methods)
    return of("hsi_export.exporting", "hsi_runtime.pipeline", *ours)


def of(*modules: str) -> Code:
    """Identify the code of modules and of all that they import."""
    digest = _digest(tuple(sorted(modules)))
    return {"modules": sorted(modules), "sha256": _table(SAME).get(digest, digest)}


@cache
def _digest(modules: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted(imported(modules).items()):
        digest.update(f"{name}\n{bare(path.read_text(encoding='utf-8'))}".encode())
    return digest.hexdigest()


def imported(modules: tuple[str, ...]) -> dict[str, Path]:
    """Return the files of modules, and of all that these import, by module."""
    packages = {name.partition(".")[0] for name in modules}
    files: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = file_of(name)
        ignored = any(f"{name}.".startswith(f"{skip}.") for skip in DECIDES_NOTHING)
        if path is None or name in files or ignored:
            continue
        files[name] = path
        parent = name.rpartition(".")[0]
        waiting += [n for n in (parent, *_imports(path)) if _top(n) in packages]
    return files


def file_of(module: str) -> Path | None:
    """Return the file of one of our modules; None where the name is not a module."""
    for folder in FOLDERS:
        path = ROOT.joinpath(folder, *module.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


def bare(text: str) -> str:
    """Leave out comments, docstrings and blank lines."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            for row in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                lines[row - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _imports(path: Path) -> list[str]:
    """Return all names that a file imports; some may be no modules."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
    return names


def _top(module: str) -> str:
    return module.partition(".")[0]


def result_files() -> list[Path]:
    """Return all files of measured results."""
    return sorted(p for p in RESULTS.rglob("*") if p.suffix in (".json", ".jsonl"))


def codes_in(path: Path) -> list[Code | None]:
    """Return the code of each part of a result file; None for those without."""
    text = path.read_text(encoding="utf-8")
    parts = text.splitlines() if path.suffix == ".jsonl" else [text]
    return [json.loads(part).get("code") for part in parts]


def is_fresh(path: Path) -> bool:
    """Return True if all of a result file was measured with the present code."""
    return all(isinstance(c, dict) and c == of(*c["modules"]) for c in codes_in(path))


def declared_stale() -> dict[str, str]:
    """Read which result files are declared stale, and why."""
    return _table(STALE)


def record_same(old: Callable[[Sequence[str]], str]) -> None:
    """Let what training by earlier code gave stand for the present code.

    Speed is no output: of results that are not of training, none is kept.

    Args:
        old: Returns the digest of modules in a checkout whose outputs are the same.
    """
    measured = {
        (tuple(code["modules"]), code["sha256"])
        for path in result_files()
        for code in codes_in(path)
        if code is not None and TRAINING in code["modules"]
    }
    same = {
        _digest(modules): sha256
        for modules, sha256 in sorted(measured)
        if sha256 == old(modules) and sha256 != _digest(modules)
    }
    lines = [f'"{new}" = "{earlier}"\n' for new, earlier in same.items()]
    (RESULTS / SAME).write_text(SAME_HEAD + "".join(lines), encoding="utf-8")


def _table(name: str) -> dict[str, str]:
    path = RESULTS / name
    return tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}

#!/usr/bin/env python3
"""Runs the same commands with two checkouts and compares every file they write.

    python .ci/same_outputs.py OLD NEW OUT [--record]

Trains, exports and runs each method on small simulated scenes with all outputs, in a
folder of its own for each checkout below OUT. The interpreter needs what the
packages need; their code comes from the checkouts. What depends on the clock or on the
folder is left out. A comparison that was stopped goes on where it
was. Exit code 1 and a list where anything else differs. Where nothing does, --record
lets accuracies that were measured with OLD stand for NEW: see
benchmarks/code_digest.py.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

METHODS = ("lda", "mf2cnet", "s2amsnet", "s2former", "s2vnet")
CLOCK = {"seconds", "pixels_per_second", "peak_memory_bytes"}
SIMULATE = (
    "from hsi_runtime import command_line; "
    "from hsi_train.simulate.__main__ import command; command_line.run(command)"
)
TRAIN = "from hsi_train.cli import main; main()"
EXPORT = "from hsi_export.cli import main; main()"
RUN = "from hsi_runtime.cli import main; main()"
SMALL = ["--rows", "96", "--cols", "96", "--bands", "24", "--range", "450", "900"]


def commands() -> list[tuple[str, list[str]]]:
    """List what is run: code, and arguments."""
    made = [
        (SIMULATE, ["s.tif", *SMALL, "--truth", "l.tif"]),
        (
            SIMULATE,
            ["t.tif", *SMALL, "--origin-row", "500", "--border", "--truth", "u.tif"],
        ),
    ]
    for method in METHODS:
        run = f"run_{method}"
        train = [method, "--scene", "s.tif", "--labels", "l.tif"]
        train += [] if method == "lda" else ["--epochs", "2"]
        if method == "s2vnet":
            train += ["--target-scene", "t.tif", "--target-labels", "u.tif"]
        layers = ["--confidence", "--probabilities", "--preview", "--stac", "--json"]
        if method == "s2vnet":
            layers += ["--abundances", "--reject", "0.6", "--max-memory", "1G"]
        made += [
            (TRAIN, [*train, "--json", "-o", run]),
            (EXPORT, [run, "--json"]),
            (EXPORT, [run, "--fp16", "--json"]),
            (RUN, ["t.tif", "-m", f"{run}/model.onnx", "-o", f"{run}.tif", *layers]),
            (RUN, ["-m", f"{run}/model.onnx", "--describe"]),
            (RUN, ["t.tif", "-m", f"{run}/model.onnx", "--dry-run"]),
        ]
    return made


def execute(checkout: Path, folder: Path) -> None:
    """Run all commands with the code of a checkout; keep what they print."""
    folder.mkdir(parents=True, exist_ok=True)
    packages = [str(checkout / part) for part in ("train", "export", "runtime")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(packages),
        "SOURCE_DATE_EPOCH": "0",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
    }
    for number, (code, arguments) in enumerate(commands()):
        printed = folder / f"stdout_{number:02}.txt"
        if printed.exists():
            continue
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        # An export that fails its proof must fail with both.
        if done.returncode not in (0, 7):
            sys.exit(f"{checkout}: {arguments}\n{done.stderr}")
        printed.write_text(done.stdout or f"exit code {done.returncode}\n")


def timeless(value: Any) -> Any:
    """Drop what depends on the clock."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in CLOCK}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def comparable(path: Path) -> bytes:
    """Read a file without what depends on the clock."""
    content = path.read_bytes()
    if path.suffix == ".json" or content[:1] in (b"{", b"["):
        return json.dumps(timeless(json.loads(content))).encode()
    if path.name == "history.csv":
        rows = [line.split(b",") for line in content.splitlines()]
        clock = rows[0].index(b"seconds")
        return b"\n".join(b",".join(r[:clock] + r[clock + 1 :]) for r in rows)
    if path.name.startswith("stdout"):  # of --describe
        return re.sub(rb"compute_seconds: [\d.]+", b"", content)
    if path.name == "report.html":
        return re.sub(rb"\d+(\.\d+)? (s|seconds|min)\b", b"", content)
    return content


def record(old: Path, new: Path) -> None:
    """Write down, in the newer checkout, that results of the older one still hold."""
    sys.path.insert(0, str(new / "benchmarks"))
    import code_digest

    def digest(modules: Sequence[str]) -> str:
        code = f"import code_digest; print(code_digest.of(*{modules!r})['sha256'])"
        command = [sys.executable, "-c", code]
        return subprocess.check_output(
            command, cwd=old / "benchmarks", text=True
        ).strip()

    code_digest.record_same(digest)


def main() -> None:
    """Compare two checkouts."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--record"]
    old, new, out = (Path(argument).resolve() for argument in arguments)
    for name, checkout in (("old", old), ("new", new)):
        execute(checkout, out / name)
    found = [
        {p.relative_to(out / name): p for p in (out / name).rglob("*") if p.is_file()}
        for name in ("old", "new")
    ]
    names = sorted({*found[0], *found[1]})
    names = [n for n in names if "tensorboard" not in n.parts]
    missing = [n for n in names if not all(n in side for side in found)]
    other = [
        n
        for n in names
        if n not in missing and len({comparable(side[n]) for side in found}) > 1
    ]
    for name in missing:
        print(f"only in one: {name}")
    for name in other:
        print(f"differs: {name}")
    print(
        f"{len(names) - len(missing) - len(other)} of {len(names)} files are the same"
    )
    if missing or other:
        sys.exit(1)
    if "--record" in sys.argv:
        record(old, new)


if __name__ == "__main__":
    main()

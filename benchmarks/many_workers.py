"""What do workers of a scheduler cost on one machine, where threads would do the same?

    python benchmarks/many_workers.py                 20 minutes, 2 GB of disk
    python benchmarks/many_workers.py --rows 400 --scenes 40 --rounds 1 --no-save

One scene, by a plain run with two threads and by two workers with a thread each, which
compute it in parts; and a list of small scenes, by one engine with two threads and by
two workers that take whole scenes. Each run is a process of its own. It classifies one
small scene first, so that engines and workers are up: that is its start-up, the rest
its work. Runs of both kinds alternate, and their maps must have the same bytes. What
is measured is kept, so a benchmark that was stopped goes on where it was.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click

import hsi_runtime

BANDS, CLASSES, COLS = 120, 16, 1000
METHOD = "mf2cnet"
SMALL = 64  # px; side of the scenes of the list
CASES, KINDS = ("one scene", "many scenes"), ("plain", "workers")
Row = dict[str, Any]


class Size(NamedTuple):
    """What is measured: rows of the one scene, number of scenes, threads, method."""

    rows: int
    scenes: int
    threads: int
    method: str


def prepare(folder: Path, size: Size) -> None:
    """Make the model and the scenes, where they are not there."""
    # Not above: the processes of workers import this file, and need no torch.
    import common

    from hsi_train.simulate import SceneSpec, band_centres, write_scene

    model = folder / f"{size.method}.onnx"
    if not model.is_file():
        (folder / size.method).mkdir(exist_ok=True)
        made = common.make_model(
            folder / size.method, size.method, BANDS, CLASSES, 400, 2500
        )
        shutil.copy(made.path, model)
    for path, rows, cols in (
        (folder / f"large-{size.rows}.tif", size.rows, COLS),
        (folder / "small.tif", SMALL, SMALL),
    ):
        if not path.is_file():
            spec = SceneSpec(rows=rows, cols=cols, wavelengths_nm=band_centres(BANDS))
            part = path.with_suffix(".part.tif")
            write_scene(spec, part, overwrite=True)
            part.rename(path)
    small = folder / "small"
    small.mkdir(exist_ok=True)
    for number in range(size.scenes):
        path = small / f"{number:04}.tif"
        if not path.is_file():
            shutil.copy(folder / "small.tif", path)


def measure(folder: Path, size: Size, case: str, kind: str) -> Row:
    """Measure one run, in a process of its own."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir()
    os.sync()  # what the run before wrote is not part of this one
    started = time.time()
    command = [sys.executable, __file__, "--folder", str(folder), "--child", case, kind]
    options = [f"--{name}={value}" for name, value in size._asdict().items()]
    done = subprocess.run([*command, *options], stdout=subprocess.PIPE, check=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    row["start_up_seconds"] = row.pop("ready") - started
    row["seconds"] = time.time() - started
    digest = hashlib.sha256()
    for path in sorted((folder / "out").glob("*.tif")):
        digest.update(path.read_bytes())
    return {**row, "maps_sha256": digest.hexdigest()}


def run_child(folder: Path, size: Size, case: str, kind: str) -> Row:
    """Classify, in a process of its own; tell when it was ready, and its work."""
    path = folder / f"{size.method}.onnx"
    options: Row = {"device": "cpu", "threads": size.threads}
    if kind == "workers":
        where = f"local:{size.threads}"
        with hsi_runtime.Workers(path, where, **options) as workers:
            return classify(folder, size, case, workers)
    return classify(folder, size, case, hsi_runtime.Model(path, **options))


def classify(
    folder: Path, size: Size, case: str, model: hsi_runtime.Model | hsi_runtime.Workers
) -> Row:
    # As many as there are workers: each starts its engine.
    first = [folder / "small" / f"{n:04}.tif" for n in range(4 * size.threads)]
    with_first = folder / "first"
    shutil.rmtree(with_first, ignore_errors=True)
    with_first.mkdir()
    hsi_runtime.classify_all(first, model, with_first)
    ready = time.time()
    if case == "one scene":
        scene = folder / f"large-{size.rows}.tif"
        hsi_runtime.classify(scene, model, folder / "out" / "map.tif", confidence=True)
    else:
        scenes = sorted((folder / "small").glob("*.tif"))[: size.scenes]
        found = hsi_runtime.classify_all(scenes, model, folder / "out")
        assert found["summary"]["done"] == size.scenes
    return {"ready": ready, "work_seconds": time.time() - ready}


def compared(rows: list[Row], case: str) -> Row:
    """Compare the medians of both kinds of runs.

    Raises:
        SystemExit: Their maps differ.
    """
    here = [row for row in rows if row["case"] == case]
    if len({row["maps_sha256"] for row in here}) != 1:
        raise SystemExit(f"{case}: the maps differ")
    figures: Row = {}
    for kind in KINDS:
        for name in ("work_seconds", "start_up_seconds", "seconds"):
            values = [row[name] for row in here if row["kind"] == kind]
            figures[f"{kind}_{name}"] = median(values)
    for name in ("work_seconds", "seconds"):
        figures[f"{name}_ratio"] = figures[f"workers_{name}"] / figures[f"plain_{name}"]
    return figures


def markdown(figures: dict[str, Row], size: Size) -> str:
    import common

    what = {
        CASES[0]: f"{size.rows:,} x {COLS:,} px, {BANDS} bands, in parts",
        CASES[1]: f"{size.scenes:,} of {SMALL} x {SMALL} px, {BANDS} bands",
    }
    heads = ["", "threads, s", "workers, s", "ratio", "start-up, s", "ratio with it"]
    lines = [f"{size.method}, {size.threads} threads and {size.threads} workers.", ""]
    lines += common.table_head(heads)
    for case, row in figures.items():
        cells = [
            what[case],
            f"{row['plain_work_seconds']:.1f}",
            f"{row['workers_work_seconds']:.1f}",
            f"{row['work_seconds_ratio']:.2f}",
            f"{row['plain_start_up_seconds']:.1f}, "
            f"{row['workers_start_up_seconds']:.1f}",
            f"{row['seconds_ratio']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", common.machine_text(), ""])


@click.command()
@click.option("--rows", default=4000, help="Of the one scene.")
@click.option("--scenes", default=1000, help="Of the list.")
@click.option("--threads", default=2, help="And workers.")
@click.option("--method", default=METHOD)
@click.option("--rounds", default=3)
@click.option("--only", type=click.Choice(CASES))
@click.option("--folder", type=click.Path(path_type=Path), default="build/many_workers")
@click.option("--save/--no-save", default=True, help="Keep the figures.")
@click.option("--child", type=(click.Choice(CASES), click.Choice(KINDS)), hidden=True)
def main(
    rows: int,
    scenes: int,
    threads: int,
    method: str,
    rounds: int,
    only: str | None,
    folder: Path,
    save: bool,
    child: tuple[str, str] | None,
) -> None:
    size = Size(rows, scenes, threads, method)
    if child is not None:
        print(json.dumps(run_child(folder, size, *child)))
        return
    import code_digest
    import common

    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder, size)
    code = code_digest.of("hsi_runtime.api")
    kept = folder / "measured.jsonl"
    cases = [only] if only else CASES
    for number in range(rounds):
        for case in cases:
            for kind in KINDS[:: 1 if number % 2 == 0 else -1]:
                key = {"case": case, "kind": kind, "round": number, "size": [*size]}
                key["code"] = code["sha256"]
                if not any(
                    key.items() <= row.items() for row in common.read_lines(kept)
                ):
                    row = {**key, **measure(folder, size, case, kind)}
                    common.add_line(kept, row, list(key))
    measured = [
        row
        for row in common.read_lines(kept)
        if row["size"] == [*size] and row["code"] == code["sha256"]
    ]
    figures = {case: compared(measured, case) for case in cases}
    text = markdown(figures, size)
    print(text)
    if save and only is None:
        common.report("many_workers", {"size": size._asdict(), **figures}, code)
        (common.RESULTS / "many_workers.md").write_text(text)


if __name__ == "__main__":
    main()

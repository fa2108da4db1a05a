"""How fast is hsi-run on the files that users have, against loops they would write?

    python benchmarks/peers.py --old ../hsi-edge-before

The same model classifies the same scene in processes that take turns: hsi-run of this
checkout, that of an older one (`--old`, with its own model of the method), a plain loop
over rasterio's blocks, and rioxarray with dask's map_overlap (`--peers PYTHON`, an
interpreter that has both and onnxruntime). Processor time of the whole process counts,
because it holds on a busy machine; wall time is beside it. Scenes are simulated, 200
bands of uint16: a deflated GeoTIFF in tiles of 512, band- and pixel-interleaved, an
uncompressed one, a BIL file, and a list of small scenes (hsi-run only). Finished runs
are kept in `--folder`.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import code_digest
import common
import numpy as np
import rasterio
from rasterio.windows import Window

from hsi_runtime.model.model_file import ModelFile, read_model
from hsi_train.simulate import SceneSpec, band_centres, write_scene

BANDS, CLASSES, BLOCK = 200, 16, 512
ROWS, COLS, SMALL_SIDE, SMALL_SCENES = 768, 1536, 147, 24
RUN = "from hsi_runtime.cli import main; main()"
MAKE = (
    "import pathlib, sys, common; common.make_model(pathlib.Path(sys.argv[1]), "
    "sys.argv[2], *map(int, sys.argv[3:]))"
)
LOOPS = Path(__file__).with_name("peer_loops.py")
ROOT = Path(__file__).parents[1]

Run = dict[str, Any]


def tiled(source: Path, path: Path, interleave: str, compress: str | None) -> Path:
    """Rewrite a scene in tiles of 512, with its tags."""
    with rasterio.open(source) as old:
        profile = old.profile | {"blockxsize": BLOCK, "blockysize": BLOCK}
        profile |= {"interleave": interleave, "compress": compress}
        profile |= {"predictor": 2} if compress else {}
        with rasterio.open(path, "w", **profile) as new:
            new.scales = old.scales
            for band in old.indexes:
                new.set_band_description(band, old.descriptions[band - 1])
                new.update_tags(band, **old.tags(band))
            for row in range(0, old.height, BLOCK):
                for col in range(0, old.width, BLOCK):
                    tall, wide = (
                        min(BLOCK, old.height - row),
                        min(BLOCK, old.width - col),
                    )
                    place = Window(col, row, wide, tall)
                    new.write(old.read(window=place), window=place)
    return path


def scenes(folder: Path, rows: int, cols: int) -> dict[str, Path]:
    """Simulate what is not there yet; name each file by its layout."""
    spec = SceneSpec(rows=rows, cols=cols, wavelengths_nm=band_centres(BANDS))
    plain, bil = folder / "plain.tif", folder / "scene.bil"
    if not bil.is_file():
        write_scene(spec, plain)
        write_scene(spec, bil, layout="bil")
    made = {"BIL": bil}
    for name, interleave, compress in (
        ("deflate, band", "band", "deflate"),
        ("deflate, pixel", "pixel", "deflate"),
        ("uncompressed, pixel", "pixel", None),
    ):
        path = folder / f"{interleave}-{compress}.tif"
        made[name] = (
            path if path.is_file() else tiled(plain, path, interleave, compress)
        )
    return made


def small_scenes(folder: Path, many: int, side: int) -> Path:
    """Simulate small scenes; return the list of them."""
    listed = folder / "small.txt"
    if not listed.is_file():
        for number in range(many):
            spec = SceneSpec(
                rows=side,
                cols=side,
                wavelengths_nm=band_centres(BANDS),
                origin_row=number * side,
            )
            write_scene(spec, folder / f"small-{number}.tif")
        names = (f"small-{number}.tif" for number in range(many))
        listed.write_text("\n".join(names), encoding="utf-8")
    return listed


def measured(command: Sequence[str], environment: dict[str, str]) -> Run:
    """Run a process; return its processor time, wall time and peak memory."""
    started = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    process.stdout.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    report = json.loads(printed)
    # Not that of `usage`, which counts the process that started this one, too.
    memory = report.get("summary", report)["peak_memory_bytes"]
    result: Run = {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "wall_seconds": wall,
        "peak_memory_bytes": memory,
    }
    if "decoded_bytes" in report:
        ratio = report["decoded_bytes"] / report["source_bytes"]
        result["decoded_over_source"] = ratio
    return result


def old_model(checkout: Path, place: Path, method: str) -> Path:
    """Export a method by the code of a checkout, whose runtime may read no other."""
    path = place / "model.onnx"
    if not path.is_file():
        place.mkdir(parents=True, exist_ok=True)
        numbers = map(str, (BANDS, CLASSES, 400, 2500))
        command = [sys.executable, "-c", MAKE, str(place), method, *numbers]
        subprocess.run(command, env=common.code_of(checkout, "benchmarks"), check=True)
    return path


def hsi_run(checkout: Path, model: Path, scene: Path, output: Path) -> Run:
    """Map a scene, or a list of them into a folder, with the code of a checkout."""
    command = [sys.executable, "-c", RUN, str(scene), "-m", str(model), "-q"]
    command += ["-o", str(output), "--json", "--overwrite", "--no-resume"]
    return measured(command, common.code_of(checkout))


def loop(python: str, kind: str, model: ModelFile, scene: Path, output: Path) -> Run:
    """Map a scene with a loop of `peer_loops`."""
    halo = str(model.document.halo)
    command = [python, str(LOOPS), kind, str(scene), str(model.path), halo, str(output)]
    return measured(command, dict(os.environ))


def versions(
    model: Path, output: Path, old: Path | None, before: Path | None
) -> dict[str, Callable[[Path], Run]]:
    """Name hsi-run of this checkout and, if it is given, of an older one."""
    made: dict[str, Callable[[Path], Run]] = {
        "hsi-run": lambda scene: hsi_run(ROOT, model, scene, output)
    }
    if old is not None and before is not None:
        made["before"] = lambda scene: hsi_run(old, before, scene, output)
    return made


def contestants(
    model: ModelFile,
    folder: Path,
    old: Path | None,
    before: Path | None,
    peers: str | None,
) -> dict[str, Callable[[Path], Run]]:
    """Name what takes turns on a scene."""
    output = folder / "map.tif"
    made = versions(model.path, output, old, before)
    made["rasterio"] = lambda s: loop(sys.executable, "rasterio", model, s, output)
    if peers is not None:
        made["rioxarray + dask"] = lambda s: loop(peers, "dask", model, s, output)
    return made


def measure(
    cases: dict[str, Path],
    runners: dict[str, Callable[[Path], Run]],
    journal: Path,
    rounds: int,
) -> list[Run]:
    """Let all take turns on each scene; finished runs are not repeated."""
    lines = common.read_lines(journal)
    for number in range(rounds):
        for case, scene in cases.items():
            for name in list(runners)[:: -1 if number % 2 else 1]:
                run = {"case": case, "runner": name, "round": number}
                if any(line.items() >= run.items() for line in lines):
                    continue
                with scene.open("rb") as file:  # into the file cache
                    while file.read(2**23):
                        pass
                lines.append(run | runners[name](scene))
                journal.write_text("".join(json.dumps(x) + "\n" for x in lines))
                print(lines[-1], flush=True)
    return lines


def summary(runs: Sequence[Run]) -> list[Run]:
    """Sum up each scene and runner: medians, and processor time over hsi-run's."""
    cases = list(dict.fromkeys(run["case"] for run in runs))
    rows = []
    for case in cases:
        here = [run for run in runs if run["case"] == case]
        ours = {r["round"]: r["cpu_seconds"] for r in here if r["runner"] == "hsi-run"}
        for name in dict.fromkeys(run["runner"] for run in here):
            members = [run for run in here if run["runner"] == name]
            ratios = [
                run["cpu_seconds"] / ours[run["round"]]
                for run in members
                if run["round"] in ours
            ]
            rows.append(
                {
                    "case": case,
                    "runner": name,
                    "rounds": len(members),
                    "cpu_over_hsi_run": round(statistics.median(ratios), 2),
                    "cpu_over_hsi_run_range": [round(f(ratios), 2) for f in (min, max)],
                    **{
                        key: float(f"{np.median([m[key] for m in members]):.4g}")
                        for key in ("cpu_seconds", "wall_seconds", "peak_memory_bytes")
                    },
                }
            )
    return rows


def markdown(rows: Sequence[Run]) -> str:
    """Lay out the summary."""
    head = ["scene", "program", "processor s", "over hsi-run (range)", "wall s", "MB"]
    lines = common.table_head(head)
    for row in rows:
        low, high = row["cpu_over_hsi_run_range"]
        cells = [
            *(row["case"], row["runner"], f"{row['cpu_seconds']:.2f}"),
            f"{row['cpu_over_hsi_run']} ({low}-{high})",
            *(f"{row['wall_seconds']:.2f}", f"{row['peak_memory_bytes'] / 1e6:.0f}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\n{common.machine_text()}\n"


@click.command()
@click.option("--method", default="s2vnet", show_default=True)
@click.option("--old", type=click.Path(path_type=Path), help="An older checkout.")
@click.option("--peers", help="An interpreter with rioxarray, dask and onnxruntime.")
@click.option("--rounds", default=3)
@click.option("--folder", type=click.Path(path_type=Path), default="build/peers")
@click.option("--quick", is_flag=True, help="Small scenes, one round; only prints.")
def main(
    method: str,
    old: Path | None,
    peers: str | None,
    rounds: int,
    folder: Path,
    quick: bool,
) -> None:
    folder = folder / "quick" if quick else folder
    rows, cols, many = (96, 192, 3) if quick else (ROWS, COLS, SMALL_SCENES)
    place = folder / method
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "model.onnx").is_file():
        common.make_model(place, method, BANDS, CLASSES, 400, 2500)
    model = read_model(place / "model.onnx")
    before = None if old is None else old_model(old, place / "before", method)
    runners = contestants(model, folder, old, before, peers)
    journal = folder / f"{method}.jsonl"
    rounds = 1 if quick else rounds
    measure(scenes(folder, rows, cols), runners, journal, rounds)
    listed = {f"{many} small scenes": small_scenes(folder, many, SMALL_SIDE)}
    maps = folder / "maps"
    maps.mkdir(exist_ok=True)
    ours = versions(model.path, maps, old, before)
    compared = summary(measure(listed, ours, journal, rounds))
    text = markdown(compared)
    if quick:
        print(text)
        return
    figures = {"method": method, "cases": compared}
    common.report(f"peers_{method}", figures, code_digest.of_running(method))
    heading = f"## {method}\n\n"
    (common.RESULTS / f"peers_{method}.md").write_text(heading + text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
